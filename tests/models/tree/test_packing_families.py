"""Trees of every family against its slow twin: the upstream model's own forward over each sequence, positions left to it."""

from collections.abc import Sequence
from inspect import signature
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlaifv.models.prompting import EncodedPrompt, stack_images
from rlaifv.models.sampling import Decoding, choose_tokens, uniform_numbers
from rlaifv.models.tree.decoder import sample_branches
from rlaifv.models.tree.packing import (
    Branch,
    PackedTrees,
    Packer,
    Tree,
    branch_logps,
    hidden_states,
    next_token_logps,
    pack,
    separate,
)

IMAGE = 4
ANSWERS = (Branch(tuple(range(60, 73))), Branch((70, 71, 72), context=1), Branch(()), Branch((73, 74)))
WORDS = st.lists(st.integers(60, 120), max_size=14).map(tuple)
FORESTS = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.builds(Branch, WORDS), min_size=1, max_size=3)), min_size=1, max_size=3
)


def twin_logits(model: Any, ids: Sequence[int], prompt: EncodedPrompt) -> Tensor:
    """Logits [L, V] as the unmodified model gives them for what its processor would give it."""
    return model(**twin_inputs(model, ids, prompt)).logits[0]


def twin_inputs(model: Any, ids: Sequence[int], prompt: EncodedPrompt) -> dict[str, Tensor]:
    input_ids = torch.tensor([list(ids)])
    types = {name: (input_ids == IMAGE).long() for name in ("mm_token_type_ids", "token_type_ids")}
    known = signature(model.forward).parameters
    inputs = {name: tensor for name, tensor in types.items() if name in known and prompt.images}
    return {"input_ids": input_ids, **inputs, **prompt.images}


def twin_states(model: Any, tree: Tree, prompt: EncodedPrompt) -> list[Tensor]:
    """States of the branches' own tokens, context left out."""
    found = []
    for branch in tree.branches:
        inputs = twin_inputs(model, [*tree.prefix, *branch.ids], prompt)
        found.append(model.model(**inputs).last_hidden_state[0, len(tree.prefix) + branch.context :])
    return found


def twin_logps(model: Any, tree: Tree, prompt: EncodedPrompt) -> list[Tensor]:
    found = []
    for branch in tree.branches:
        ids = [*tree.prefix, *branch.ids]
        logps = twin_logits(model, ids, prompt).log_softmax(1)
        scored = range(len(tree.prefix) + branch.context, len(ids))
        found.append(torch.cat([logps[j - 1, ids[j]][None] for j in scored]) if scored else torch.zeros(0))
    return found


def read(model: Any, packed: PackedTrees, prompts: Sequence[EncodedPrompt]) -> Tensor:
    return branch_logps(model, packed, stack_images([prompts[k] for k in packed.tree_order]))


def trees_of(prompts: Sequence[EncodedPrompt]) -> list[Tree]:
    return [Tree(prompt.ids, ANSWERS[k:] + ANSWERS[:k]) for k, prompt in enumerate(prompts)]


