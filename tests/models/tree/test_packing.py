"""Packed trees against their slow twin: every branch as a sequence of its own, through the model's plain forward."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
import transformers.integrations.flex_attention
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from rlaifv.models.prompting import EncodedPrompt, Prompter, stack_images
from rlaifv.models.tree import packing as tree_module
from rlaifv.models.tree.packing import (
    Branch,
    Tree,
    assign_rows,
    batches_by_tokens,
    branch_logps,
    next_token_logps,
    pack,
)
from rlaifv.records import Prompt

IMAGE = 4
WORDS = st.integers(5, 100)
BRANCHES = st.lists(WORDS, max_size=6).flatmap(
    lambda ids: st.builds(Branch, st.just(tuple(ids)), context=st.integers(0, len(ids)))
)


@pytest.fixture(scope="module")
def encoded(processor: Any, prompts: list[Prompt]) -> list[EncodedPrompt]:
    """Three prompts about pictures, whose prefixes differ in length and whose order by length is not their own."""
    prompter = Prompter(processor)
    questions = (
        "What is it?",
        "What is in the image? Describe the picture in detail.",
        "Describe the image in detail.",
    )
    return [
        prompter.encode(Prompt(prompt.id, question, prompt.image_paths))
        for prompt, question in zip(prompts, questions, strict=False)
    ]


def separate_logits(model: Any, ids: Sequence[int], prompt: EncodedPrompt) -> Tensor:
    """Logits [L, V] of one plain sequence about the prompt's image."""
    return model(input_ids=torch.tensor([list(ids)]), **prompt.images).logits[0]


def separate_logps(model: Any, tree: Tree, prompt: EncodedPrompt) -> list[Tensor]:
    """The twin: log-probs of each branch's completion, from one whole sequence per branch."""
    found = []
    for branch in tree.branches:
        ids = [*tree.prefix, *branch.ids]
        logps = separate_logits(model, ids, prompt).log_softmax(1)
        start = len(tree.prefix) + branch.context
        found.append(torch.stack([logps[j - 1, ids[j]] for j in range(start, len(ids))]) if start < len(ids) else None)
    return [torch.zeros(0) if one is None else one for one in found]


def packed_logps(
    model: Any, trees: Sequence[Tree], prompts: Sequence[EncodedPrompt], row_tokens: int = 0, pad_id: int = 0
) -> list[Tensor]:
    packed = pack(trees, row_tokens, pad_id)
    images = stack_images([prompts[k] for k in packed.tree_order])
    return list(packed.split(branch_logps(model, packed, images)))


