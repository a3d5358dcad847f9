"""Numbers that are known of each row of a benchmark, so that rows count once however often they come."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class RowMetric(Metric):
    """Base of metrics over the rows of a benchmark, whose number is known from its question file.

    Samplers pad the last batch of a rank with rows that others have too; a row that comes again changes nothing, on
    whatever rank. States are sums, so neither order nor batches nor ranks matter.

    Shapes: N rows, V values of each.
    """

    is_differentiable = False
    full_state_update = False
    totals: Tensor
    times: Tensor

    def __init__(self, num_rows: int, num_values: int, **kwargs: Any) -> None:
        """Start without any row.

        Args:
            num_rows: how many rows the benchmark has.
            num_values: how many values are kept of each.
            kwargs: options of `torchmetrics.Metric`.
        """
        super().__init__(**kwargs)
        self.add_state("totals", torch.zeros(num_rows, num_values, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("times", torch.zeros(num_rows, dtype=torch.int64), dist_reduce_fx="sum")

    def _numbers(self, rows: Sequence[int] | None, num_texts: int) -> Sequence[int]:
        """The numbers of the rows that texts are about: from the first if not given.

        Raises:
            ValueError: there are not as many as texts, or one is out of range.
        """
        numbers = range(num_texts) if rows is None else rows
        if len(numbers) != num_texts:
            raise ValueError(f"There are {num_texts} texts, but {len(numbers)} numbers of rows.")
        if wrong := [row for row in numbers if not 0 <= row < len(self.times)]:
            raise ValueError(f"Row {wrong[0]} is none of the {len(self.times)} rows of the benchmark.")
        return numbers

    def _put(self, rows: Sequence[int], values: Sequence[Sequence[float]]) -> None:
        """Add the values of rows.

        Raises:
            ValueError: a row came before with other values.
        """
        index = torch.tensor(list(rows), dtype=torch.int64, device=self.times.device)
        added = torch.tensor([list(some) for some in values], dtype=torch.float64, device=self.totals.device)
        added = added.reshape(len(values), self.totals.shape[1])
        totals = self.totals.index_add(0, index, added)
        times = self.times.index_add(0, index, torch.ones_like(index))
        same = torch.isclose(added * times[index, None], totals[index], rtol=1e-9, atol=0).all(1)
        if not same.all():
            raise ValueError(f"Row {int(index[~same][0])} came more than once, with different answers.")
        self.totals, self.times = totals, times

    def _seen(self) -> Tensor:
        """Numbers of the rows that came: int64[K]."""
        return self.times.nonzero().flatten()

    def _values(self) -> Tensor:
        """Their values: float64[K, V]."""
        seen = self._seen()
        return self.totals[seen] / self.times[seen, None]
