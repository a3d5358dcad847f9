"""Metrics over the rows of a fixed set of questions, each of which counts once, however often it is seen.

Shapes: N rows of the set, n rows of an update, K numbers kept per row.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class RowMetric(Metric):
    """Keeps K whole numbers for each of N rows; its children say which, and what is computed from them.

    Distributed samplers repeat rows so that every rank gets as many as the others, and sums would count them twice. Here a
    row has its place in a table, and tables of several ranks (and repetitions on one) are merged by their maximum.
    """

    is_differentiable = False
    full_state_update = False
    table: Tensor

    def __init__(self, num_rows: int, num_kept: int, **kwargs: Any) -> None:
        """Start with no row seen.

        Args:
            num_rows: N.
            num_kept: K.
            kwargs: options of `torchmetrics.Metric`.
        """
        super().__init__(**kwargs)
        self.num_rows = num_rows
        # The first column is 1 for rows that were seen.
        self.add_state("table", torch.zeros(num_rows, 1 + num_kept, dtype=torch.int64), dist_reduce_fx="max")

    def keep(self, rows: Sequence[int], kept: Sequence[Sequence[int]]) -> None:
        """Write the numbers of n rows into the table.

        Args:
            rows: their places in the set, from 0.
            kept: [n][K], not negative.

        Raises:
            ValueError: the arguments differ in length, or a place is outside the set.
        """
        if len(rows) != len(kept):
            raise ValueError(f"There are {len(rows)} rows, but numbers for {len(kept)}.")
        if outside := [row for row in rows if not 0 <= row < self.num_rows]:
            raise ValueError(f"Row {outside[0]} is outside of the set, which has rows 0 to {self.num_rows - 1}.")
        if not rows:
            return
        # Merged here as well, since what an index gets that comes twice in one write is undefined.
        merged: dict[int, tuple[int, ...]] = {}
        for row, numbers in zip(rows, kept, strict=True):
            merged[row] = tuple(map(max, numbers, merged.get(row, numbers)))
        places = torch.tensor(list(merged), device=self.table.device)
        new = torch.tensor([(1, *numbers) for numbers in merged.values()], device=self.table.device)
        self.table[places] = torch.maximum(self.table[places], new)

    @property
    def seen(self) -> list[list[int]]:
        """The K numbers of every row that was seen, in the order of the set."""
        rows: list[list[int]] = self.table[self.table[:, 0] > 0, 1:].tolist()
        return rows
