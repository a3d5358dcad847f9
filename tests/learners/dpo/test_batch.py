"""Literal pairs in, literal rows out."""

from typing import Any

import pytest
import torch

from rlaifv.learners.dpo.batch import PreferenceBatch, PreferenceCollator
from rlaifv.models.prompting import Prompter
from rlaifv.records import Pair, Prompt
from tests.learners.stand_ins import engine_of

IMAGE = ["<image>"] * 9
WHAT = ["<s>", "USER", ":", " ", *IMAGE, "\n", "What", " is", " in", " the", " image", "?", " ASSISTANT", ":"]
DESCRIBE = ["<s>", "USER", ":", " ", *IMAGE, "\n", "Describe", " the", " image", ".", " ASSISTANT", ":"]
# Ids in the small model's vocabulary of " A red ring.</s>", " A blue ring.</s>", " A star.</s>" and so on.
RED_RING, BLUE_RING = "A red ring .", "A blue ring ."
STAR, NOTHING = "A star .", "Nothing ."


@pytest.fixture
def ask(prompts: list[Prompt]) -> dict[str, Prompt]:
    """Two prompts with different images, by what they ask."""
    return {
        "what": Prompt("what", "What is in the image?", prompts[0].image_paths),
        "describe": Prompt("describe", "Describe the image.", prompts[1].image_paths),
    }


@pytest.fixture
def make_pair(prompter: Prompter) -> Any:
    def make(name: str, prompt_id: str, chosen: str, rejected: str, logp: float = -1.0) -> Pair:
        ids = [_ids(prompter, text) for text in (chosen, rejected)]
        # Log-probs that count on from `logp`, so that a swap of any two shows.
        logps = [
            tuple(logp - 0.25 * k for k in range(start, start + len(ids[side]))) for side, start in ((0, 0), (1, 8))
        ]
        return Pair(name, prompt_id, f"{name}+", f"{name}-", chosen, rejected, *ids, 0.0, -1.0, *logps)

    return make


def _ids(prompter: Prompter, words: str) -> tuple[int, ...]:
    first, *others = words.split()
    tokens = [f" {first}", *(word if word == "." else f" {word}" for word in others), "</s>"]
    return tuple(prompter.tokenizer.convert_tokens_to_ids(tokens))


def _tokens(prompter: Prompter, ids: torch.Tensor) -> list[str]:
    return prompter.tokenizer.convert_ids_to_tokens(ids.tolist())


def test_pairs_of_a_prompt_share_its_prefix(prompter: Prompter, ask: Any, make_pair: Any) -> None:
    """Three pairs of two prompts, interleaved: two rows, the pairs of the first prompt side by side in the first.

    The red ring is in both of its pairs, and a branch only once.
    """
    items = [
        (ask["what"], make_pair("a", "what", RED_RING, BLUE_RING, -1.0)),
        (ask["describe"], make_pair("b", "describe", STAR, NOTHING, -100.0)),
        (ask["what"], make_pair("c", "what", STAR, RED_RING, -200.0)),
    ]
    batch = PreferenceCollator(engine_of(prompter))(items)
    red, blue = [" A", " red", " ring", ".", "</s>"], [" A", " blue", " ring", ".", "</s>"]
    star, nothing = [" A", " star", ".", "</s>"], [" Nothing", ".", "</s>"]
    rows = batch.trees.input_ids
    assert rows.shape == (2, 22 + 5 + 5 + 4)
    assert _tokens(prompter, rows[0]) == WHAT + red + blue + star
    assert _tokens(prompter, rows[1]) == DESCRIBE + star + nothing + ["<pad>"] * 9
    assert _tokens(prompter, batch.trees.targets) == red + blue + star + star + nothing
    assert batch.trees.branch_lengths == (5, 5, 4, 4, 3)
    assert batch.sides == (0, 1, 2, 0, 3, 4)
    assert batch.lengths == (5, 5, 4, 5, 4, 3)
    assert _tokens(prompter, batch.of_sides(batch.trees.targets)) == red + blue + star + red + star + nothing
    assert batch.trees.tree_order == (0, 1)
    assert batch.record_ids == ("a", "c", "b")
    assert batch.reference_logps.tolist() == [
        *(-1.0, -1.25, -1.5, -1.75, -2.0),
        *(-3.0, -3.25, -3.5, -3.75, -4.0),
        *(-200.0, -200.25, -200.5, -200.75),
        *(-202.0, -202.25, -202.5, -202.75, -203.0),
        *(-100.0, -100.25, -100.5, -100.75),
        *(-102.0, -102.25, -102.5),
    ]
    assert batch.token_weights.tolist() == [1.0] * 26


