"""The embedded world as a source: the same scenes for the same seed, and a truth that fits its pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlaifv.data.images import load_image
from rlaifv.metrics.truth import Truth
from rlaifv.records import Prompt
from rlaifv.worlds.shapes import COLOURS, QUESTIONS, SHAPES, Thing, parse_claim
from rlaifv.worlds.shapes_source import EXAM_QUESTIONS, PROMPTS_PER_ITERATION, ShapesSource

THINGS = [Thing(cell, colour, shape) for cell in range(9) for colour in COLOURS for shape in SHAPES]


def contents(source: ShapesSource, prompts: list[Prompt]) -> list[tuple[str, str, bytes, tuple[str, ...]]]:
    """All that matters of prompts, wherever their pictures lie."""
    return [(p.id, p.question, Path(p.image_paths[0]).read_bytes(), tuple(source.facts(p.id))) for p in prompts]


def facts(source: ShapesSource, prompts: list[Prompt]) -> set[tuple[str, ...]]:
    return {tuple(source.facts(prompt.id)) for prompt in prompts}


def test_equal_seeds_give_equal_prompts(tmp_path: Path) -> None:
    one, other = (ShapesSource(tmp_path / name, num_held_out=5, seed=7) for name in ("one", "other"))
    assert contents(one, one.prompts(2, 12)) == contents(other, other.prompts(2, 12))
    assert contents(one, one.held_out()) == contents(other, other.held_out())
    assert contents(one, one.prompts(2, 12)) == contents(one, one.prompts(2, 12))


def test_fewer_prompts_are_the_first_of_more(tmp_path: Path) -> None:
    source = ShapesSource(tmp_path, num_held_out=0, seed=7)
    assert contents(source, source.prompts(0, 3)) == contents(source, source.prompts(0, 9))[:3]
    assert len(source.prompts(0, None)) == PROMPTS_PER_ITERATION


def test_iterations_and_seeds_differ_but_not_what_is_held_out(tmp_path: Path) -> None:
    source, other = ShapesSource(tmp_path / "a", 10, seed=0), ShapesSource(tmp_path / "b", 10, seed=1)
    first, second = source.prompts(0, 20), source.prompts(1, 20)
    assert len(facts(source, first)) == 20
    assert not facts(source, first) & facts(source, second)
    assert not {prompt.id for prompt in first} & {prompt.id for prompt in second}
    assert not facts(source, first) & facts(other, other.prompts(0, 20))
    assert contents(source, source.held_out()) == contents(other, other.held_out())


def test_held_out_scenes_are_never_among_an_iterations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made certain by drawing what is held out from the seed that the iteration draws from."""
    monkeypatch.setattr("rlaifv.worlds.shapes_source.derive_seed", lambda *_: 5)
    source = ShapesSource(tmp_path, num_held_out=15, seed=0)
    held_out = facts(source, source.held_out())
    drawn = facts(source, source.prompts(0, 30))
    assert len(drawn) == 30
    assert not drawn & held_out


def test_prompts_are_pictures_and_questions_of_the_world(tmp_path: Path) -> None:
    source = ShapesSource(tmp_path / "not" / "there", num_held_out=3, seed=0)
    prompts = [*source.prompts(0, 30), *source.held_out()]
    assert len({prompt.id for prompt in prompts}) == 33
    assert {prompt.question for prompt in prompts} == set(QUESTIONS)
    for prompt in prompts:
        (path,) = prompt.image_paths
        assert Path(path).is_absolute()
        assert Path(path).parent == tmp_path / "not" / "there"
        assert load_image(path).size == (192, 192)