def assert_equal_logps(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert [len(one) for one in actual] == [len(one) for one in expected]
    torch.testing.assert_close(torch.cat(list(actual)), torch.cat(list(expected)), rtol=0, atol=1e-5)


def some_trees(encoded: Sequence[EncodedPrompt]) -> list[Tree]:
    """Branches of several lengths, an empty one, and ones that begin with text to be read only."""
    return [
        Tree(encoded[0].ids, [Branch((20, 21, 22, 23, 24)), Branch(()), Branch((30, 31), context=1)]),
        Tree(
            encoded[1].ids, [Branch((25,)), Branch((40, 41, 42, 43), context=4), Branch((26, 27, 28, 29, 30, 31, 32))]
        ),
        Tree(encoded[2].ids, [Branch((50, 51, 52, 53, 54, 55), context=3), Branch((50, 51, 52, 56), context=3)]),
    ]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("row_tokens", [0, 1000])
def test_logps_equal_those_of_separate_sequences(
    sharp: Any, encoded: list[EncodedPrompt], attention: str, row_tokens: int
) -> None:
    trees = some_trees(encoded)
    sharp.set_attn_implementation(attention)
    try:
        with torch.no_grad():
            actual = packed_logps(sharp, trees, encoded, row_tokens)
            expected = [one for k, tree in enumerate(trees) for one in separate_logps(sharp, tree, encoded[k])]
    finally:
        sharp.set_attn_implementation("sdpa")
    assert_equal_logps(actual, expected)
    assert torch.cat(expected).std() > 0.5  # far from uniform, or equality would say little


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_gives_the_same_logps(
    sharp: Any, encoded: list[EncodedPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its compiled kernels need a GPU; what is proven here is the mask that they are given."""

    def uncompiled(query: Tensor, key: Tensor, value: Tensor, training: bool = False, **options: Any) -> Any:
        return flex_attention(query, key, value, **options)

    monkeypatch.setattr(transformers.integrations.flex_attention, "compile_friendly_flex_attention", uncompiled)
    trees = some_trees(encoded)
    with torch.no_grad():
        expected = packed_logps(sharp, trees, encoded)
        sharp.set_attn_implementation("flex_attention")
        try:
            actual = packed_logps(sharp, trees, encoded, 70)
        finally:
            sharp.set_attn_implementation("sdpa")
    assert_equal_logps(actual, expected)


def test_attention_that_would_ignore_the_mask_is_refused(sharp: Any, encoded: list[EncodedPrompt]) -> None:
    sharp.config._attn_implementation = "flash_attention_2"
    try:
        with pytest.raises(ValueError, match=r"model\.attention='flash_attention_2' cannot run trees"):
            packed_logps(sharp, some_trees(encoded), encoded)
    finally:
        sharp.config._attn_implementation = "sdpa"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("row_tokens", "chunk"), [(0, 1024), (1000, 3)])
def test_gradients_equal_those_of_separate_sequences(
    sharp: Any,
    encoded: list[EncodedPrompt],
    monkeypatch: pytest.MonkeyPatch,
    attention: str,
    row_tokens: int,
    chunk: int,
) -> None:
    monkeypatch.setattr(tree_module, "HEAD_CHUNK_TOKENS", chunk)
    trees = some_trees(encoded)
    weights = torch.linspace(-1, 1, sum(len(b.ids) - b.context for tree in trees for b in tree.branches))
    gradients = []
    sharp.set_attn_implementation(attention)
    try:
        for logps in (
            packed_logps(sharp, trees, encoded, row_tokens),
            [one for k, tree in enumerate(trees) for one in separate_logps(sharp, tree, encoded[k])],
        ):
            sharp.zero_grad()
            (torch.cat(logps) * weights).sum().backward()
            gradients.append({name: p.grad.clone() for name, p in sharp.named_parameters() if p.grad is not None})
    finally:
        sharp.set_attn_implementation("sdpa")
        sharp.zero_grad()
    packed, separate = gradients
    assert packed.keys() == separate.keys()
    assert {"lm_head.weight", "model.multi_modal_projector.linear_1.weight"} <= packed.keys()
    total = torch.cat([gradient.flatten() for gradient in separate.values()]).norm()
    for name, gradient in separate.items():  # biases of keys have gradients of zero but for rounding
        assert (packed[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-8 * total, name


@st.composite
def forests(draw: st.DrawFn) -> list[tuple[int, tuple[Branch, ...]]]:
    """One to three trees, each a prompt's number and its branches."""
    chosen = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))
    return [(k, tuple(draw(st.lists(BRANCHES, min_size=1, max_size=4)))) for k in chosen]


@settings(max_examples=25, deadline=None)
@given(forest=forests(), row_tokens=st.sampled_from((0, 45, 90, 1000)), pad_id=st.sampled_from((0, 3, 60)))
def test_a_branch_depends_on_its_prefix_and_itself_alone(
    sharp: Any, encoded: list[EncodedPrompt], forest: list[tuple[int, tuple[Branch, ...]]], row_tokens: int, pad_id: int
) -> None:
    """Whatever its siblings, their order, the other trees, the row they share, and what pads it."""
    trees = [Tree(encoded[k].ids, branches) for k, branches in forest]
    with torch.no_grad():
        actual = packed_logps(sharp, trees, [encoded[k] for k, _ in forest], row_tokens, pad_id)
        expected = [
            one for tree, (k, _) in zip(trees, forest, strict=True) for one in separate_logps(sharp, tree, encoded[k])
        ]
    assert_equal_logps(actual, expected)


def test_context_is_read_but_not_scored(sharp: Any, encoded: list[EncodedPrompt]) -> None:
    ids = (20, 21, 22, 23)
    with torch.no_grad():
        tree = Tree(encoded[0].ids, [Branch(ids, context) for context in range(5)])
        whole, *later = packed_logps(sharp, [tree], encoded)
        other = Tree(encoded[0].ids, [Branch((60, *ids[1:]), context=1)])
        (after_other,) = packed_logps(sharp, [other], encoded)
    for context, logps in enumerate(later, start=1):
        torch.testing.assert_close(logps, whole[context:], rtol=0, atol=1e-5)
    assert (after_other - whole[1:]).abs().max() > 0.1


def test_empty_branches_have_no_logps_and_no_gradient(sharp: Any, encoded: list[EncodedPrompt]) -> None:
    (empty,) = packed_logps(sharp, [Tree(encoded[0].ids, [Branch(())])], encoded)
    assert empty.shape == (0,)
    empty.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in sharp.parameters())
    sharp.zero_grad()