def test_positions_restart_at_the_end_of_the_prefix(prompter: Prompter, ask: Any, make_pair: Any) -> None:
    batch = PreferenceCollator(engine_of(prompter))([(ask["describe"], make_pair("b", "describe", STAR, NOTHING))])
    assert batch.trees.position_ids.tolist() == [[*range(20), 20, 21, 22, 23, 20, 21, 22]]


def test_changed_tokens_weigh_more(prompter: Prompter, ask: Any, make_pair: Any) -> None:
    """The answers share "ring . </s>", three tokens, and "A" with the prompt; "red" and "blue" stand in each other's place."""
    collator = PreferenceCollator(engine_of(prompter), changed_weight=5.0)
    batch = collator([(ask["what"], make_pair("a", "what", RED_RING, BLUE_RING))])
    assert batch.token_weights.tolist() == [1.0, 5.0, 1.0, 1.0, 1.0] * 2


def test_weights_follow_the_branches_when_pairs_are_grouped(prompter: Prompter, ask: Any, make_pair: Any) -> None:
    items = [
        (ask["what"], make_pair("a", "what", RED_RING, BLUE_RING)),
        (ask["describe"], make_pair("b", "describe", RED_RING, RED_RING)),
        (ask["what"], make_pair("c", "what", BLUE_RING, RED_RING)),
    ]
    batch = PreferenceCollator(engine_of(prompter), changed_weight=2.0)(items)
    assert batch.record_ids == ("a", "c", "b")
    assert batch.token_weights.tolist() == [1.0, 2.0, 1.0, 1.0, 1.0] * 4 + [1.0] * 10


@pytest.mark.parametrize("row_tokens", [0, 1000])
def test_images_lie_in_the_order_in_which_trees_are_read(
    prompter: Prompter, ask: Any, make_pair: Any, row_tokens: int
) -> None:
    """The second prompt has the larger tree, so it is laid out first, and its image has to come first."""
    items = [
        (ask["describe"], make_pair("b", "describe", STAR, NOTHING)),
        (ask["what"], make_pair("a", "what", RED_RING, BLUE_RING)),
    ]
    batch = PreferenceCollator(engine_of(prompter), row_tokens)(items)
    first, second = (prompter.encode(ask[name]).images["pixel_values"] for name in ("what", "describe"))
    assert not torch.equal(first, second)
    assert batch.trees.tree_order == (1, 0)
    assert torch.equal(batch.images["pixel_values"], torch.cat([first, second]))
    row = _tokens(prompter, batch.trees.input_ids.flatten())
    assert row[: len(WHAT)] == WHAT
    # What is scored stays in the order of the items, wherever the trees were put.
    assert _tokens(prompter, batch.trees.targets)[:4] == [" A", " star", ".", "</s>"]
    assert batch.record_ids == ("b", "a")
    assert len(batch.trees.input_ids) == (2 if row_tokens == 0 else 1)


def test_a_batch_moves_as_a_whole(prompter: Prompter, ask: Any, make_pair: Any) -> None:
    """Moved to the device without storage, every tensor says so: none is left behind."""
    batch = PreferenceCollator(engine_of(prompter))([(ask["what"], make_pair("a", "what", RED_RING, BLUE_RING))])
    moved = batch.to(torch.device("meta"))
    assert isinstance(moved, PreferenceBatch)
    tensors = [moved.reference_logps, moved.token_weights, *moved.images.values()]
    tensors += [getattr(moved.trees, name) for name in ("input_ids", "position_ids", "attention_mask")]
    tensors += [getattr(moved.trees, name) for name in ("score_index", "targets", "last_index")]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.record_ids == batch.record_ids
    assert batch.reference_logps.device.type == "cpu"


def test_pairs_follow_the_engines_packer(prompter: Prompter, ask: Any, make_pair: Any) -> None:
    """Where trees were found to differ, each completion is a sequence with an image of its own; what is scored stays."""
    items = [
        (ask["describe"], make_pair("b", "describe", STAR, NOTHING)),
        (ask["what"], make_pair("a", "what", RED_RING, BLUE_RING)),
    ]
    engine = engine_of(prompter)
    packer = engine.packer
    collator = PreferenceCollator(engine, row_tokens=400)
    trees = collator(items)
    packer.separately = True
    separate = collator(items)
    assert len(trees.trees.input_ids) == 1
    assert _tokens(prompter, separate.trees.input_ids[0]) == [*WHAT, " A", " red", " ring", ".", "</s>"]
    assert separate.trees.tree_order == (1, 1, 0, 0)
    assert len(separate.images["pixel_values"]) == 4
    assert torch.equal(separate.images["pixel_values"][::2], trees.images["pixel_values"])
    assert torch.equal(separate.trees.targets, trees.trees.targets)
    assert torch.equal(separate.reference_logps, trees.reference_logps)
