"""MMStar: multiple-choice questions that cannot be answered without their image (arXiv 2403.20330)."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from rlaifv.metrics.by_row import RowMetric

CATEGORIES = (
    "coarse perception",
    "fine-grained perception",
    "instance reasoning",
    "logical reasoning",
    "science & technology",
    "math",
)
NUM_QUESTIONS = 1500
NUM_PER_CATEGORY = 250
Parser = Literal["official", "lmms_eval"]
# Upper-case letters only, the surest form first.
_FORMS = (
    r"(?i:answer|option|choice)(?:\s+is)?\s*:?\s*\**\(?([A-D])\b",
    r"\(([A-D])\)",
    r"^\W*([A-D])(?:[.:,)]|\W*$)",
    r"\b([A-D])[.:)]",
    r"\b([A-D])\W*$",
)


def read_choice(prediction: str, parser: Parser = "official") -> str | None:
    """Return the letter that an answer chooses, in lower case; None where there is none from a to d.

    Args:
        prediction: what the model wrote.
        parser: "official" looks at the first letter, also of a longer word, or the one after "(", "option " or "the
            answer is ", in any case; "lmms_eval" searches the text for an upper-case letter that stands alone, in a
            series of forms like that port's.

    >>> read_choice("B"), read_choice("(c) a cup"), read_choice("Because A"), read_choice("I think C")
    ('b', 'c', 'b', None)
    >>> read_choice("I think C", "lmms_eval"), read_choice("Because A. is", "lmms_eval"), read_choice("b", "lmms_eval")
    ('c', 'a', None)
    """
    if parser == "lmms_eval":
        text = prediction.strip()
        found = next((match[1] for form in _FORMS if (match := re.search(form, text, re.MULTILINE))), "")
        return found.lower() or None
    text = prediction.lower().strip().replace("\n", " ")
    start = next((len(opening) for opening in ("(", "option ", "the answer is ") if text.startswith(opening)), 0)
    letter = text[start : start + 1]
    return letter if letter and letter in "abcd" else None


def mmstar_scores(
    predictions: Sequence[str],
    answers: Sequence[str],
    categories: Sequence[tuple[str, str]],
    parser: Parser = "official",
) -> dict[str, float]:
    """Return scores of R answers, named and defined as in `MMStar`.

    >>> mmstar_scores(["B", "A"], ["B", "C"], [("math", "geometry"), ("math", "geometry")])["math/geometry"]
    0.5
    """
    metric = MMStar(answers, categories, parser)
    metric.update(predictions)
    return {name: value.item() for name, value in metric.compute().items()}


class MMStar(RowMetric):
    """Share of right answers, in [0, 1].

    - `accuracy`: right answers / 1500, however many there are
    - `CATEGORY`: right answers / 250, for each of the 6 categories
    - `CATEGORY/SUBCATEGORY`: right answers / answers, for those of the 18 that came

    `parser="lmms_eval"`: `accuracy` and `CATEGORY` are means over their subcategories instead, as in that port. An answer
    without a choice is wrong; `num_invalid` counts them.

    >>> metric = MMStar(["B", "C"], [("math", "geometry"), ("math", "statistics")])
    >>> metric.update(["Because A", "The correct answer is C"])
    >>> scores = metric.compute()
    >>> [round(scores[name].item(), 4) for name in ("accuracy", "math", "math/geometry")], metric.num_invalid
    ([0.0007, 0.004, 1.0], 1)
    """

    columns = ("is_right", "is_read")
    higher_is_better = True

    def __init__(
        self,
        answers: Sequence[str],
        categories: Sequence[tuple[str, str]],
        parser: Parser = "official",
        **kwargs: Any,
    ) -> None:
        """Start without any answer.

        Args:
            answers: the right letter of each question.
            categories: category and subcategory of each question.
            parser: how an answer is read, as in `read_choice`, and how scores are averaged.
            kwargs: options of `torchmetrics.Metric`.

        Raises:
            ValueError: the arguments differ in length, a letter is none from A to D, or there is no such category.
        """
        super().__init__(len(answers), **kwargs)
        if len(answers) != len(categories):
            raise ValueError(f"There are {len(answers)} right answers, but {len(categories)} categories.")
        if wrong := [one for one in answers if one.strip().lower() not in ("a", "b", "c", "d")]:
            raise ValueError(f"A right answer has to be A, B, C or D, but there is {wrong[0]!r:.60}.")
        if unknown := [one for one, _ in categories if one not in CATEGORIES]:
            raise ValueError(f"A category has to be one of {', '.join(CATEGORIES)}, not {unknown[0]!r:.60}.")
        self.answers = tuple(one.strip().lower() for one in answers)
        self.categories = tuple(categories)
        self.parser = parser

    def update(self, predictions: Sequence[str], rows: Sequence[int] | None = None) -> None:
        """Add R answers.

        Args:
            predictions: what the model wrote.
            rows: numbers of the questions; in order from the first if not given.

        Raises:
            ValueError: there are not as many numbers as answers, or a row is unknown or came with another answer.
        """
        numbers = self._numbers(rows, predictions=predictions)
        choices = [read_choice(prediction, self.parser) for prediction in predictions]
        values = [
            (choice == self.answers[row], choice is not None) for choice, row in zip(choices, numbers, strict=True)
        ]
        self._put(numbers, values)

    def compute(self) -> dict[str, Tensor]:
        """Return float64[] for each of the names above.

        Raises:
            ValueError: there is no answer.
        """
        values, rows = self._column("is_right"), self._seen().tolist()
        if not rows:
            raise ValueError("accuracy is undefined: there is no answer.")
        parts: dict[str, dict[str, list[float]]] = {name: {} for name in CATEGORIES}
        for row, value in zip(rows, values.tolist(), strict=True):
            category, below = self.categories[row]
            parts[category].setdefault(below, []).append(value)
        means = {f"{name}/{k}": _mean(some) for name, part in parts.items() for k, some in sorted(part.items())}
        if self.parser == "lmms_eval":
            whole = {"accuracy": _mean(list(means.values()))}
            whole |= {name: _mean([_mean(some) for some in part.values()]) for name, part in parts.items() if part}
        else:
            right = {name: sum(map(sum, part.values())) for name, part in parts.items()}
            whole = {"accuracy": sum(right.values()) / NUM_QUESTIONS}
            whole |= {name: count / NUM_PER_CATEGORY for name, count in right.items()}
        return self._tensors(whole | means)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