def test_a_picture_that_is_torn_or_lost_is_drawn_again(tmp_path: Path) -> None:
    """As a loss of power leaves them: empty, of the right length but zeros, cut off, or not there."""
    prompts = ShapesSource(tmp_path, num_held_out=5, seed=0).held_out()
    paths = [Path(prompt.image_paths[0]) for prompt in prompts]
    whole = [path.read_bytes() for path in paths]
    untouched = paths[4].stat()
    paths[0].write_bytes(b"")
    paths[1].write_bytes(bytes(len(whole[1])))
    paths[2].write_bytes(whole[2][:-20])
    paths[3].unlink()
    assert ShapesSource(tmp_path, num_held_out=5, seed=0).held_out() == prompts
    assert [path.read_bytes() for path in paths] == whole
    assert (paths[4].stat().st_ino, paths[4].stat().st_mtime_ns) == (untouched.st_ino, untouched.st_mtime_ns)
    assert {*tmp_path.iterdir()} == {*paths}


def test_a_prompt_that_was_given_out_is_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ShapesSource(tmp_path, num_held_out=2, seed=0)
    first = [*source.prompts(1, 4), *source.held_out()]
    monkeypatch.setattr("rlaifv.worlds.shapes_source.render", lambda scene: pytest.fail("it is there already"))
    assert [*source.prompts(1, 4), *source.held_out()] == first


def test_truth_fits_the_picture(tmp_path: Path) -> None:
    """The colour in the middle of a cell, or around it for a ring, is that of the thing that is said to be there."""
    source = ShapesSource(tmp_path, num_held_out=0, seed=3)
    for prompt in source.prompts(0, 20):
        pixels = np.asarray(Image.open(prompt.image_paths[0]))
        things = [parse_claim(fact) for fact in source.facts(prompt.id)]
        colours = {tuple(map(int, pixel)) for pixel in pixels.reshape(-1, 3)}
        assert colours == {(246, 244, 238), *(COLOURS[thing.colour] for thing in things if thing)}
        for thing in things:
            assert thing is not None
            row, column = divmod(thing.cell, 3)
            cell = pixels[64 * row : 64 * (row + 1), 64 * column : 64 * (column + 1)]
            assert (cell == COLOURS[thing.colour]).all(2).any()


def test_truth_of_claims(tmp_path: Path) -> None:
    source = ShapesSource(tmp_path, num_held_out=4, seed=0)
    assert isinstance(source, Truth)
    for prompt in (*source.prompts(0, 5), *source.held_out()):
        true = source.facts(prompt.id)
        assert [thing.sentence for thing in THINGS if source.holds(prompt.id, thing.sentence)] == sorted(
            true, key=[thing.sentence for thing in THINGS].index
        )
        false = next(thing.sentence for thing in THINGS if thing.sentence not in true)
        assert source.covered(prompt.id, true) == len(true)
        assert source.covered(prompt.id, [true[0], true[0].lower(), false, "What?"]) == 1
        assert source.covered(prompt.id, []) == 0


def test_the_exam_is_fixed_and_right(tmp_path: Path) -> None:
    source = ShapesSource(tmp_path, num_held_out=6, seed=0)
    for prompt in source.held_out():
        exam = source.exam(prompt.id)
        assert exam == source.exam(prompt.id)
        assert [answer for _, answer in exam] == [True, False] * (EXAM_QUESTIONS // 2)
        for question, answer in exam:
            claim = question.replace("Is there", "There is").replace("?", ".")
            assert parse_claim(claim) is not None
            assert source.holds(prompt.id, claim) == answer


def test_a_text_left_whole_holds_if_each_of_its_sentences_does(tmp_path: Path) -> None:
    source = ShapesSource(tmp_path, num_held_out=1, seed=0)
    (prompt,) = source.held_out()
    first, second, *_ = source.facts(prompt.id)
    false = next(thing.sentence for thing in THINGS if thing.sentence not in source.facts(prompt.id))
    assert source.holds(prompt.id, f"{first} {second}")
    assert not source.holds(prompt.id, f"{first} {false}")
    assert not source.holds(prompt.id, "Nothing. Nothing.")
    assert source.covered(prompt.id, [f"{first} {second}"]) == 2
    assert source.covered(prompt.id, [f"{first} {false}", first]) == 1
