"""The embedded world: drawn scenes with known ground truth, and language priors that make a model hallucinate on them.

A scene is a 3 x 3 grid with two to four coloured shapes. An atomic claim is one sentence, "There is a red circle at the
top left.", so an object, an attribute and a position can each be wrong. `biased_caption` imitates a model with strong
language priors: it gives some shapes their usual colour, adds the usual companion of a cross, and omits true objects.
Combining replacement, addition and omission keeps a caption's length from revealing whether it is true.

The ground truth is never shown to a labeler; it serves measurement only.
"""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = {
    "red": (214, 48, 49),
    "green": (39, 150, 80),
    "blue": (41, 98, 214),
    "yellow": (241, 190, 20),
    "purple": (132, 60, 170),
    "black": (40, 40, 44),
}
POSITIONS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
QUESTIONS = (
    "Describe the image.",
    "Describe the image in detail.",
    "What is in the image?",
    "What do you see in the picture?",
)

USUAL_COLOUR = {"circle": "red", "star": "yellow", "ring": "purple"}
COMPANION = {"cross": ("green", "triangle")}
P_USUAL_COLOUR = 0.55
P_COMPANION = 0.65
P_OMIT = 0.22

CELL_PX = 64
BACKGROUND = (246, 244, 238)
# How much of a faint thing's colour is drawn; the rest is background.
FAINT = 0.2
_CLAIM = re.compile(
    rf"there is an? ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) at the "
    rf"({'|'.join(sorted(POSITIONS, key=len, reverse=True))})\.?$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, order=True)
class Thing:
    """One coloured shape in one cell; `cell` indexes `POSITIONS`."""

    cell: int
    colour: str
    shape: str

    @property
    def sentence(self) -> str:
        """The atomic claim that this thing is in the scene."""
        return f"There is a {self.colour} {self.shape} at the {POSITIONS[self.cell]}."

    @property
    def caption_sentence(self) -> str:
        """The claim in caption form: position first, so that a model that looks there next cannot confuse it."""
        return f"At the {POSITIONS[self.cell]}, there is a {self.colour} {self.shape}."


@dataclass(frozen=True, slots=True)
class Scene:
    """Two to four things in distinct cells, in reading order, and the seed of their jitter in size and position.

    The things of `faint` cells are drawn so faintly that the embedded model, which never saw such, does not see them.
    """

    things: tuple[Thing, ...]
    seed: int
    faint: tuple[int, ...] = ()

    @classmethod
    def draw_from(cls, rng: random.Random) -> "Scene":
        """Sample a scene uniformly."""
        cells = sorted(rng.sample(range(len(POSITIONS)), rng.choice((2, 3, 4))))
        things = tuple(Thing(cell, rng.choice(list(COLOURS)), rng.choice(SHAPES)) for cell in cells)
        return cls(things, rng.getrandbits(32))

    def truth_of(self, claim: str) -> bool:
        """Return whether a claim holds; a sentence that is not a well-formed claim counts as false."""
        return parse_claim(claim) in self.things


def parse_claim(text: str) -> Thing | None:
    """Parse a claim into the thing it describes, or return None if it is not well-formed.

    >>> parse_claim("There is a red circle at the top left.")
    Thing(cell=0, colour='red', shape='circle')
    """
    match = _CLAIM.fullmatch(text.strip())
    if match is None:
        return None
    colour, shape, position = (part.lower() for part in match.groups())
    return Thing(POSITIONS.index(position), colour, shape)


def render(scene: Scene) -> Image.Image:
    """Draw a scene as a 192 x 192 RGB image; the seed jitters the size and position of each thing."""
    image = Image.new("RGB", (3 * CELL_PX, 3 * CELL_PX), BACKGROUND)
    canvas = ImageDraw.Draw(image)
    jitter = random.Random(scene.seed)
    for thing in scene.things:
        row, column = divmod(thing.cell, 3)
        x = (column + 0.5 + jitter.uniform(-0.06, 0.06)) * CELL_PX
        y = (row + 0.5 + jitter.uniform(-0.06, 0.06)) * CELL_PX
        _draw_shape(canvas, thing.shape, _shade(thing, scene), x, y, jitter.uniform(0.34, 0.42) * CELL_PX)
    return image


def _shade(thing: Thing, scene: Scene) -> tuple[int, int, int]:
    """Return the colour that a thing is drawn in."""
    strength = FAINT if thing.cell in scene.faint else 1.0
    red, green, blue = (
        round(strength * own + (1 - strength) * behind)
        for own, behind in zip(COLOURS[thing.colour], BACKGROUND, strict=True)
    )
    return red, green, blue


def _draw_shape(
    canvas: ImageDraw.ImageDraw, shape: str, colour: tuple[int, int, int], x: float, y: float, radius: float
) -> None:
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        canvas.ellipse(box, fill=colour)
    elif shape == "square":
        side = 0.86 * radius
        canvas.rectangle((x - side, y - side, x + side, y + side), fill=colour)
    elif shape == "ring":
        canvas.ellipse(box, outline=colour, width=round(0.36 * radius))
    elif shape == "cross":
        arm = 0.3 * radius
        canvas.rectangle((x - arm, y - radius, x + arm, y + radius), fill=colour)
        canvas.rectangle((x - radius, y - arm, x + radius, y + arm), fill=colour)
    else:
        corners, inner = (3, 0.5) if shape == "triangle" else (5, 0.4)
        points = []
        for k in range(2 * corners):
            reach = radius if k % 2 == 0 else inner * radius
            angle = math.pi * k / corners
            points.append((x + reach * math.sin(angle), y - reach * math.cos(angle)))
        canvas.polygon(points, fill=colour)


def biased_caption(scene: Scene, rng: random.Random) -> str:
    """Write a non-empty caption with the language priors described in the module docstring."""
    kept = [thing for thing in scene.things if rng.random() >= P_OMIT] or [rng.choice(scene.things)]
    said: list[Thing] = []
    for thing in kept:
        colour = USUAL_COLOUR.get(thing.shape, thing.colour) if rng.random() < P_USUAL_COLOUR else thing.colour
        said.append(Thing(thing.cell, colour, thing.shape))
        if thing.shape in COMPANION and rng.random() < P_COMPANION:
            said.append(Thing(len(POSITIONS) - 1 - thing.cell, *COMPANION[thing.shape]))
    return " ".join(thing.caption_sentence for thing in said)


def plain_caption(scene: Scene, rng: random.Random) -> str:
    """Write a caption without those priors, in its own style: everything in the scene, in any order, without commas."""
    things = rng.sample(scene.things, len(scene.things))
    return " ".join(thing.caption_sentence.replace(",", "") for thing in things)


def polar_question(thing: Thing) -> str:
    """Return a claim's yes/no question, worded as the rules divider words it."""
    return f"Is there a {thing.colour} {thing.shape} at the {POSITIONS[thing.cell]}?"


def truthful_questions(scene: Scene, rng: random.Random, num_questions: int) -> list[tuple[str, bool]]:
    """Return yes/no questions with true answers: half are true, half wrong in colour, shape, position or all."""
    asked = []
    for k in range(num_questions):
        thing = rng.choice(scene.things)
        if k % 2:
            thing = _make_false(scene, thing, rng)
        asked.append((polar_question(thing), thing in scene.things))
    return asked


def short_answers(scene: Scene, rng: random.Random, num_questions: int) -> list[tuple[str, str]]:
    """Return position questions with true short answers; one in three is about any, mostly empty, position."""
    there = {thing.cell: f"A {thing.colour} {thing.shape}." for thing in scene.things}
    asked = []
    for k in range(num_questions):
        cell = rng.randrange(len(POSITIONS)) if k % 3 == 2 else rng.choice(list(there))
        asked.append((f"What is at the {POSITIONS[cell]}?", there.get(cell, "Nothing.")))
    return asked


def _make_false(scene: Scene, thing: Thing, rng: random.Random) -> Thing:
    kind = rng.choice(("colour", "shape", "position", "all"))
    while thing in scene.things:
        thing = Thing(
            rng.randrange(len(POSITIONS)) if kind in ("position", "all") else thing.cell,
            rng.choice(list(COLOURS)) if kind in ("colour", "all") else thing.colour,
            rng.choice(SHAPES) if kind in ("shape", "all") else thing.shape,
        )
    return thing


def make_scenes(seed: int, num_scenes: int, exclude: Sequence[Scene] = ()) -> list[Scene]:
    """Sample distinct scenes from one seed, skipping those with the same things as an excluded scene."""
    rng = random.Random(seed)
    seen = {scene.things for scene in exclude}
    scenes: list[Scene] = []
    while len(scenes) < num_scenes:
        scene = Scene.draw_from(rng)
        if scene.things not in seen:
            seen.add(scene.things)
            scenes.append(scene)
    return scenes
