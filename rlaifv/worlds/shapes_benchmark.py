"""Questions like those of POPE and AMBER about drawn scenes, and objects named in answers.

The small model was taught one form of yes/no question, "Is there a red circle at the top left?", so every question has it:
an absent object is asked for where another one is, which keeps the place from telling the answer. In a POPE-like split the
absent objects are drawn (random), the most frequent ones of all scenes (popular), or those that come most often with what
is there (adversarial); AMBER-like questions are wrong about the object (existence, always), its colour (attribute) or its
place (relation). POPE: arXiv 2305.10355, section 5; AMBER: arXiv 2311.07397.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations

from rlaifv.metrics.truth import BenchmarkQuestion
from rlaifv.runtime.seeds import derive_seed
from rlaifv.worlds.shapes import COLOURS, COMPANION, POSITIONS, SHAPES, USUAL_COLOUR, Scene, Thing, polar_question

NUM_ASKED = 48  # scenes, the first ones; the absent objects' ranks are over all
MOST_OBJECTS = 3  # of a scene in a split, present and absent each
OBJECTS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
_NAMED = re.compile(rf"\b(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})\b", re.IGNORECASE)


def objects_of(scene: Scene) -> list[str]:
    """Return names of a scene's objects, colour and shape, each once, in reading order."""
    return list(dict.fromkeys(_name(thing) for thing in scene.things))


def objects_named(text: str) -> list[str]:
    """Return names of the objects that an answer speaks of, repeated as it repeats them, whatever it says of their place.

    >>> objects_named("At the top, there is a Red circle. At the left, there is a black ring.")
    ['red circle', 'black ring']
    """
    return [match.group().lower() for match in _NAMED.finditer(text)]


def likely_objects(scene: Scene) -> list[str]:
    """Absent objects that the captions' language priors suggest: usual colours of shapes that are there, and companions."""
    suggested = [f"{USUAL_COLOUR[thing.shape]} {thing.shape}" for thing in scene.things if thing.shape in USUAL_COLOUR]
    suggested += [" ".join(COMPANION[thing.shape]) for thing in scene.things if thing.shape in COMPANION]
    present = objects_of(scene)
    return [name for name in dict.fromkeys(suggested) if name not in present]


def benchmark_questions(scenes: Mapping[str, Scene], num_asked: int = NUM_ASKED) -> list[BenchmarkQuestion]:
    """Return POPE-like and AMBER-like questions about the first `num_asked` scenes, by prompt id; equal for equal scenes.

    Every POPE-like split has as many questions to be answered with yes as with no, and the splits share the former.
    """
    present = {prompt_id: objects_of(scene) for prompt_id, scene in scenes.items()}
    frequency = Counter(name for names in present.values() for name in names)
    together: Counter[tuple[str, str]] = Counter()
    for names in present.values():
        together.update(permutations(names, 2))
    asked: list[BenchmarkQuestion] = []
    for prompt_id, scene in list(scenes.items())[:num_asked]:
        rng = random.Random(derive_seed("shapes benchmark", prompt_id))
        names = rng.sample(present[prompt_id], min(MOST_OBJECTS, len(present[prompt_id])))
        absent = [name for name in OBJECTS if name not in present[prompt_id]]
        ranked = {
            "random": rng.sample(absent, len(absent)),
            "popular": sorted(absent, key=lambda name: -frequency[name]),
            "adversarial": sorted(
                absent,
                key=lambda name: (-sum(together[there, name] for there in present[prompt_id]), -frequency[name]),
            ),
        }
        for split, order in ranked.items():
            asked += _pope(prompt_id, scene, f"pope/{split}", names, order[: len(names)])
        asked += _amber(prompt_id, scene, rng)
    return asked


def _pope(
    prompt_id: str, scene: Scene, kind: str, there: Sequence[str], absent: Sequence[str]
) -> list[BenchmarkQuestion]:
    places = {_name(thing): thing.cell for thing in reversed(scene.things)}
    asked = []
    for name, other in zip(there, absent, strict=True):
        asked.append(BenchmarkQuestion(prompt_id, kind, polar_question(_thing(name, places[name])), name, True))
        asked.append(BenchmarkQuestion(prompt_id, kind, polar_question(_thing(other, places[name])), other, False))
    return asked


def _amber(prompt_id: str, scene: Scene, rng: random.Random) -> list[BenchmarkQuestion]:
    """One question about existence, two about an attribute and two about a relation, all about one thing or its place."""
    thing = rng.choice(scene.things)
    shapes = [shape for shape in SHAPES if shape not in {one.shape for one in scene.things}]
    colours = [colour for colour in COLOURS if colour != thing.colour]
    empty = [cell for cell in range(len(POSITIONS)) if cell not in {one.cell for one in scene.things}]
    things = (
        ("existence", Thing(thing.cell, rng.choice(list(COLOURS)), rng.choice(shapes))),
        ("attribute", thing),
        ("attribute", Thing(thing.cell, rng.choice(colours), thing.shape)),
        ("relation", thing),
        ("relation", Thing(rng.choice(empty), thing.colour, thing.shape)),
    )
    return [
        BenchmarkQuestion(prompt_id, f"amber/{kind}", polar_question(one), _name(one), one in scene.things)
        for kind, one in things
    ]


def _name(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}"


def _thing(name: str, cell: int) -> Thing:
    colour, shape = name.split()
    return Thing(cell, colour, shape)