def test_images_go_in_the_order_in_which_rows_hold_the_trees(sharp: Any, encoded: list[EncodedPrompt]) -> None:
    trees = [Tree(prompt.ids, [Branch((20, 21, 22))]) for prompt in encoded]
    packed = pack(trees, row_tokens=70)
    assert packed.tree_order == (1, 2, 0)  # longest first
    with torch.no_grad():
        right = branch_logps(sharp, packed, stack_images([encoded[k] for k in packed.tree_order]))
        unmapped = branch_logps(sharp, packed, stack_images(encoded))
        swapped = branch_logps(sharp, packed, stack_images([encoded[k] for k in (2, 1, 0)]))
        expected = torch.cat([separate_logps(sharp, tree, encoded[k])[0] for k, tree in enumerate(trees)])
    torch.testing.assert_close(right, expected, rtol=0, atol=1e-5)
    changed = [(wrong - expected).view(3, 3).abs().amax(1) > 1e-2 for wrong in (unmapped, swapped)]
    assert [flags.tolist() for flags in changed] == [[True, True, True], [False, True, True]]


@pytest.mark.parametrize("row_tokens", [0, 1000])
def test_next_token_logps_are_a_log_softmax(sharp: Any, encoded: list[EncodedPrompt], row_tokens: int) -> None:
    trees = some_trees(encoded)
    token_ids = torch.tensor([70, 5, 33])
    packed = pack(trees, row_tokens)
    with torch.no_grad():
        images = stack_images([encoded[k] for k in packed.tree_order])
        actual = next_token_logps(sharp, packed, images, token_ids)
        expected = torch.stack(
            [
                separate_logits(sharp, [*tree.prefix, *branch.ids], encoded[k])[-1].log_softmax(0)[token_ids]
                for k, tree in enumerate(trees)
                for branch in tree.branches
            ]
        )
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_layout_of_a_small_forest() -> None:
    """Two trees in one row: 7 8 │ 9 10 │ 11 and 5 │ 6, the second padded by nothing, the first read first."""
    packed = pack([Tree([5], [Branch([6])]), Tree([7, 8], [Branch([9, 10], context=1), Branch([11])])], row_tokens=7)
    assert packed.tree_order == (1, 0)
    assert packed.input_ids.tolist() == [[7, 8, 9, 10, 11, 5, 6]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 2, 0, 1]]
    assert packed.attention_mask.int().tolist() == [
        [
            [
                [1, 0, 0, 0, 0, 0, 0],
                [1, 1, 0, 0, 0, 0, 0],
                [1, 1, 1, 0, 0, 0, 0],
                [1, 1, 1, 1, 0, 0, 0],
                [1, 1, 0, 0, 1, 0, 0],
                [0, 0, 0, 0, 0, 1, 0],
                [0, 0, 0, 0, 0, 1, 1],
            ]
        ]
    ]
    assert packed.branch_lengths == (1, 1, 1)
    assert packed.score_index.tolist() == [5, 2, 1]
    assert packed.targets.tolist() == [6, 10, 11]
    assert packed.last_index.tolist() == [6, 3, 4]


