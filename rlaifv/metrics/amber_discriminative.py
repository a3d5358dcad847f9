"""AMBER, discriminative: answers to yes/no questions about existence, attributes and relations.

AMBER (arXiv 2311.07397), as its script computes it. "No" is the positive class: it is what a model that does not hallucinate
says of things that are not there.

Shapes: Q questions.
"""

from collections.abc import Collection, Sequence
from typing import Any, Literal, get_args

from torch import Tensor

from rlaifv.metrics.by_row import RowMetric
from rlaifv.metrics.yes_no import exact, first_found, reader, whole_word

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


def _official(text: str) -> str:
    return {"Yes": "yes", "No": "no"}.get(text, "")


def _contains_yes(text: str) -> str:
    return "yes" if "yes" in text.lower() else "no"


READERS = {
    "official": _official,
    "contains_yes": _contains_yes,
    "lmms_eval": first_found,
    "vlmevalkit": whole_word,
    "strict": exact,
}
PARSERS = tuple(READERS)
SMOOTHING = 0.001  # what every counter of the script starts from; attribute adds up three of them
ANSWERS = ("", "yes", "no")
NAMES = ("accuracy", "precision", "recall", "f1")


def read_answer(text: str, parser: str = "official") -> str:
    """Read an answer.

    Args:
        text: the answer.
        parser: "official" knows "Yes" and "No", and nothing else; "contains_yes", which most reports use, takes any answer
            with "yes" in it for yes and any other for no; "lmms_eval" wants "no" in an answer for no; "vlmevalkit" looks for
            either word alone; "strict" is "official" in any case, with a full stop allowed.

    Returns:
        "yes", "no", or "" for what cannot be read, which is wrong.

    Raises:
        ValueError: there is no such parser.

    >>> [read_answer(text) for text in ("No", "no", "No.", "Yes, it is.")]
    ['no', '', '', '']
    >>> [read_answer(text, "contains_yes") for text in ("No", "no", "No.", "Yes, it is.")]
    ['no', 'no', 'no', 'yes']
    """
    return reader(READERS, parser, "AMBER")(text)


def discriminative_scores(
    answers: Sequence[str],
    truths: Sequence[str],
    kinds: Sequence[Kind],
    rounded: bool = True,
    dimensions: Collection[str] = DIMENSIONS,
) -> dict[str, float]:
    """Return scores of Q answers as in `AMBERDiscriminative`.

    Args:
        answers: "yes", "no" or "", as `read_answer` returns them.
        truths: "yes" or "no".
        kinds: of the questions.
        rounded: to one decimal.
        dimensions: those that the overall numbers want.

    Raises:
        ValueError: there is no answer.

    >>> discriminative_scores(["no", "no"], ["no", "yes"], ["relation"] * 2)
    {'relation/accuracy': 50.0, 'relation/precision': 50.0, 'relation/recall': 99.9, 'relation/f1': 66.6}
    """
    if not answers:
        raise ValueError("accuracy is undefined: there is no answer.")
    places = [KINDS.index(kind) for kind in kinds]
    no = [truth == "no" for truth in truths]
    counts = [[0] * 5 for _ in KINDS]  # questions, right, answered no, truly no, both
    for place, answer, truth, is_no in zip(places, answers, truths, no, strict=True):
        said_no = answer == "no"
        for column, value in enumerate((True, answer == truth, said_no, is_no, said_no and is_no)):
            counts[place][column] += value
    return _scores(counts, rounded, dimensions)


