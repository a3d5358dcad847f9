"""Keys and values of prompts being decoded: one row per prompt, with its prefix once and all its branches' tokens.

    row     prefix │ first tokens of the branches │ second tokens │ …     branches that ended take no more slots
    slot    0 …    │ n n+1 n+2 …                  │ …

The cache does not know which branch a slot belongs to; the mask decides who may read it.

Shapes: P rows, S slots a row, B rows of a forward pass and T tokens in each, H key-value heads, D head size.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class BranchLayer(CacheLayerMixin):
    """One layer's keys and values, [P, S, H, D] each, written where the cache says."""

    keys: Tensor
    values: Tensor

    def __init__(self, cache: "BranchCache") -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate all rows with zeros: masked values are still multiplied by zero, so they must not be NaN."""
        rows, slots = self.cache.num_rows, self.cache.num_slots
        for name, states in (("keys", key_states), ("values", value_states)):
            setattr(self, name, states.new_zeros(rows, slots, states.shape[1], states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store the states [B, H, T, D] of the new tokens, and return those that attention reads."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.keys.shape[1] < self.cache.num_slots:
            self.keys, self.values = (_widened(states, self.cache.num_slots) for states in (self.keys, self.values))
        for stored, states in ((self.keys, key_states), (self.values, value_states)):
            stored.flatten(0, 1).index_copy_(0, self.cache.index, states.transpose(1, 2).flatten(0, 1))
        if not self.cache.view_slots:
            return key_states, value_states
        view = slice(self.cache.view_slots)
        return self.keys[:, view].transpose(1, 2), self.values[:, view].transpose(1, 2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return `(kv_length, kv_offset)` for the attention mask."""
        return self.cache.view_slots or query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of slots before the new tokens; 0 while prefixes run, which attend to themselves only."""
        return self.cache.slots_before

    def get_max_length(self) -> int:
        """Return -1: there is no maximum."""
        return -1


def _widened(states: Tensor, num_slots: int) -> Tensor:
    wider = states.new_empty(len(states), num_slots, *states.shape[2:])
    wider[:, : states.shape[1]] = states
    wider[:, states.shape[1] :] = 0
    return wider


class BranchCache(Cache):
    """Slots that are written in place; before each forward pass, `place` says where its tokens go.

    Args:
        num_rows: P.
        num_slots: S to begin with.
    """

    def __init__(self, num_rows: int, num_slots: int) -> None:
        super().__init__(layers=[])
        self.num_rows, self.num_slots = num_rows, num_slots
        self.index: Tensor = torch.empty(0, dtype=torch.int64)
        self.view_slots = self.slots_before = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """See `BranchLayer.update`; layers are made as the model first asks for them."""
        while len(self.layers) <= layer_idx:
            self.layers.append(BranchLayer(self))
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def reserve(self, num_slots: int) -> None:
        """Grow to at least so many slots per row, by at least a quarter: all copies cost at most five passes."""
        if num_slots > self.num_slots:
            self.num_slots = max(num_slots, self.num_slots * 5 // 4)

    def place(self, rows_B: Tensor, slots_BT: Tensor, view_slots: int) -> None:
        """Set where the next tokens are stored, and how many slots of every row they attend to.

        Args:
            rows_B: int64[B], all rows in order unless `view_slots` is 0.
            slots_BT: int64[B, T].
            view_slots: 0 for prefixes, which attend to themselves only.
        """
        self.index = (rows_B[:, None] * self.num_slots + slots_BT).flatten()
        self.view_slots, self.slots_before = view_slots, max(0, view_slots - slots_BT.shape[1])

    def keep_rows(self, rows: Tensor) -> None:
        """Keep only these rows, in this order. Those among the first len(rows) stay in place and are not copied."""
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero().squeeze(1)
        self.num_rows = len(rows)
        for layer in self.layers:
            for name in ("keys", "values"):
                states = getattr(layer, name)
                states[moved] = states[rows[moved]]
                setattr(layer, name, states[: len(rows)])
