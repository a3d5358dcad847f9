"""Counts per row of a benchmark, each row once, however often and wherever it is seen.

Shapes: N rows of the benchmark, C counts of a row.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric


class RowCounts(Metric):
    """What metrics that sum integer counts over the rows of a benchmark share.

    Samplers of several processes repeat rows to fill up. So counts are kept by row, with how often the row came, and a row
    that came k times counts as one: its sum over processes divided by k.
    """

    columns: ClassVar[tuple[str, ...]]
    is_differentiable = False
    full_state_update = False
    counts_NC: Tensor
    times_N: Tensor

    def __init__(self, num_rows: int, **kwargs: Any) -> None:
        """Start from zero.

        Args:
            num_rows: how many rows the benchmark has; some may never come.
            kwargs: options of `torchmetrics.Metric`.

        Raises:
            ValueError: `num_rows` is below 1.
        """
        super().__init__(**kwargs)
        if num_rows < 1:
            raise ValueError(f"num_rows has to be at least 1, but it is {num_rows}.")
        self.add_state("counts_NC", torch.zeros(num_rows, len(self.columns), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("times_N", torch.zeros(num_rows, dtype=torch.int64), dist_reduce_fx="sum")

    def add_rows(self, rows: Sequence[int], counts: Sequence[Sequence[int]]) -> None:
        """Add the C counts of some rows.

        Raises:
            ValueError: there are not as many rows as counts, or a row is not in [0, N).
        """
        if len(rows) != len(counts):
            raise ValueError(f"There are {len(rows)} rows, but counts of {len(counts)}.")
        num_rows = len(self.times_N)
        if outside := [row for row in rows if not 0 <= row < num_rows]:
            raise ValueError(f"Row {outside[0]} is not one of the {num_rows} rows, which are counted from 0.")
        if not rows:
            return
        index = torch.tensor(rows, device=self.times_N.device)
        added = torch.tensor(counts, dtype=torch.int64, device=self.counts_NC.device)
        self.counts_NC = self.counts_NC.index_add(0, index, added)
        self.times_N = self.times_N.index_add(0, index, torch.ones_like(index))

    def totals(self) -> dict[str, int]:
        """The counts summed over the rows that came, by name.

        Raises:
            ValueError: a row came again with other counts.
        """
        times = self.times_N.clamp(min=1)[:, None]
        if (wrong := (self.counts_NC % times).any(1)).any():
            raise ValueError(f"Row {int(wrong.nonzero()[0, 0])} came more than once, with different counts.")
        return dict(zip(self.columns, (self.counts_NC // times).sum(0).tolist(), strict=True))


def percentage(name: str, part: float, whole: float, missing: str) -> float:
    """100 · part / whole.

    Raises:
        ValueError: the whole is 0.

    >>> percentage("chair_s", 1, 8, "there is no caption")
    12.5
    """
    if whole == 0:
        raise ValueError(f"{name} is undefined: {missing}.")
    return 100 * part / whole
