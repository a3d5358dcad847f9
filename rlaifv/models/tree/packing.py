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

`pack` knows ids alone. What a family makes of them (positions on three axes, windows, images that see themselves whole) is
added in `hidden_states`, from `rlaifv.models.tree.attention`. A model that is no known family, or was found to differ, reads
`separate(trees)` instead: the same object with one plain sequence per branch, which costs an image per branch.

Shapes: B rows, L tokens per row, S scored tokens over all branches, N branches over all trees, V vocabulary, D hidden size.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from rlaifv.models.tree.attention import (
    attention_masks,
    image_arguments,
    open_images,
    prefix_positions,
    stock_arguments,
    uses_mrope,
)
from rlaifv.models.tree.last_layer import last_mlp_at

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
        """Return trees of at most `max_tokens` tokens that share out the branches (one branch at least each)."""
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

    input_ids: int64[B, L]
    position_ids: int64[B, L], which token of its own sequence `prefix + branch` each one is
    attention_mask: bool[B, 1, L, L], True where a query (third axis) may attend; or, of separate sequences, bool[B, L],
        False in padding
    tree_order: the trees in reading order, which is the order in which their images must be given
    tree_ids: int64[B, L], which tree of that order each token belongs to; -1 in padding
    prefixes: the prefixes in that order
    score_index: int64[S], flat index into B * L of the hidden state that predicts each completion token
    targets: int64[S], those tokens
    branch_lengths: completion length of each branch, trees in the order given to `pack`
    last_index: int64[N], flat index of each branch's last token, or of the prefix's where the branch is empty
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    tree_order: tuple[int, ...]
    tree_ids: Tensor
    prefixes: tuple[tuple[int, ...], ...]
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

    @property
    def own_index(self) -> Tensor:
        """int64[S], flat index into B * L of each completion token's own hidden state, which has read the token.

        It is the one that predicts the next token; the last one's is the branch's last. Empty completions have none.
        """
        lasts = self.last_index.split(1)
        parts = zip(self.split(self.score_index), lasts, strict=True)
        return torch.cat([torch.cat([some[1:], last]) if len(some) else some for some, last in parts])


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


def pack(trees: Sequence[Tree], row_tokens: int = 0, pad_id: int = 0, share_rows: bool = True) -> PackedTrees:
    """Lay trees out in rows of at most `row_tokens` tokens, or as long as the longest tree, so that padding stays small.

    Without `share_rows`, each tree has a row of its own.
    """
    sizes = [tree.num_tokens for tree in trees]
    rows = assign_rows(sizes, max(row_tokens, *sizes) if share_rows else 0)
    length = max(sum(trees[k].num_tokens for k in row) for row in rows)
    input_ids = torch.full((len(rows), length), pad_id)
    position_ids = torch.zeros(len(rows), length, dtype=torch.int64)
    # A segment is a prefix or a branch; padding gets segments of its own, so that it attends to itself alone.
    segment = torch.arange(length).repeat(len(rows), 1).neg() - 1
    parent = segment.clone()
    tree_order = [k for row in rows for k in row]
    tree_ids = torch.full_like(segment, -1)
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
            tree_ids[r, prefix_end - len(prefix) : at] = tree_order.index(k)
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
        tree_order=tuple(tree_order),
        tree_ids=tree_ids,
        prefixes=tuple(tuple(trees[k].prefix) for k in tree_order),
        score_index=torch.tensor([j for of_tree in score_index for j in of_tree], dtype=torch.int64),
        targets=torch.tensor([t for of_tree in targets for t in of_tree], dtype=torch.int64),
        branch_lengths=tuple(n for of_tree in lengths for n in of_tree),
        last_index=torch.tensor([j for of_tree in last_index for j in of_tree], dtype=torch.int64),
    )


def separate(trees: Sequence[Tree], pad_id: int = 0) -> PackedTrees:
    """Return the slow path: every branch is a row of its own, prefix and images included, and the model's stock mask holds.

    All functions on packed trees accept these, with the same results.
    """
    single = [(k, Tree(tree.prefix, (branch,))) for k, tree in enumerate(trees) for branch in tree.branches]
    packed = pack([tree for _, tree in single], pad_id=pad_id, share_rows=False)
    return replace(
        packed,
        attention_mask=packed.tree_ids >= 0,
        tree_order=tuple(single[k][0] for k in packed.tree_order),
    )


