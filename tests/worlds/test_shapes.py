"""Drawn scenes: what is true of them, what is said of them, and what they look like."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaifv.stages.dividers.rules import to_claims
from rlaifv.worlds.shapes import (
    BACKGROUND,
    CELL_PX,
    COLOURS,
    COMPANION,
    P_COMPANION,
    P_OMIT,
    P_USUAL_COLOUR,
    POSITIONS,
    SHAPES,
    USUAL_COLOUR,
    Scene,
    Thing,
    biased_caption,
    make_scenes,
    parse_claim,
    polar_question,
    render,
    short_answers,
    truthful_questions,
)

THINGS = [Thing(cell, colour, shape) for cell in range(9) for colour in COLOURS for shape in SHAPES]
SCENES = make_scenes(3, 400)


def said_things(caption: str) -> list[Thing]:
    things = [parse_claim(claim) for claim in to_claims(caption)]
    assert None not in things
    return [thing for thing in things if thing is not None]


def test_parsing_inverts_every_sentence() -> None:
    assert len({thing.sentence for thing in THINGS}) == len(THINGS) == 9 * 6 * 6
    for thing in THINGS:
        for text in (thing.sentence, f"  {thing.sentence.upper()}\n", thing.sentence.removesuffix(".")):
            assert parse_claim(text) == thing


@pytest.mark.parametrize(
    "text",
    [
        "",
        "There is a red circle.",
        "There is a red circle at the top left. It is big.",
        "There is a pink circle at the top left.",
        "There is a red hexagon at the top left.",
        "There is a red circle at the top  left.",
        "There is a red circle at the topmost left.",
        "There is no red circle at the top left.",
        "Is there a red circle at the top left?",
        "Well, there is a red circle at the top left.",
    ],
)
def test_what_has_another_form_is_no_claim(text: str) -> None:
    assert parse_claim(text) is None
    assert not SCENES[0].truth_of(text)


def test_exactly_the_sentences_of_its_things_are_true() -> None:
    for scene in SCENES[:50]:
        assert {thing for thing in THINGS if scene.truth_of(thing.sentence)} == set(scene.things)


def test_scenes_are_of_the_described_kind() -> None:
    sizes = Counter(len(scene.things) for scene in SCENES)
    assert sizes.keys() == {2, 3, 4}
    assert min(sizes.values()) > 100
    for scene in SCENES:
        assert all(a.cell < b.cell for a, b in pairwise(scene.things))
    for attribute, number in (("cell", 9), ("colour", 6), ("shape", 6)):
        counts = Counter(getattr(thing, attribute) for scene in SCENES for thing in scene.things)
        assert len(counts) == number
        assert max(counts.values()) < 1.5 * min(counts.values())


@settings(deadline=None)
@given(seed=st.integers(0, 10), num_scenes=st.integers(0, 40), num_excluded=st.integers(0, 40))
def test_scenes_are_distinct_and_none_is_excluded(seed: int, num_scenes: int, num_excluded: int) -> None:
    excluded = make_scenes(seed, num_excluded)  # the same seed: all would come again
    scenes = make_scenes(seed, num_scenes, exclude=excluded)
    assert len({scene.things for scene in scenes}) == num_scenes
    assert not {scene.things for scene in scenes} & {scene.things for scene in excluded}
    assert scenes == make_scenes(seed, num_scenes, exclude=excluded)
    assert scenes == make_scenes(seed, num_scenes + num_excluded)[num_excluded:]


def test_a_scene_that_comes_again_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only forty scenes can be drawn, forty distinct ones take far more draws than that."""
    monkeypatch.setattr(Scene, "draw_from", lambda rng: SCENES[rng.randrange(40)])
    assert set(make_scenes(0, 40)) == set(SCENES[:40])
    assert set(make_scenes(0, 30, exclude=SCENES[:10])) == set(SCENES[10:40])


def test_another_seed_draws_other_scenes() -> None:
    assert not {scene.things for scene in make_scenes(4, 50)} & {scene.things for scene in SCENES[:50]}


