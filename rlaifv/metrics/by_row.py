"""Base of metrics over a benchmark's rows, each of which counts once however often it is given."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric


class RowMetric(Metric):
    """Base of metrics over the rows of a benchmark, whose number is known from its question file.

    Samplers pad a rank's last batch with rows of other ranks; a repeated row changes nothing. States are sums, so neither
    order nor batches nor ranks matter.

    Children name what they keep of a row in `columns`, and all are called alike: `update(texts, targets…, rows=None)`, where
    `rows` are the places of the texts among those of the benchmark, in order from the first if not given, and targets are
    what is known of these rows. What is known of all rows beforehand, in words that no tensor keeps, goes to the constructor.
    `compute` returns float64[] by name, and raises a ValueError that names the number where one is undefined.

    Shapes: N rows of the benchmark, V values of each, K rows that came.
    """

    is_differentiable = False
    full_state_update = False
    columns: ClassVar[tuple[str, ...]]
    totals: Tensor
    times: Tensor

    def __init__(self, num_rows: int, **kwargs: Any) -> None:
        """Start without any row.

        Args:
            num_rows: how many rows the benchmark has; some may never come.
            kwargs: options of `torchmetrics.Metric`.
        """
        super().__init__(**kwargs)
        self.add_state("totals", torch.zeros(num_rows, len(self.columns), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("times", torch.zeros(num_rows, dtype=torch.int64), dist_reduce_fx="sum")

    def sums(self) -> dict[str, int]:
        """Return the values summed over the rows that came, by the names of `columns`."""
        return dict(zip(self.columns, self._values().sum(0).long().tolist(), strict=True))

    @property
    def num_invalid(self) -> int:
        """How many texts could not be read; of metrics with a column `is_read`."""
        return int((self._column("is_read") == 0).sum())

    def _numbers(self, rows: Sequence[int] | None, **arguments: Sized) -> Sequence[int]:
        """Return the places of the rows that an update is about.

        Args:
            rows: as given to `update`.
            arguments: of `update`, each with one element per row, by name.

        Raises:
            ValueError: the arguments differ in length, or a place is out of range.
        """
        sizes = {name: len(argument) for name, argument in arguments.items()}
        if rows is not None:
            sizes["rows"] = len(rows)
        if len(set(sizes.values())) > 1:
            raise ValueError(f"The arguments describe different numbers of rows: {sizes}.")
        numbers = range(next(iter(sizes.values()))) if rows is None else rows
        if wrong := [row for row in numbers if not 0 <= row < len(self.times)]:
            raise ValueError(f"Row {wrong[0]} is none of the {len(self.times)} rows of the benchmark, counted from 0.")
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
        """Return places of the rows that came: int64[K]."""
        return self.times.nonzero().flatten()

    def _values(self) -> Tensor:
        """Return the values of the rows that came: float64[K, V]."""
        seen = self._seen()
        return self.totals[seen] / self.times[seen, None]

    def _column(self, name: str) -> Tensor:
        """Return one value of each: float64[K]."""
        return self._values()[:, self.columns.index(name)]

    def _counts(self) -> list[list[int]]:
        """Return the values of the rows that came, if they are whole numbers: [K][V]."""
        counts: list[list[int]] = self._values().long().tolist()
        return counts

    def _tensors(self, scores: Mapping[str, float]) -> dict[str, Tensor]:
        """Return scores as `compute` returns them: float64[] by name."""
        return {name: self.totals.new_tensor(score) for name, score in scores.items()}


def share(name: str, part: float, whole: float, missing: str) -> float:
    """Return a part of a whole, in [0, 1].

    Raises:
        ValueError: the whole is 0; the message names the number, and what is missing.

    >>> share("chair_s", 1, 8, "there is no caption")
    0.125
    """
    if whole == 0:
        raise ValueError(f"{name} is undefined: {missing}.")
    return part / whole
