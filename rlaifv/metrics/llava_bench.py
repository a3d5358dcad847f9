"""LLaVA-Bench (in the wild): a judge's ratings of answers, relative to those of a reference's (arXiv 2304.08485)."""

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from rlaifv.metrics.by_row import RowMetric, share

CATEGORIES = ("conv", "detail", "complex")
InvalidJudge = Literal["official", "skip", "raise"]
Parser = Literal["official", "lmms_eval", "vlmevalkit"]
Rounding = Literal["official", "none"]


def read_ratings(review: str, parser: Parser = "official") -> tuple[float, float] | None:
    """Return the ratings of the reference and of the model, None where a review's first line does not hold them.

    Args:
        review: what the judge wrote.
        parser: "official" wants two numbers and a single space or comma between them, and nothing else; "vlmevalkit" is
            the same; "lmms_eval" takes the first two numbers, whatever else the line says.

    >>> read_ratings("9,8"), read_ratings("9, 8"), read_ratings("9, 8", "lmms_eval"), read_ratings("8/10 7/10", "lmms_eval")
    ((9.0, 8.0), None, (9.0, 8.0), (8.0, 10.0))
    """
    if parser == "lmms_eval":
        parts = re.findall(r"-?\d+(?:\.\d+)?", review.strip().split("\n")[0])[:2]
    else:
        parts = review.split("\n")[0].replace(",", " ").split(" ")
    try:
        first, second = map(float, parts)
    except ValueError:  # not two, or no numbers
        return None
    return (first, second) if math.isfinite(first) and math.isfinite(second) else None


def llava_bench_scores(
    reviews: Sequence[str],
    categories: Sequence[str],
    parser: Parser = "official",
    invalid_judge: InvalidJudge = "official",
    rounding: Rounding = "official",
) -> dict[str, float]:
    """Return scores of R reviews of questions of these categories, named and defined as in `LLaVABench`.

    >>> llava_bench_scores(["8 6", "10 8", "nine"], ["conv", "conv", "detail"])
    {'all': 76.5, 'conv': 77.8, 'detail': 100.0}
    """
    metric = LLaVABench(categories, parser, invalid_judge, rounding)
    metric.update(reviews)
    return {name: value.item() for name, value in metric.compute().items()}


class LLaVABench(RowMetric):
    """Mean rating of the answers in percent of the reference's mean rating.

    `all` and one for each category that came (`conv`, `detail`, `complex`). It is a ratio of means, and each mean is
    rounded to 3 decimals before it is divided, and the percent to 1 after (`rounding="none"`: neither;
    `parser="vlmevalkit"`: the percent only).

    An unreadable review counts as −1 for both in the official summary; `invalid_judge="skip"` leaves it out, as RLHF-V's
    summary does, and "raise" refuses it. `num_invalid` counts them.

    >>> metric = LLaVABench(["conv", "conv", "detail"])
    >>> metric.update(["8 6", "10 8", "nine"])
    >>> {name: value.item() for name, value in metric.compute().items()}, metric.num_invalid
    ({'all': 76.5, 'conv': 77.8, 'detail': 100.0}, 1)
    """

    columns = ("reference", "model", "is_read")
    higher_is_better = True

    def __init__(
        self,
        categories: Sequence[str],
        parser: Parser = "official",
        invalid_judge: InvalidJudge = "official",
        rounding: Rounding = "official",
        **kwargs: Any,
    ) -> None:
        """Start without any review.

        Args:
            categories: of each question.
            parser: how a review is read, as in `read_ratings`.
            invalid_judge: what an unreadable review is worth.
            rounding: as described above.
            kwargs: options of `torchmetrics.Metric`.

        Raises:
            ValueError: there is no such category.
        """
        super().__init__(len(categories), **kwargs)
        if unknown := sorted({*categories} - {*CATEGORIES}):
            raise ValueError(f"A category of questions has to be one of {', '.join(CATEGORIES)}, not {unknown[0]!r}.")
        self.categories = tuple(categories)
        self.parser, self.invalid_judge, self.rounding = parser, invalid_judge, rounding

    def update(self, reviews: Sequence[str], rows: Sequence[int] | None = None) -> None:
        """Add R reviews.

        Args:
            reviews: what the judge wrote.
            rows: numbers of the questions that they are about; in order from the first if not given.

        Raises:
            ValueError: there are not as many numbers as reviews, or a row is unknown or came with other ratings; or a
                review is unreadable with `invalid_judge="raise"`.
        """
        numbers = self._numbers(rows, reviews=reviews)
        read = [read_ratings(review, self.parser) for review in reviews]
        if self.invalid_judge == "raise" and None in read:
            raise ValueError(f"Review {read.index(None)} has no two ratings: {reviews[read.index(None)]!r:.100}.")
        self._put(numbers, [(*(ratings or (-1.0, -1.0)), ratings is not None) for ratings in read])

    def compute(self) -> dict[str, Tensor]:
        """Return float64[] for `all` and the categories that came.

        Raises:
            ValueError: no review counts, or the reference's mean rating is 0.
        """
        values, rows = self._values(), self._seen()
        if self.invalid_judge == "skip":
            rows, values = rows[values[:, 2] > 0], values[values[:, 2] > 0]
        scores = {"all": self._relative("all", values)}
        for name in CATEGORIES:
            of_category = torch.tensor([self.categories[row] == name for row in rows.tolist()], dtype=torch.bool)
            if of_category.any():
                scores[name] = self._relative(name, values[of_category.to(values.device)])
        return self._tensors(scores)

    def _relative(self, name: str, values: Tensor) -> float:
        sums = values.sum(0).tolist()
        reference, model, _ = (share(name, one, len(values), "no review has two ratings") for one in sums)
        if self.rounding == "official" and self.parser != "vlmevalkit":
            reference, model = round(reference, 3), round(model, 3)
        percent = share(name, model, reference, "the reference is rated 0 on average") * 100
        return round(percent, 1) if self.rounding == "official" else percent