def test_padding_attends_to_itself_alone() -> None:
    packed = pack([Tree([5], [Branch([6])]), Tree([7, 8], [Branch([9, 10])])], pad_id=2)
    assert packed.input_ids.tolist() == [[7, 8, 9, 10], [5, 6, 2, 2]]
    assert packed.attention_mask[1, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_moving_keeps_what_is_no_tensor() -> None:
    packed = pack([Tree([5], [Branch([6])])])
    moved = packed.to(torch.device("meta"))
    assert moved.input_ids.device.type == moved.last_index.device.type == "meta"
    assert (moved.tree_order, moved.branch_lengths) == (packed.tree_order, packed.branch_lengths)


def test_a_tree_needs_a_prefix() -> None:
    with pytest.raises(ValueError, match="prefix of at least one token"):
        Tree([], [Branch([1])])


@settings(deadline=None)
@given(
    start=st.lists(WORDS, min_size=1, max_size=5), tails=st.lists(st.lists(WORDS, max_size=5), min_size=1, max_size=5)
)
def test_from_sequences_shares_all_that_is_common(start: list[int], tails: list[list[int]]) -> None:
    sequences = [[IMAGE, *start, *tail] for tail in tails]
    tree = Tree.from_sequences(sequences, IMAGE)
    assert [[*tree.prefix, *branch.ids] for branch in tree.branches] == sequences
    assert all(branch.context == len(branch.ids) for branch in tree.branches)
    heads = {tuple(branch.ids[:1]) for branch in tree.branches}
    assert len(heads) > 1 or heads == {()}


def test_an_image_in_a_branch_is_an_error() -> None:
    with pytest.raises(ValueError, match="puts text before the image"):
        Tree.from_sequences([[2, 20, IMAGE, 30], [2, 21, IMAGE, 30]], IMAGE)
    with pytest.raises(ValueError, match="prefix of at least one token"):
        Tree.from_sequences([[20], [21]], IMAGE)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=12), max_tokens=st.integers(1, 30))
def test_split_fills_its_budget_in_order(lengths: list[int], max_tokens: int) -> None:
    branches = [Branch(tuple(range(length))) for length in lengths]
    parts = list(Tree([1, 2, 3], branches).split(max_tokens))
    assert [branch for part in parts for branch in part.branches] == branches
    assert all(part.prefix == [1, 2, 3] and part.branches for part in parts)
    assert all(part.num_tokens <= max_tokens or len(part.branches) == 1 for part in parts)
    for part, following in pairwise(parts):
        assert part.num_tokens + len(following.branches[0].ids) > max_tokens


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=15), row_tokens=st.integers(0, 40))
def test_rows_hold_every_tree_once_and_within_their_budget(sizes: list[int], row_tokens: int) -> None:
    rows = assign_rows(sizes, row_tokens)
    assert sorted(tree for row in rows for tree in row) == list(range(len(sizes)))
    for k, row in enumerate(rows):
        used = sum(sizes[tree] for tree in row)
        assert used <= row_tokens or len(row) == 1
        assert all(used + sizes[tree] > row_tokens for later in rows[k + 1 :] for tree in later)  # first fit


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 20), max_size=15), max_tokens=st.integers(1, 60))
def test_batches_are_consecutive_and_full(sizes: list[int], max_tokens: int) -> None:
    batches = list(batches_by_tokens(sizes, max_tokens))
    assert [k for batch in batches for k in batch] == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) * max(sizes[k] for k in batch) <= max_tokens or len(batch) == 1
    for batch, following in pairwise(batches):
        grown = [*batch, following[0]]
        assert len(grown) * max(sizes[k] for k in grown) > max_tokens
