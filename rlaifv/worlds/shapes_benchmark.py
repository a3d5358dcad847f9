"""Benchmark questions about drawn scenes in the manner of POPE and AMBER, and the objects that answers mention.

The small model knows one form of yes/no question, "Is there a red circle at the top left?", so every question uses it.
An absent object is asked about at the position of a present one, so that the position does not reveal the answer. In
POPE-like splits the absent objects are sampled (random), the most frequent over all scenes (popular), or those that
most often co-occur with the present objects (adversarial). AMBER-like questions are wrong about the object (existence,
always), its colour (attribute) or its position (relation). POPE: arXiv 2305.10355, section 5; AMBER: arXiv 2311.07397.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations

from rlaifv.metrics.truth import BenchmarkQuestion
from rlaifv.runtime.seeds import derive_seed
from rlaifv.worlds.shapes import COLOURS, COMPANION, POSITIONS, SHAPES, USUAL_COLOUR, Scene, Thing, polar_question

NUM_ASKED = 48  # leading scenes asked about; absent objects are ranked over all scenes
MOST_OBJECTS = 3  # limit per scene and split, for present and absent objects each
OBJECTS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
_NAMED = re.compile(rf"\b(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})\b", re.IGNORECASE)


def objects_of(scene: Scene) -> list[str]:
    """Return the names (colour and shape) of a scene's objects, without repetition, in reading order."""
    return list(dict.fromkeys(_name(thing) for thing in scene.things))


def objects_named(text: str) -> list[str]:
    """Return the names of the objects that an answer mentions, with repetitions and regardless of position.

    >>> objects_named("At the top, there is a Red circle. At the left, there is a black ring.")
    ['red circle', 'black ring']
    """
    return [match.group().lower() for match in _NAMED.finditer(text)]


def likely_objects(scene: Scene) -> list[str]:
    """Return absent objects that the caption priors suggest: present shapes in their usual colours, and companions."""
    suggested = [f"{USUAL_COLOUR[thing.shape]} {thing.shape}" for thing in scene.things if thing.shape in USUAL_COLOUR]
    suggested += [" ".join(COMPANION[thing.shape]) for thing in scene.things if thing.shape in COMPANION]
    present = objects_of(scene)
    return [name for name in dict.fromkeys(suggested) if name not in present]


def benchmark_questions(scenes: Mapping[str, Scene], num_asked: int = NUM_ASKED) -> list[BenchmarkQuestion]:
    """Build POPE-like and AMBER-like questions about the first `num_asked` scenes, keyed by prompt id; deterministic.

    Every POPE-like split is balanced between yes and no, and all splits share the questions whose answer is yes.
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
    """Build one existence, two attribute and two relation questions, all about one thing or its position."""
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
