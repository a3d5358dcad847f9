"""MHumanEval: responses that people find hallucinated, by kind (RLHF-V, arXiv 2312.00849, section 4.1)."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from rlaifv.metrics.by_row import RowMetric, share

TYPES = ("object", "position", "number", "other")


class ResponseHallucinationRate(RowMetric):
    """Responses with a hallucination of a kind / responses, in percent, and `all`: with one of any kind.

    Source: arXiv 2312.00849, section 4.1; there is no published script.

    Of four responses one has a wrong object, and one a wrong object and a wrong number:

    >>> import torch
    >>> metric = ResponseHallucinationRate(num_rows=4)
    >>> labels = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    >>> metric.update(labels)
    >>> {name: value.item() for name, value in metric.compute().items()}
    {'object': 50.0, 'position': 0.0, 'number': 25.0, 'other': 0.0, 'all': 50.0}
    """

    columns: ClassVar[tuple[str, ...]] = ("responses", *TYPES, "all")
    higher_is_better = False

    def update(self, labels: Tensor, rows: Sequence[int] | None = None) -> None:
        """Add responses.

        Args:
            labels: whether each has a hallucination of each of `TYPES`, bool[R, 4].
            rows: numbers of the responses among those of the benchmark; in order from the first if not given.

        Raises:
            ValueError: the labels are not of this shape, or a row is unknown or came with other labels.
        """
        if labels.ndim != 2 or labels.shape[1] != len(TYPES):
            raise ValueError(f"Labels have to be bool[R, {len(TYPES)}], but they are {tuple(labels.shape)}.")
        numbers = self._numbers(rows, labels=labels)
        self._put(numbers, [(1, *map(int, row), int(any(row))) for row in labels.bool().tolist()])

    def compute(self) -> dict[str, Tensor]:
        """Return float64[] for each kind, and for `all`.

        Raises:
            ValueError: there is no response.
        """
        sums = self.sums()
        responses = sums.pop("responses")
        rates = {name: 100 * share(name, count, responses, "there is no response") for name, count in sums.items()}
        return self._tensors(rates)


def response_hallucination_rates(labels: Tensor) -> dict[str, float]:
    """Return the values of `ResponseHallucinationRate` for all responses at once, bool[R, 4].

    Raises:
        ValueError: the labels are not of this shape.

    >>> import torch
    >>> response_hallucination_rates(torch.tensor([[False, True, False, False]]))["all"]
    100.0
    """
    metric = ResponseHallucinationRate(len(labels))
    metric.update(labels)
    return {name: value.item() for name, value in metric.compute().items()}
