"""AMBER, discriminative: answers to yes/no questions about existence, attributes and relations.

AMBER (arXiv 2311.07397), as its script computes it. "No" is the positive class: it is what a model that does not hallucinate
says of things that are not there.

Shapes: Q questions.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from rlaifv.evaluation.rows import RowMetric

# A question's kind: the last part of its type in the annotations, but for existence, which is called hallucination there.
Kind = Literal["existence", "state", "number", "action", "relation"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GROUPS: dict[str, tuple[Kind, ...]] = {
    "existence/": ("existence",),
    "attribute/": ("state", "number", "action"),
    "attribute/state/": ("state",),
    "attribute/number/": ("number",),
    "attribute/action/": ("action",),
    "relation/": ("relation",),
}
DIMENSIONS = ("existence/", "attribute/", "relation/")
PARSERS = ("official", "contains_yes")
SMOOTHING = 0.001  # what every counter of the script starts from; attribute adds up three of them
NAMES = ("accuracy", "precision", "recall", "f1")


def read_answer(text: str, parser: str = "official") -> str:
    """Read an answer.

    Args:
        text: the answer.
        parser: "official" knows "Yes" and "No", and nothing else; "contains_yes", which most reports use, takes any answer
            with "yes" in it for yes and any other for no.

    Returns:
        "yes", "no", or "" for what cannot be read, which is wrong.

    Raises:
        ValueError: there is no such parser.

    >>> [read_answer(text) for text in ("No", "no", "No.", "Yes, it is.")]
    ['no', '', '', '']
    >>> [read_answer(text, "contains_yes") for text in ("No", "no", "No.", "Yes, it is.")]
    ['no', 'no', 'no', 'yes']
    """
    if parser == "contains_yes":
        return "yes" if "yes" in text.lower() else "no"
    if parser != "official":
        raise ValueError(f"AMBER has the parsers {' and '.join(PARSERS)}, but got {parser!r}.")
    return {"Yes": "yes", "No": "no"}.get(text, "")


def discriminative_scores(
    kinds: Sequence[Kind], answers: Sequence[str], truths: Sequence[str], rounded: bool = True
) -> dict[str, float]:
    """Scores of Q answers as in `AMBERDiscriminative`.

    Args:
        kinds: of the questions.
        answers: "yes", "no" or "", as `read_answer` returns them.
        truths: "yes" or "no".
        rounded: to one decimal.

    >>> discriminative_scores(["relation"] * 2, ["no", "no"], ["no", "yes"])
    {'relation/accuracy': 50.0, 'relation/precision': 50.0, 'relation/recall': 99.9, 'relation/f1': 66.6}
    """
    places = [KINDS.index(kind) for kind in kinds]
    no = [truth == "no" for truth in truths]
    counts = [[0] * 5 for _ in KINDS]  # questions, right, answered no, truly no, both
    for place, answer, truth, is_no in zip(places, answers, truths, no, strict=True):
        said_no = answer == "no"
        for column, value in enumerate((True, answer == truth, said_no, is_no, said_no and is_no)):
            counts[place][column] += value
    return _scores(counts, rounded)


class AMBERDiscriminative(RowMetric):
    """Accuracy, precision, recall and F1 of "no", in percent; higher is better in all.

    Named `accuracy`, `precision`, `recall` and `f1` over everything, which only exist where all three dimensions were asked
    about, and with `existence/`, `attribute/`, `attribute/state/`, `attribute/number/`, `attribute/action/` and `relation/`
    in front, for those with a question. As in AMBER's script (arXiv 2311.07397), denominators are 0.001 too large (those of
    attribute 0.003), numbers are rounded to one decimal, and F1 = 2PR / (P + R + k) comes from the rounded ones as shares,
    with k = 0.001 for existence and 0.0001 elsewhere. All truths of existence are "no", so that its precision tells nothing
    and its recall is its accuracy. Without a question, all four are NaN.

    >>> metric = AMBERDiscriminative(num_rows=4)
    >>> metric.update([0, 1], ["existence", "existence"], ["No", "Yes"], ["no", "no"])
    >>> metric.update([2, 3], ["state", "relation"], ["Yes", "No."], ["yes", "no"])
    >>> scores = metric.compute()
    >>> [scores[name].item() for name in ("accuracy", "precision", "recall", "f1", "existence/accuracy")]
    [50.0, 99.9, 33.3, 49.9, 50.0]
    """

    higher_is_better = True

    def __init__(self, num_rows: int, parser: str = "official", rounded: bool = True, **kwargs: Any) -> None:
        """Start with no answer.

        Args:
            num_rows: how many questions there are to be in all.
            parser: how answers are read: see `read_answer`.
            rounded: to one decimal.
            kwargs: options of `torchmetrics.Metric`.

        Raises:
            ValueError: there is no such parser.
        """
        super().__init__(num_rows, 3, **kwargs)
        read_answer("", parser)
        self.parser = parser
        self.rounded = rounded

    def update(
        self, rows: Sequence[int], kinds: Sequence[Kind], responses: Sequence[str], truths: Sequence[str]
    ) -> None:
        """Add Q answers; one that was added before is not counted again.

        Args:
            rows: the place of each among all questions.
            kinds: of the questions.
            responses: raw answers.
            truths: "yes" or "no".

        Raises:
            ValueError: the arguments differ in length, a place or a kind does not exist, or a truth is neither yes nor no.
        """
        sizes = {"rows": len(rows), "kinds": len(kinds), "responses": len(responses), "truths": len(truths)}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"The arguments describe different numbers of questions: {sizes}.")
        for kind, truth in zip(kinds, truths, strict=True):
            if kind not in KINDS or truth not in ("yes", "no"):
                raise ValueError(
                    f"A question is of a kind among {', '.join(KINDS)} and its truth is 'yes' or 'no', but got "
                    f"{kind!r} and {truth!r}."
                )
        answers = [read_answer(response, self.parser) for response in responses]
        self.keep(
            rows,
            [
                (KINDS.index(kind), ("", "yes", "no").index(answer), int(truth == "no"))
                for kind, answer, truth in zip(kinds, answers, truths, strict=True)
            ],
        )

    def compute(self) -> dict[str, Tensor]:
        """Return float64[] for each of the names above."""
        seen = self.seen
        scores = discriminative_scores(
            [KINDS[kind] for kind, _, _ in seen],
            [("", "yes", "no")[answer] for _, answer, _ in seen],
            ["no" if is_no else "yes" for _, _, is_no in seen],
            self.rounded,
        )
        if not seen:
            scores = dict.fromkeys(NAMES, math.nan)
        return {name: torch.tensor(score, dtype=torch.float64) for name, score in scores.items()}


def amber_score(chair: float, f1: float) -> float:
    """AMBER's one number: the mean of 100 - CHAIR and the F1 of all questions, in percent.

    >>> amber_score(chair=7.8, f1=74.7)
    83.45
    """
    return round((100 - chair + f1) / 2, 10)


def _scores(counts: Sequence[Sequence[int]], rounded: bool) -> dict[str, float]:
    asked = {
        prefix: [KINDS.index(kind) for kind in kinds]
        for prefix, kinds in GROUPS.items()
        if any(counts[KINDS.index(kind)][0] for kind in kinds)
    }
    scores: dict[str, float] = {}
    if all(dimension in asked for dimension in DIMENSIONS):
        # The script counts the total with counters of its own, so that their 0.001 comes once.
        scores |= _four("", counts, SMOOTHING, 0.0001, rounded)
    for prefix, places in asked.items():
        constant = 0.001 if prefix == "existence/" else 0.0001
        scores |= _four(prefix, [counts[place] for place in places], SMOOTHING * len(places), constant, rounded)
    return scores


def _four(
    prefix: str, counts: Sequence[Sequence[int]], smoothing: float, constant: float, rounded: bool
) -> dict[str, float]:
    asked, right, said_no, is_no, both = (sum(column) for column in zip(*counts, strict=True))
    parts = ((right, asked), (both, said_no), (both, is_no))
    shares = [some / (smoothing + every) * 100 for some, every in parts]
    if rounded:
        shares = [round(share, 1) for share in shares]
    precision, recall = shares[1] / 100, shares[2] / 100
    f1 = 2 * precision * recall / (precision + recall + constant) * 100
    return dict(zip((prefix + name for name in NAMES), (*shares, round(f1, 1) if rounded else f1), strict=True))
