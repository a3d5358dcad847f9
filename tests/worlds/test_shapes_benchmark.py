"""What the benchmarks would ask about drawn scenes: balance, truth, and how absent objects are chosen."""

from collections import Counter

import pytest

from rlaifv.worlds.shapes import COLOURS, Scene, Thing, make_scenes, parse_claim
from rlaifv.worlds.shapes_benchmark import (
    NUM_ASKED,
    OBJECTS,
    benchmark_questions,
    likely_objects,
    objects_named,
    objects_of,
)

TOP, LEFT, CENTER = 1, 3, 4
SCENES = {f"s{k:03d}": scene for k, scene in enumerate(make_scenes(5, 90))}


def scene_of(*things: Thing) -> Scene:
    return Scene(things, seed=0)


def thing_asked_for(text: str) -> Thing:
    thing = parse_claim("There is" + text.removeprefix("Is there").replace("?", "."))
    assert thing is not None
    return thing


def test_an_object_has_one_name_however_often_it_is_there() -> None:
    twice = scene_of(Thing(TOP, "red", "circle"), Thing(LEFT, "blue", "ring"), Thing(CENTER, "red", "circle"))
    assert objects_of(twice) == ["red circle", "blue ring"]


def test_objects_are_read_wherever_they_are_said_to_be_and_whatever_else_is_said() -> None:
    text = (
        "At the top, there is a Red circle. There is a red circle, a ring and a pink star. Greenred cross: green cross"
    )
    assert objects_named(text) == ["red circle", "red circle", "green cross"]
    assert objects_named("") == []


def test_language_suggests_usual_colours_and_companions_that_are_not_there() -> None:
    scene = scene_of(Thing(TOP, "blue", "circle"), Thing(LEFT, "yellow", "star"), Thing(CENTER, "black", "cross"))
    assert likely_objects(scene) == ["red circle", "green triangle"]
    assert likely_objects(scene_of(Thing(TOP, "red", "circle"), Thing(LEFT, "black", "square"))) == []


def test_answers_to_questions_are_true() -> None:
    for question in benchmark_questions(SCENES):
        scene = SCENES[question.prompt_id]
        thing = thing_asked_for(question.text)
        assert question.is_true == (thing in scene.things)
        assert question.object_name == f"{thing.colour} {thing.shape}"


@pytest.mark.parametrize("split", ["pope/random", "pope/popular", "pope/adversarial"])
def test_a_split_asks_for_as_many_absent_objects_as_present_ones_in_their_places(split: str) -> None:
    asked = [question for question in benchmark_questions(SCENES) if question.kind == split]
    for prompt_id in list(SCENES)[:NUM_ASKED]:
        present = objects_of(SCENES[prompt_id])
        mine = [question for question in asked if question.prompt_id == prompt_id]
        yes = [question.object_name for question in mine if question.is_true]
        no = [question.object_name for question in mine if not question.is_true]
        assert len(yes) == len(set(yes)) == len(set(no)) == len(no) == min(3, len(present))
        assert set(yes) <= set(present)
        assert not set(no) & set(present)
        cells = [thing_asked_for(question.text).cell for question in mine]
        assert cells[0::2] == cells[1::2]


def test_only_the_first_scenes_are_asked_about_but_all_of_them_are_counted() -> None:
    assert {question.prompt_id for question in benchmark_questions(SCENES)} == set(list(SCENES)[:NUM_ASKED])
    first = {"first": scene_of(Thing(TOP, "red", "circle"), Thing(LEFT, "black", "ring"))}
    others = {f"other{k}": scene_of(Thing(TOP, "green", "star"), Thing(LEFT, "blue", "cross")) for k in range(2)}
    popular = [
        question.object_name
        for question in benchmark_questions({**first, **others}, num_asked=1)
        if question.kind == "pope/popular" and not question.is_true
    ]
    assert popular == ["green star", "blue cross"]


def test_popular_objects_are_frequent_and_adversarial_ones_come_with_what_is_there() -> None:
    ring, circle, star, cross = ("black ring", "red circle", "green star", "blue cross")
    pairs = [(ring, circle), (circle, star), (star, cross), (star, cross)]
    scenes = {
        f"s{k}": scene_of(*(Thing(cell, *name.split()) for cell, name in zip((TOP, LEFT), pair, strict=True)))
        for k, pair in enumerate(pairs)
    }
    absent: dict[str, list[str]] = {}
    for question in benchmark_questions(scenes, num_asked=1):
        if not question.is_true:
            absent.setdefault(question.kind, []).append(question.object_name)
    # The stars come three times, the crosses twice; beside a circle there was one star and never a cross.
    assert absent["pope/popular"] == ["green star", "blue cross"]
    assert absent["pope/adversarial"][0] == "green star"
    # Two crosses more, in scenes with the same ring: now they come more often with what is there.
    scenes["s4"] = scene_of(Thing(TOP, "black", "ring"), Thing(LEFT, "blue", "cross"))
    scenes["s5"] = scene_of(Thing(TOP, "black", "ring"), Thing(LEFT, "blue", "cross"))
    adversarial = [
        question.object_name
        for question in benchmark_questions(scenes, num_asked=1)
        if question.kind == "pope/adversarial" and not question.is_true
    ]
    assert adversarial == ["blue cross", "green star"]


def test_amber_like_questions_err_in_object_colour_or_place() -> None:
    counts = Counter((question.kind, question.is_true) for question in benchmark_questions(SCENES))
    wanted = {("amber/existence", False): 1, ("amber/attribute", True): 1, ("amber/attribute", False): 1}
    wanted |= {("amber/relation", True): 1, ("amber/relation", False): 1}
    assert {kind: count for kind, count in counts.items() if kind[0].startswith("amber/")} == {
        kind: count * NUM_ASKED for kind, count in wanted.items()
    }
    for question in benchmark_questions(SCENES):
        things, asked = SCENES[question.prompt_id].things, thing_asked_for(question.text)
        if question.kind == "amber/existence":
            assert asked.shape not in {thing.shape for thing in things}
        elif question.kind == "amber/attribute" and not question.is_true:
            assert any((thing.cell, thing.shape) == (asked.cell, asked.shape) for thing in things)
        elif question.kind == "amber/relation" and not question.is_true:
            assert question.object_name in objects_of(SCENES[question.prompt_id])
            assert asked.cell not in {thing.cell for thing in things}


def test_equal_scenes_are_asked_the_same_questions() -> None:
    assert benchmark_questions(SCENES) == benchmark_questions(dict(SCENES))
    assert len(OBJECTS) == 6 * len(COLOURS) == len(set(OBJECTS))