@pytest.mark.parametrize("row_tokens", [0, 70, 1000])
def test_logps_equal_those_of_separate_sequences(tiny: Any, row_tokens: int) -> None:
    trees = trees_of(tiny.prompts)
    with torch.no_grad():
        expected = torch.cat(
            [one for k, tree in enumerate(trees) for one in twin_logps(tiny.model, tree, tiny.prompts[k])]
        )
        actual = read(tiny.model, pack(trees, row_tokens), tiny.prompts)
        slow = read(tiny.model, separate(trees), tiny.prompts)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(slow, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.5  # far from uniform, or equality would say little


def test_states_that_reward_heads_read_equal_those_of_separate_sequences(tiny: Any) -> None:
    trees = trees_of(tiny.prompts)
    with torch.no_grad():
        expected = torch.cat(
            [one for k, tree in enumerate(trees) for one in twin_states(tiny.model, tree, tiny.prompts[k])]
        )
        packed = pack(trees, 1000)
        images = stack_images([tiny.prompts[k] for k in packed.tree_order])
        actual = hidden_states(tiny.model, packed, images, packed.own_index)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1


def test_gradients_equal_those_of_separate_sequences(tiny: Any) -> None:
    trees = trees_of(tiny.prompts)
    weights = torch.linspace(-1, 1, sum(pack(trees).branch_lengths))
    gradients = []
    for logps in (
        read(tiny.model, pack(trees, 1000), tiny.prompts),
        torch.cat([one for k, tree in enumerate(trees) for one in twin_logps(tiny.model, tree, tiny.prompts[k])]),
    ):
        tiny.model.zero_grad()
        (logps * weights).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in tiny.model.named_parameters() if p.grad is not None})
    tiny.model.zero_grad()
    packed, twin = gradients
    assert packed.keys() == twin.keys()
    total = torch.cat([gradient.flatten() for gradient in twin.values()]).norm()
    for name, gradient in twin.items():  # biases of keys have gradients of zero but for rounding
        assert (packed[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7 * total, name


def test_answers_depend_on_the_picture(tiny: Any) -> None:
    """Its features reach the branches, or the tests above would prove nothing about them."""
    tree = Tree(tiny.prompts[0].ids, [Branch((60, 61, 62))])
    images = dict(tiny.prompts[0].images)
    images["pixel_values"] = -images["pixel_values"]
    with torch.no_grad():
        one, other = (branch_logps(tiny.model, pack([tree]), some) for some in (tiny.prompts[0].images, images))
    assert (one - other).abs().max() > 0.01


def test_every_placeholder_stays(tiny: Any) -> None:
    """Nothing is cut to a length: rows are as long as their trees, and the pixels of all trees go in."""
    trees = trees_of(tiny.prompts)
    placeholders = sum(ids == IMAGE for prompt in tiny.prompts for ids in prompt.ids)
    for row_tokens in (0, 1, 1000):
        packed = pack(trees, row_tokens)
        assert int((packed.input_ids == IMAGE).sum()) == placeholders
    assert int((separate(trees).input_ids == IMAGE).sum()) == len(ANSWERS) * placeholders


@pytest.mark.parametrize("layout", [pack, separate])
def test_next_token_logps(tiny: Any, layout: Any) -> None:
    trees = trees_of(tiny.prompts)
    packed = layout(trees)
    token_ids = torch.tensor([70, 5, 33])
    with torch.no_grad():
        images = stack_images([tiny.prompts[k] for k in packed.tree_order])
        actual = next_token_logps(tiny.model, packed, images, token_ids)
        expected = torch.stack(
            [
                twin_logits(tiny.model, [*tree.prefix, *branch.ids], prompt)[-1].log_softmax(0)[token_ids]
                for tree, prompt in zip(trees, tiny.prompts, strict=True)
                for branch in tree.branches
            ]
        )
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def check_forest(tiny: Any, forest: list[tuple[int, list[Branch]]], row_tokens: int, pad_id: int) -> None:
    trees = [Tree(tiny.prompts[k].ids, branches) for k, branches in forest]
    packed = pack(trees, row_tokens, pad_id)
    with torch.no_grad():
        actual = read(tiny.model, packed, [tiny.prompts[k] for k, _ in forest])
        expected = [
            one
            for tree, (k, _) in zip(trees, forest, strict=True)
            for one in twin_logps(tiny.model, tree, tiny.prompts[k])
        ]
    torch.testing.assert_close(actual, torch.cat(expected), rtol=0, atol=1e-5)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(forest=FORESTS, row_tokens=st.sampled_from((0, 60, 1000)), pad_id=st.sampled_from((0, 3, 60)))
def test_with_positions_on_three_axes_a_branch_depends_on_its_prefix_and_itself_alone(
    tiny_qwen: Any, forest: list[tuple[int, list[Branch]]], row_tokens: int, pad_id: int
) -> None:
    """Whatever its siblings, their order, the other trees, the row they share, and what pads it."""
    check_forest(tiny_qwen, forest, row_tokens, pad_id)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(forest=FORESTS, row_tokens=st.sampled_from((0, 60, 1000)), pad_id=st.sampled_from((0, 3, 60)))
def test_with_windows_and_whole_images_a_branch_depends_on_its_prefix_and_itself_alone(
    tiny_gemma: Any, forest: list[tuple[int, list[Branch]]], row_tokens: int, pad_id: int
) -> None:
    check_forest(tiny_gemma, forest, row_tokens, pad_id)


def test_in_half_precision_trees_differ_by_rounding(tiny: Any) -> None:
    """Tiny models agree to 0.02 in bfloat16; the embedded world's, whose logits reach 30 (0.125 apart), to 0.1."""
    model = type(tiny.model)(tiny.model.config).eval().bfloat16()
    model.load_state_dict(tiny.model.state_dict())
    trees = trees_of(tiny.prompts)
    logps = []
    for packed in (pack(trees, 1000), separate(trees)):
        images = stack_images([tiny.prompts[k] for k in packed.tree_order])
        with torch.no_grad():
            logps.append(branch_logps(model, packed, images))
    assert (logps[0] - logps[1]).abs().max() < 0.05


@pytest.mark.parametrize("layout", [pack, separate])
def test_nothing_about_one_batch_is_left_for_the_next(tiny_qwen: Any, layout: Any) -> None:
    """Qwen-VL notes how far its positions lie from a plain count, and applies that to later calls."""
    model, prompts = tiny_qwen.model, tiny_qwen.prompts
    later = Tree(prompts[3].ids, [Branch((60, 61))])
    with torch.no_grad():
        before = read(model, layout([later]), [prompts[3]])
        read(model, layout(trees_of(prompts)), prompts)
        assert model.model.rope_deltas is None
        torch.testing.assert_close(read(model, layout([later]), [prompts[3]]), before, rtol=0, atol=0)


def test_separate_sequences_repeat_their_images() -> None:
    trees = [Tree((5, 6), (Branch((7,)), Branch((8, 9, 10)))), Tree((11,), (Branch((12, 13), context=1),))]
    packed = separate(trees, pad_id=3)
    assert packed.input_ids.tolist() == [[5, 6, 8, 9, 10], [5, 6, 7, 3, 3], [11, 12, 13, 3, 3]]
    assert packed.attention_mask.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]
    assert packed.tree_order == (0, 0, 1)
    assert packed.branch_lengths == (1, 3, 1)
    assert packed.targets.tolist() == [7, 8, 9, 10, 13]
    assert packed.score_index.tolist() == [6, 1, 2, 3, 11]


def test_a_model_is_left_to_number_and_mask_separate_sequences_itself() -> None:
    """No 4-D mask and no positions reach it: what it makes of a plain batch is what is read."""
    seen: dict[str, Any] = {}

    def forward(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, use_cache: bool) -> Any:
        seen.update(attention_mask=attention_mask, token_type_ids=token_type_ids)
        return SimpleNamespace(last_hidden_state=torch.zeros(*input_ids.shape, 2))

    class Base:
        def __init__(self) -> None:
            self.forward = forward

        def __call__(self, **arguments: Any) -> Any:
            return forward(**arguments)

    model = SimpleNamespace(
        base_model=Base(),
        config=SimpleNamespace(image_token_id=IMAGE),
        get_output_embeddings=lambda: torch.nn.Linear(2, 9),
    )
    trees = [Tree((IMAGE, 6), (Branch((7, 8)), Branch((8,))))]
    assert branch_logps(model, separate(trees, pad_id=IMAGE), {}).shape == (3,)
    assert seen["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert seen["token_type_ids"].tolist() == [[1, 0, 0, 0], [1, 0, 0, 0]]


def test_separate_sequences_are_split_by_what_they_take() -> None:
    """Four questions of 2 to 4 tokens on a prefix of 5 take 4 * 5 + 12 tokens as sequences, 17 as a tree."""
    tree = Tree((1,) * 5, tuple(Branch((7,) * n) for n in (2, 4, 3, 3)))
    trees, sequences = Packer(), Packer(separately=True)
    assert (trees.num_tokens(tree), sequences.num_tokens(tree)) == (17, 32)
    assert [len(part.branches) for part in trees.split(tree, 17)] == [4]
    assert [len(part.branches) for part in sequences.split(tree, 32)] == [3, 1]
    assert [len(part.branches) for part in sequences.split(tree, 1)] == [1] * 4
    assert [branch for part in sequences.split(tree, 18) for branch in part.branches] == list(tree.branches)


@pytest.mark.parametrize("separately", [False, True], ids=["tree", "separately"])
@torch.no_grad()
def test_every_family_samples_what_its_own_forward_says(tiny: Any, separately: bool) -> None:
    """Two answers to each prompt, token by token, against the whole sequence run anew for each of them."""
    decoding, suppressed = Decoding(max_new_tokens=5), [IMAGE, *range(5, 8)]
    seeds = [[7 * k, 7 * k + 1] for k in range(len(tiny.prompts))]
    drawn = dict(sample_branches(tiny.model, tiny.prompts, seeds, decoding, (), suppressed, 150, separately=separately))
    assert getattr(tiny.model.model, "rope_deltas", None) is None
    for k, prompt in enumerate(tiny.prompts):
        for seed, answer in zip(seeds[k], drawn[k], strict=True):
            (uniform,) = uniform_numbers([[seed]], decoding.max_new_tokens)[0]
            ids: list[int] = []
            for number in uniform:
                logits = twin_logits(tiny.model, [*prompt.ids, *ids], prompt)[-1:]
                logits[:, suppressed] = -torch.inf
                ids.append(int(choose_tokens(logits, decoding, number[None])))
            assert list(answer.token_ids) == ids
