"""RefoMB: how often a judge finds an answer better, and freer of hallucination, than GPT-4V's (arXiv 2405.17220)."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from rlaifv.metrics.by_row import RowMetric, share

NUM_QUESTIONS = 99
InvalidJudge = Literal["official", "skip", "raise"]
_VERDICTS = {"A": 0.0, "B": 1.0, "C": 0.5}


def read_verdict(review: str) -> float | None:
    """Return what a review is worth for the candidate B: 1 if it is better, 0 if A is, 0.5 for a tie; None without a verdict.

    The first verdict counts, not the last.

    >>> read_verdict("[[B]], or else [[A]]"), read_verdict("a tie: [[C]]"), read_verdict("[B]")
    (1.0, 0.5, None)
    """
    found = re.search(r"\[\[([ABC])\]\]", review)
    return _VERDICTS[found[1]] if found else None


def read_verdicts(overall: str, hallucination: str) -> tuple[float | None, float | None]:
    """Return what the two reviews of an answer are worth; without a first verdict there is no second one.

    >>> read_verdicts("[[B]]", "[[C]]"), read_verdicts("?", "[[C]]")
    ((1.0, 0.5), (None, None))
    """
    won = read_verdict(overall)
    return won, None if won is None else read_verdict(hallucination)


def refomb_scores(
    overall: Sequence[str], hallucination: Sequence[str], invalid_judge: InvalidJudge = "official"
) -> dict[str, float]:
    """Return trust and win of R answers, defined as in `RefoMB`.

    >>> refomb_scores(["[[B]]", "[[A]]", "[[C]]", "?"], ["[[B]]", "[[B]]", "[[A]]", "[[B]]"])
    {'trust': 0.6666666666666666, 'win': 0.5}
    """
    metric = RefoMB(len(overall), invalid_judge)
    metric.update(overall, hallucination)
    return {name: value.item() for name, value in metric.compute().items()}


class RefoMB(RowMetric):
    """How an answer (B) fares against GPT-4V's (A), which always comes first.

    - `win`: share of answers that the first stage of the judge finds better overall
    - `trust`: share that the second stage, which reads the first one's review only, finds freer of hallucination

    Both in [0, 1], ties count half, so GPT-4V itself would have 0.5. A review without a verdict is left out, and an answer
    without a first verdict has no second one, as where the official script loses an item; `num_invalid` counts them.
    `invalid_judge="skip"` is the same rule, "raise" refuses them.

    >>> metric = RefoMB(4)
    >>> metric.update(["[[B]]", "[[A]]", "[[C]]", "?"], ["[[B]]", "[[B]]", "[[A]]", "[[B]]"])
    >>> {name: round(value.item(), 3) for name, value in metric.compute().items()}, metric.num_invalid
    ({'trust': 0.667, 'win': 0.5}, 1)
    """

    columns = ("won", "is_judged", "trusted", "is_read")  # read in both stages
    higher_is_better = True

    def __init__(self, num_rows: int = NUM_QUESTIONS, invalid_judge: InvalidJudge = "official", **kwargs: Any) -> None:
        """Start without any review.

        Args:
            num_rows: how many questions there are.
            invalid_judge: whether a review without a verdict is an error.
            kwargs: options of `torchmetrics.Metric`.
        """
        super().__init__(num_rows, **kwargs)
        self.invalid_judge = invalid_judge

    def update(self, overall: Sequence[str], hallucination: Sequence[str], rows: Sequence[int] | None = None) -> None:
        """Add the reviews of R answers.

        Args:
            overall: what the judge wrote in the first stage.
            hallucination: what it wrote in the second.
            rows: numbers of the questions; in order from the first if not given.

        Raises:
            ValueError: the arguments differ in length, or a row is unknown or came with another verdict; or a review has
                no verdict with `invalid_judge="raise"`.
        """
        numbers = self._numbers(rows, overall=overall, hallucination=hallucination)
        values = []
        for first, second in zip(overall, hallucination, strict=True):
            won, trusted = read_verdicts(first, second)
            if self.invalid_judge == "raise" and trusted is None:
                raise ValueError(f"A review has no verdict: {first if won is None else second!r:.100}.")
            values.append((won or 0, won is not None, trusted or 0, trusted is not None))
        self._put(numbers, values)

    def compute(self) -> dict[str, Tensor]:
        """Return float64[] for trust and win.

        Raises:
            ValueError: a stage has no verdict at all.
        """
        won, judged, trusted, read = self._values().sum(0).tolist()
        scores = {
            "trust": share("trust", trusted, read, "no second review has a verdict"),
            "win": share("win", won, judged, "no first review has a verdict"),
        }
        return self._tensors(scores)