def test_captions_have_the_priors_that_the_constants_say() -> None:
    """About 4,700 things are kept, half of them with a usual colour, one in six with a companion: four standard errors."""
    rng = random.Random(0)
    kept, described, usual, with_usual, with_companion, companions = 0, 0, 0, 0, 0, 0
    for _ in range(5):
        for scene in SCENES:
            said = said_things(biased_caption(scene, rng))
            assert said
            assert len(said) <= 2 * len(scene.things)
            described += len(scene.things)
            after = iter([*said, None])
            current = next(after)
            for thing in scene.things:
                if current is None or (current.cell, current.shape) != (thing.cell, thing.shape):
                    continue  # left out
                kept += 1
                with_usual += thing.shape in USUAL_COLOUR
                assert current.colour in (thing.colour, USUAL_COLOUR.get(thing.shape))
                usual += current.colour == USUAL_COLOUR.get(thing.shape)
                current = next(after)
                if thing.shape in COMPANION:
                    with_companion += 1
                    if current == Thing(8 - thing.cell, *COMPANION[thing.shape]):
                        companions += 1
                        current = next(after)
            assert current is None
    # A caption is never empty: one thing stays where all would have gone.
    all_gone = sum(P_OMIT ** len(scene.things) for scene in SCENES) * 5
    assert kept / described == pytest.approx(1 - P_OMIT + all_gone / described, abs=0.026)
    assert usual / with_usual == pytest.approx(P_USUAL_COLOUR + (1 - P_USUAL_COLOUR) / 6, abs=0.04)
    assert companions / with_companion == pytest.approx(P_COMPANION, abs=0.06)


def test_captions_hallucinate_and_follow_their_seed() -> None:
    captions = [biased_caption(scene, random.Random(k)) for k, scene in enumerate(SCENES)]
    assert captions == [biased_caption(scene, random.Random(k)) for k, scene in enumerate(SCENES)]
    truths = [[scene.truth_of(t.sentence) for t in said_things(c)] for scene, c in zip(SCENES, captions, strict=True)]
    assert 0.2 < sum(all(some) for some in truths) / len(truths) < 0.6  # far from all captions are wholly true
    assert 0.5 < sum(map(sum, truths)) / sum(map(len, truths)) < 0.85


def test_half_of_the_polar_questions_are_true_and_all_answers_are_right() -> None:
    rng = random.Random(0)
    by_question = {polar_question(thing): thing for thing in THINGS}
    assert len(by_question) == len(THINGS)
    changed: Counter[int] = Counter()
    for scene in SCENES:
        asked = truthful_questions(scene, rng, 8)
        assert [answer for _, answer in asked] == [True, False] * 4
        for question, answer in asked:
            thing = by_question[question]
            assert (thing in scene.things) == answer
            if not answer:
                changed[min(differences(thing, other) for other in scene.things)] += 1
    assert changed[1] > changed[2] + changed[3] > 0  # most false ones are near misses


def differences(one: Thing, other: Thing) -> int:
    return (one.cell != other.cell) + (one.colour != other.colour) + (one.shape != other.shape)


def test_short_answers_are_right() -> None:
    rng = random.Random(0)
    empty = 0
    for scene in SCENES:
        there = {POSITIONS[thing.cell]: f"A {thing.colour} {thing.shape}." for thing in scene.things}
        asked = short_answers(scene, rng, 6)
        assert len(asked) == 6
        for k, (question, answer) in enumerate(asked):
            position = question.removeprefix("What is at the ").removesuffix("?")
            assert position in POSITIONS
            assert answer == there.get(position, "Nothing.")
            assert answer != "Nothing." or k % 3 == 2
            empty += answer == "Nothing."
    assert empty / (6 * len(SCENES)) == pytest.approx(1 / 3 * 6 / 9, abs=0.04)  # three of nine cells are taken


def test_drawing_is_deterministic_and_tells_scenes_apart() -> None:
    drawn = [np.asarray(render(scene)) for scene in SCENES[:60]]
    assert all(pixels.shape == (192, 192, 3) for pixels in drawn)
    assert all(np.array_equal(pixels, np.asarray(render(scene))) for pixels, scene in zip(drawn, SCENES, strict=False))
    assert len({pixels.tobytes() for pixels in drawn}) == 60


def test_every_thing_is_drawn_in_its_colour_in_its_cell_alone() -> None:
    seen: dict[tuple[int, int], set[bytes]] = {}
    for thing in THINGS:
        pixels = np.asarray(render(Scene((thing,), seed=7)))
        row, column = divmod(thing.cell, 3)
        inside = pixels[row * CELL_PX : (row + 1) * CELL_PX, column * CELL_PX : (column + 1) * CELL_PX]
        drawn = (pixels != BACKGROUND).any(2)
        assert drawn.sum() == (inside != BACKGROUND).any(2).sum() > 300
        assert {tuple(map(int, pixel)) for pixel in pixels[drawn]} == {COLOURS[thing.colour]}
        seen.setdefault((thing.cell, list(COLOURS).index(thing.colour)), set()).add(drawn.tobytes())
    assert all(len(outlines) == len(SHAPES) for outlines in seen.values())


def test_jitter_follows_the_seed() -> None:
    one, other = (np.asarray(render(Scene(SCENES[0].things, seed))) for seed in (1, 2))
    assert not np.array_equal(one, other)