class AMBERDiscriminative(RowMetric):
    """Accuracy, precision, recall and F1 of "no", in percent; higher is better in all.

    Named `accuracy`, `precision`, `recall` and `f1` over everything, which only exist where all dimensions that there are were
    asked about, and with `existence/`, `attribute/`, `attribute/state/`, `attribute/number/`, `attribute/action/` and
    `relation/` in front, for those with a question. As in AMBER's script (arXiv 2311.07397), denominators are 0.001 too
    large (those of attribute 0.003), numbers are rounded to one decimal, and F1 = 2PR / (P + R + k) comes from the rounded
    ones as shares, with k = 0.001 for existence and 0.0001 elsewhere. All truths of existence are "no", so that its precision
    tells nothing and its recall is its accuracy.

    >>> metric = AMBERDiscriminative(num_rows=4)
    >>> metric.update(["No", "Yes"], ["no", "no"], ["existence", "existence"], rows=[0, 1])
    >>> metric.update(["Yes", "No."], ["yes", "no"], ["state", "relation"], rows=[2, 3])
    >>> scores = metric.compute()
    >>> [scores[name].item() for name in ("accuracy", "precision", "recall", "f1", "existence/accuracy")]
    [50.0, 99.9, 33.3, 49.9, 50.0]
    """

    columns = ("kind", "answer", "is_no", "is_read")
    higher_is_better = True

    def __init__(
        self,
        num_rows: int,
        parser: str = "official",
        rounded: bool = True,
        dimensions: Collection[str] = DIMENSIONS,
        **kwargs: Any,
    ) -> None:
        """Start with no answer.

        Args:
            num_rows: how many questions there are to be in all.
            parser: how answers are read: see `read_answer`.
            rounded: to one decimal.
            dimensions: those that the overall numbers want.
            kwargs: options of `torchmetrics.Metric`.

        Raises:
            ValueError: there is no such parser.
        """
        super().__init__(num_rows, **kwargs)
        self.read = reader(READERS, parser, "AMBER")
        self.rounded = rounded
        self.dimensions = tuple(dimensions)

    def update(
        self,
        responses: Sequence[str],
        truths: Sequence[str],
        kinds: Sequence[Kind],
        rows: Sequence[int] | None = None,
    ) -> None:
        """Add Q answers.

        Args:
            responses: raw answers.
            truths: "yes" or "no".
            kinds: of the questions.
            rows: places of the questions among all; in order from the first if not given.

        Raises:
            ValueError: the arguments differ in length, a kind does not exist, a truth is neither yes nor no, or a row is
                unknown or came with another answer.
        """
        numbers = self._numbers(rows, responses=responses, truths=truths, kinds=kinds)
        for kind, truth in zip(kinds, truths, strict=True):
            if kind not in KINDS or truth not in ("yes", "no"):
                raise ValueError(
                    f"A question is of a kind among {', '.join(KINDS)} and its truth is 'yes' or 'no', but got "
                    f"{kind!r} and {truth!r}."
                )
        answers = [ANSWERS.index(self.read(response)) for response in responses]
        self._put(
            numbers,
            [
                (KINDS.index(kind), answer, truth == "no", answer > 0)
                for kind, answer, truth in zip(kinds, answers, truths, strict=True)
            ],
        )

    def compute(self) -> dict[str, Tensor]:
        """Return float64[] for each of the names above.

        Raises:
            ValueError: there is no answer.
        """
        counts = self._counts()
        scores = discriminative_scores(
            [ANSWERS[row[1]] for row in counts],
            ["no" if row[2] else "yes" for row in counts],
            [KINDS[row[0]] for row in counts],
            self.rounded,
            self.dimensions,
        )
        return self._tensors(scores)


def amber_score(chair: float, f1: float) -> float:
    """Return AMBER's one number: the mean of 100 - CHAIR and the F1 of all questions, in percent.

    >>> amber_score(chair=7.8, f1=74.7)
    83.45
    """
    return round((100 - chair + f1) / 2, 10)


def _scores(counts: Sequence[Sequence[int]], rounded: bool, dimensions: Collection[str]) -> dict[str, float]:
    asked = {
        prefix: [KINDS.index(kind) for kind in kinds]
        for prefix, kinds in GROUPS.items()
        if any(counts[KINDS.index(kind)][0] for kind in kinds)
    }
    scores: dict[str, float] = {}
    if all(dimension in asked for dimension in dimensions):
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
