"""Prefix trees: encode the image once, run the prompt once, and hang everything else from it as branches.

    row        <s> USER: <image>…<image> Describe the image. ASSISTANT: │ There is a … </s> │ There is no … </s> │ pad
    segment    ───────────────────── prefix ─────────────────────────── │ ─── branch 0 ──── │ ──── branch 1 ──── │
    position   0 1 2 …                                             P-1  │ P P+1 P+2 …       │ P P+1 P+2 …        │ 0
    attends    causally within the prefix                               │ prefix and itself │ prefix and itself  │ itself

Branches never see their siblings and their positions restart at the end of the prefix, so every log-prob equals the one
of the separate sequence `prefix + branch`, up to floating-point order. The ten sampled answers of an image, the questions
about their claims, and the chosen and the rejected answer of a pair all have this form. Several trees share a row as long
as they fit its token budget; they do not see each other either.

A branch may start with text that is read but not scored (a question before its answer): `Branch.context`.

Shapes: B rows, L tokens per row, S scored tokens over all branches, N branches over all trees, V vocabulary, D hidden size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from rlaifv.models.attention import in_blocks
from rlaifv.models.last_layer import last_mlp_at

HEAD_CHUNK_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Branch:
    """Ids that follow a prefix. The first `context` of them are read only; the others are the completion, which is scored."""

    ids: Sequence[int]
    context: int = 0


@dataclass(frozen=True, slots=True)
class Tree:
    """One prefix with its branches. `prefix` holds every image placeholder and at least one id."""

    prefix: Sequence[int]
    branches: Sequence[Branch]

    def __post_init__(self) -> None:
        if not self.prefix:
            raise ValueError("A tree needs a prefix of at least one token.")

    @property
    def num_tokens(self) -> int:
        return len(self.prefix) + sum(len(branch.ids) for branch in self.branches)

    @classmethod
    def from_sequences(cls, sequences: Sequence[Sequence[int]], image_token_id: int) -> "Tree":
        """Share the longest common prefix of whole prompts; what differs becomes branches that are read, not scored.

        Raises:
            ValueError: an image placeholder would land in a branch, as it does where a template puts text before images.
        """
        shortest = min(len(ids) for ids in sequences)
        shared = next((k for k in range(shortest) if len({ids[k] for ids in sequences}) > 1), shortest)
        branches = tuple(Branch(ids[shared:], context=len(ids) - shared) for ids in sequences)
        if any(image_token_id in branch.ids for branch in branches):
            raise ValueError(
                "The chat template puts text before the image, so prompts about one image share no prefix."
            )
        return cls(sequences[0][:shared], branches)

    def split(self, max_tokens: int) -> "Iterator[Tree]":
        """Trees of at most `max_tokens` tokens that share out the branches (one branch at least each)."""
        some: list[Branch] = []
        size = len(self.prefix)
        for branch in self.branches:
            if some and size + len(branch.ids) > max_tokens:
                yield Tree(self.prefix, tuple(some))
                some, size = [], len(self.prefix)
            some.append(branch)
            size += len(branch.ids)
        yield Tree(self.prefix, tuple(some))


@dataclass(frozen=True, slots=True)
class PackedTrees:
    """Trees laid out in padded rows, with the places to read from.

    input_ids, position_ids: int64[B, L]
    attention_mask: bool[B, 1, L, L], True where a query (third axis) may attend
    tree_order: the trees in reading order, which is the order in which their image features must be given
    score_index: int64[S], flat index into B * L of the hidden state that predicts each completion token
    targets: int64[S], those tokens
    branch_lengths: completion length of each branch, trees in the order given to `pack`
    last_index: int64[N], flat index of each branch's last token, or of the prefix's where the branch is empty
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    tree_order: tuple[int, ...]
    score_index: Tensor
    targets: Tensor
    branch_lengths: tuple[int, ...]
    last_index: Tensor

    def to(self, device: torch.device) -> "PackedTrees":
        tensors = {name: getattr(self, name) for name in self.__slots__ if isinstance(getattr(self, name), Tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Cut per-token values [S] into one tensor per branch."""
        return values.split(list(self.branch_lengths))


def assign_rows(sizes: Sequence[int], row_tokens: int) -> list[list[int]]:
    """First-fit, largest first: indices of trees per row, each row within `row_tokens` unless one tree alone exceeds it.

    >>> assign_rows([5, 9, 4], row_tokens=10)
    [[1], [0, 2]]
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for tree in sorted(range(len(sizes)), key=lambda k: -sizes[k]):
        row = next((r for r, free in enumerate(room) if free >= sizes[tree]), None)
        if row is None:
            rows.append([tree])
            room.append(row_tokens - sizes[tree])
        else:
            rows[row].append(tree)
            room[row] -= sizes[tree]
    return rows


def pack(trees: Sequence[Tree], row_tokens: int = 0, pad_id: int = 0) -> PackedTrees:
    """Lay trees out in rows of at most `row_tokens` tokens, or as long as the longest tree, so that padding stays small."""
    sizes = [tree.num_tokens for tree in trees]
    rows = assign_rows(sizes, max(row_tokens, max(sizes)))
    length = max(sum(trees[k].num_tokens for k in row) for row in rows)
    input_ids = torch.full((len(rows), length), pad_id)
    position_ids = torch.zeros(len(rows), length, dtype=torch.int64)
    # A segment is a prefix or a branch; padding gets segments of its own, so that it attends to itself alone.
    segment = torch.arange(length).repeat(len(rows), 1).neg() - 1
    parent = segment.clone()
    score_index: list[list[int]] = [[] for _ in trees]
    targets: list[list[int]] = [[] for _ in trees]
    last_index: list[list[int]] = [[] for _ in trees]
    lengths: list[list[int]] = [[] for _ in trees]
    for r, row in enumerate(rows):
        at = num_segments = 0
        for k in row:
            prefix = trees[k].prefix
            prefix_end, prefix_segment = at + len(prefix), num_segments
            spans = [(prefix, at, 0)]
            at = prefix_end
            for branch in trees[k].branches:
                spans.append((branch.ids, at, len(prefix)))
                # The token before position `j` of a branch is its own token j - 1, or the prefix's last one.
                before = [prefix_end - 1, *range(at, at + len(branch.ids))]
                score_index[k] += [r * length + j for j in before[branch.context : -1]]
                targets[k] += list(branch.ids[branch.context :])
                lengths[k].append(len(branch.ids) - branch.context)
                last_index[k].append(r * length + before[-1])
                at += len(branch.ids)
            for ids, start, position in spans:
                here = slice(start, start + len(ids))
                input_ids[r, here] = torch.tensor(ids, dtype=torch.int64)
                position_ids[r, here] = torch.arange(position, position + len(ids))
                segment[r, here] = num_segments
                parent[r, here] = prefix_segment
                num_segments += 1
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    own = segment[:, :, None] == segment[:, None, :]
    above = parent[:, :, None] == segment[:, None, :]
    return PackedTrees(
        input_ids=input_ids,
        position_ids=position_ids,
        attention_mask=((own | above) & causal)[:, None],
        tree_order=tuple(k for row in rows for k in row),
        score_index=torch.tensor([j for of_tree in score_index for j in of_tree], dtype=torch.int64),
        targets=torch.tensor([t for of_tree in targets for t in of_tree], dtype=torch.int64),
        branch_lengths=tuple(n for of_tree in lengths for n in of_tree),
        last_index=torch.tensor([j for of_tree in last_index for j in of_tree], dtype=torch.int64),
    )


def hidden_states(model: Any, packed: PackedTrees, images: dict[str, Any], places: Tensor) -> Tensor:
    """Run the backbone over packed trees.

    Args:
        model: a Hugging Face image-text-to-text model (not wrapped in PEFT).
        packed: trees on the model's device.
        images: the image arguments of the model's forward, images in the order of `packed.tree_order`.
        places: int64[S], flat indices into B * L of the states that are wanted: `score_index` or `last_index`.

    Returns:
        float[S, D].

    Raises:
        ValueError: the model's attention implementation takes no mask of this kind.
    """
    mask = _mask_for(model, packed.attention_mask)
    with last_mlp_at(model, places):
        output = model.base_model(
            input_ids=packed.input_ids, position_ids=packed.position_ids, attention_mask=mask, use_cache=False, **images
        )
    return output.last_hidden_state.flatten(0, 1)[places]


def _mask_for(model: Any, allowed: Tensor) -> Any:
    """`allowed` [B, 1, L, L] in the form that the model's attention implementation reads."""
    attention = model.config._attn_implementation
    if attention == "sdpa":
        return in_blocks(allowed, model.dtype)
    if attention == "eager":  # adds its mask to the scores instead of selecting by it
        lowest = torch.finfo(model.dtype).min
        return torch.zeros_like(allowed, dtype=model.dtype).masked_fill(~allowed, lowest)
    if attention == "flex_attention":  # would add a dense mask too
        rows, _, length, _ = allowed.shape
        return create_block_mask(
            lambda row, _, query, key: allowed[row, 0, query, key], rows, None, length, length, device=allowed.device
        )
    raise ValueError(f"model.attention={attention!r} cannot run trees; use sdpa, eager or flex_attention.")


def branch_logps(model: Any, packed: PackedTrees, images: dict[str, Any]) -> Tensor:
    """Log-prob of every completion token of every branch.

    The vocabulary projection sees completion tokens only, `HEAD_CHUNK_TOKENS` at a time. Where one chunk does not hold them
    all, chunks are recomputed in the backward pass, so that memory does not grow with vocabulary times length.

    Returns:
        float32[S], with gradient where the caller has it enabled; `packed.split` cuts it by branch.
    """
    hidden = hidden_states(model, packed, images, packed.score_index)
    head = model.get_output_embeddings()
    chunks = list(zip(hidden.split(HEAD_CHUNK_TOKENS), packed.targets.split(HEAD_CHUNK_TOKENS), strict=True))
    if torch.is_grad_enabled() and len(chunks) > 1:
        return torch.cat([checkpoint(_target_logps, head, h, t, use_reentrant=False) for h, t in chunks])
    return torch.cat([_target_logps(head, h, t) for h, t in chunks])


def _target_logps(head: torch.nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return -cross_entropy(head(hidden).float(), targets, reduction="none")


def next_token_logps(model: Any, packed: PackedTrees, images: dict[str, Any], token_ids: Tensor) -> Tensor:
    """Log-prob of each of `token_ids` [T] as the token that follows each branch.

    Returns:
        float32[N, T].
    """
    hidden = hidden_states(model, packed, images, packed.last_index)
    head = model.get_output_embeddings()
    return torch.cat([head(h).float().log_softmax(1)[:, token_ids] for h in hidden.split(HEAD_CHUNK_TOKENS)])


def batches_by_tokens(sizes: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Consecutive indices whose padded size, rows times longest row, stays within `max_tokens` (at least one each)."""
    batch: list[int] = []
    longest = 0
    for k, size in enumerate(sizes):
        longest = max(longest, size)
        if batch and longest * (len(batch) + 1) > max_tokens:
            yield batch
            batch, longest = [], size
        batch.append(k)
    if batch:
        yield batch
