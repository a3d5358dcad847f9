"""Sizes that fit the data: lowered where nobody typed them, refused where somebody did."""

from dataclasses import replace

import pytest

from rlaifv.app.sizing import Data, Sizes, TooLarge, fit_to_data

PAPER = Sizes(num_iterations=4, num_prompts=4000, num_held_out=256, per_epoch=4, min_pairs=100)
SMALL = Data("data.path=a.jsonl", num_prompts=16, pairs_per_prompt=2)


def test_data_that_suffice_change_nothing() -> None:
    assert fit_to_data(PAPER, replace(SMALL, num_prompts=16_256), ()) == (PAPER, "")


def test_small_data_are_used_whole_and_said_so_in_one_line() -> None:
    sizes, sentence = fit_to_data(PAPER, SMALL, ())
    assert sizes == Sizes(4, None, 4, 4, 1)
    assert sentence == (
        "data.path=a.jsonl has 16 prompts: 4 iterations of 3 prompts, 4 held out, at least 1 pair an iteration instead of 100."
    )


@pytest.mark.parametrize("num_prompts", range(1, 60))
def test_every_number_of_prompts_can_run(num_prompts: int) -> None:
    sizes, sentence = fit_to_data(PAPER, replace(SMALL, num_prompts=num_prompts), ())
    assert 1 <= sizes.num_iterations <= num_prompts - sizes.num_held_out
    assert sizes.min_pairs >= 1
    assert (sizes.num_held_out >= 2) == bool(sizes.per_epoch) == (num_prompts >= 16)
    assert sentence.count("\n") == 0 < len(sentence)


def test_candidates_are_left_out_with_what_they_are_chosen_on() -> None:
    _, sentence = fit_to_data(PAPER, replace(SMALL, num_prompts=5), ())
    assert "none held out, so nothing is measured, no candidates, as there is nothing to choose on" in sentence


def test_typed_sizes_stay() -> None:
    sizes, _ = fit_to_data(replace(PAPER, num_prompts=6), SMALL, ("num_prompts",))
    assert (sizes.num_iterations, sizes.num_prompts, sizes.num_held_out) == (2, 6, 4)
    sizes, _ = fit_to_data(replace(PAPER, num_held_out=2), SMALL, ("num_held_out",))
    assert (sizes.num_iterations, sizes.num_prompts, sizes.num_held_out, sizes.per_epoch) == (4, None, 2, 4)
    sizes, _ = fit_to_data(replace(PAPER, num_iterations=16), SMALL, ("num_iterations",))
    assert (sizes.num_iterations, sizes.num_held_out, sizes.per_epoch) == (16, 0, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_prompts": 17}, "1 iteration of 17 prompts and 0 held-out ones need 17 prompts"),
        ({"num_held_out": 16}, r"data\.num_held_out=16 leaves nothing to train on"),
        ({"num_iterations": 17}, "17 iterations of 1 prompt and 0 held-out ones need 17 prompts"),
        ({"min_pairs": 7}, r"min_pairs=7 is out of reach: 3 prompts of an iteration give at most 6 pairs"),
    ],
)
def test_typed_sizes_that_cannot_be_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(TooLarge, match=message):
        fit_to_data(replace(PAPER, **values), SMALL, tuple(values))


def test_prompts_that_are_used_again_keep_their_number() -> None:
    sizes, _ = fit_to_data(PAPER, replace(SMALL, reuse=True), ())
    assert (sizes.num_prompts, sizes.num_held_out) == (4000, 4)
