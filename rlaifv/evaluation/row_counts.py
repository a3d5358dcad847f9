"""Named counts of the rows of a benchmark, and percentages of them."""

from typing import Any, ClassVar

from rlaifv.evaluation.by_row import RowMetric


class RowCounts(RowMetric):
    """Base of metrics that sum whole numbers, named by `columns`, over the rows of a benchmark."""

    columns: ClassVar[tuple[str, ...]]

    def __init__(self, num_rows: int, **kwargs: Any) -> None:
        """Start without any row.

        Args:
            num_rows: how many rows the benchmark has; some may never come.
            kwargs: options of `torchmetrics.Metric`.
        """
        super().__init__(num_rows, len(self.columns), **kwargs)

    def sums(self) -> dict[str, int]:
        """The counts summed over the rows that came, by name."""
        return dict(zip(self.columns, self._values().sum(0).long().tolist(), strict=True))


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