@dataclass(slots=True)
class Packer:
    """How one model reads trees. All users of a model share its packer, so that all take the same path.

    pad_id: fills rows.
    separately: whether branches become plain sequences: the model is of no known family, or its trees were found to differ.
    """

    pad_id: int = 0
    separately: bool = False

    def __call__(self, trees: Sequence[Tree], row_tokens: int = 0) -> PackedTrees:
        """Return rows of trees, as `pack`; or rows of sequences, which are never joined."""
        return separate(trees, self.pad_id) if self.separately else pack(trees, row_tokens, self.pad_id)

    def num_tokens(self, tree: Tree) -> int:
        """Return what a tree takes in its rows."""
        return tree.num_tokens + self.separately * len(tree.prefix) * (len(tree.branches) - 1)

    def split(self, tree: Tree, max_tokens: int) -> Iterator[Tree]:
        """Yield trees that take at most `max_tokens` tokens each (one branch at least) and share out the branches."""
        if not self.separately:
            yield from tree.split(max_tokens)
            return
        longest = len(tree.prefix) + max((len(branch.ids) for branch in tree.branches), default=0)
        number = max(1, max_tokens // longest)
        for k in range(0, len(tree.branches), number):
            yield Tree(tree.prefix, tree.branches[k : k + number])


def hidden_states(model: Any, packed: PackedTrees, images: Mapping[str, Any], places: Tensor) -> Tensor:
    """Run the backbone over packed trees.

    Args:
        model: a Hugging Face image-text-to-text model (not wrapped in PEFT).
        packed: trees on the model's device.
        images: the image arguments of the model's forward, images in the order of `packed.tree_order`.
        places: int64[S], flat indices into B * L of the states that are wanted: `score_index`, `own_index` or `last_index`.

    Returns:
        float[S, D].

    Raises:
        ValueError: the model's attention implementation takes no mask of this kind.
    """
    images = image_arguments(model, images)
    if packed.attention_mask.dim() == 2:
        arguments = stock_arguments(model, packed.input_ids, packed.attention_mask)
        output = model.base_model(input_ids=packed.input_ids, use_cache=False, **arguments, **images)
    else:
        order = packed.position_ids
        allowed = open_images(model, packed.attention_mask, packed.input_ids, order)
        masks, positions = attention_masks(model, allowed, order, order), _positions(model, packed, images)
        with last_mlp_at(model, places):
            output = model.base_model(
                input_ids=packed.input_ids, position_ids=positions, attention_mask=masks, use_cache=False, **images
            )
    if uses_mrope(model):  # what it noted about these sequences must not reach the next ones
        model.base_model.rope_deltas = None
    return output.last_hidden_state.flatten(0, 1)[places]


def _positions(model: Any, packed: PackedTrees, images: Mapping[str, Any]) -> Tensor:
    """Return position ids as the family numbers tokens: int64[B, L], or int64[3, B, L] with M-RoPE."""
    if not uses_mrope(model):
        return packed.position_ids
    positions = packed.position_ids.repeat(3, 1, 1)
    for k, found in enumerate(prefix_positions(model, packed.prefixes, images)):
        mine, num_tokens = packed.tree_ids == k, len(packed.prefixes[k])
        in_prefix = mine & (packed.position_ids < num_tokens)
        positions[:, mine & ~in_prefix] += int(found.max()) + 1 - num_tokens
        positions[:, in_prefix] = found.to(positions.device)
    return positions


def branch_logps(model: Any, packed: PackedTrees, images: Mapping[str, Any]) -> Tensor:
    """Return the log-prob of every completion token of every branch.

    The vocabulary projection sees completion tokens only, `HEAD_CHUNK_TOKENS` at a time. Where one chunk does not hold them
    all, chunks are recomputed in the backward pass, so that memory does not grow with vocabulary times length.

    Returns:
        float32[S], with gradient where the caller has it enabled; `packed.split` cuts it by branch.
    """
    return target_logps(model, hidden_states(model, packed, images, packed.score_index), packed.targets)


def target_logps(model: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probs of `targets` int64[S] from the states that predict them, float[S, D], as `branch_logps` does."""
    head = model.get_output_embeddings()
    chunks = list(zip(hidden.split(HEAD_CHUNK_TOKENS), targets.split(HEAD_CHUNK_TOKENS), strict=True))
    if torch.is_grad_enabled() and len(chunks) > 1:
        return torch.cat([checkpoint(_target_logps, head, h, t, use_reentrant=False) for h, t in chunks])
    return torch.cat([_target_logps(head, h, t) for h, t in chunks])


def _target_logps(head: torch.nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return -cross_entropy(head(hidden).float(), targets, reduction="none")


def next_token_logps(model: Any, packed: PackedTrees, images: Mapping[str, Any], token_ids: Tensor) -> Tensor:
    """Return the log-prob of each of `token_ids` [T] as the token that follows each branch.

    Returns:
        float32[N, T].
    """
    hidden = hidden_states(model, packed, images, packed.last_index)
    head = model.get_output_embeddings()
    return torch.cat([head(h).float().log_softmax(1)[:, token_ids] for h in hidden.split(HEAD_CHUNK_TOKENS)])


def batches_by_tokens(sizes: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Yield consecutive indices whose padded size, rows times longest row, stays within `max_tokens` (at least one each)."""
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
