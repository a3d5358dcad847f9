"""HallusionBench: accuracy by question, by figure and by question pair (arXiv 2310.14566)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from rlaifv.metrics.by_row import RowMetric
from rlaifv.metrics.yes_no import whole_word

WRONG, RIGHT, UNCLEAR = 0, 1, 2


class Key(NamedTuple):
    """What a question is about.

    Attributes:
        category: VD where the figure is needed to answer, VS where it only adds to what is known.
        subcategory: as in the question file.
        set_id: questions about variants of one figure.
        figure_id: "0" is the original of VD, and no figure at all in VS.
        question_id: with different figures, a pair.
        visual_input: "0" none, "1" the original, "2" an edited one.
    """

    category: str
    subcategory: str
    set_id: str
    figure_id: str
    question_id: str
    visual_input: str


def read_verdict(reply: str) -> int:
    """Return what a judge says of an answer: 0 wrong, 1 right, 2 unclear or nothing that can be read.

    >>> read_verdict("Incorrect."), read_verdict("It is correct"), read_verdict("Unclear"), read_verdict("Well,")
    (0, 1, 2, 2)
    """
    text = reply.lower()
    if "incorrect" in text:
        return WRONG
    return RIGHT if "correct" in text else UNCLEAR


def is_verdict(reply: str) -> bool:
    """Return whether a reply holds one of the words that were asked for.

    >>> is_verdict("Incorrect."), is_verdict("I cannot say.")
    (True, False)
    """
    return "correct" in reply.lower() or "unclear" in reply.lower()


def check_answer(answer: str, truth: bool) -> int:
    """Return the verdict by the words of an answer, as VLMEvalKit reads it: `yes` or `no`, 2 where it holds none or both.

    >>> check_answer("Yes, it is.", True), check_answer("No!", True), check_answer("yes or no", True)
    (1, 0, 2)
    """
    word = whole_word(answer)
    if not word:
        return UNCLEAR
    return RIGHT if (word == "yes") == truth else WRONG


def hallusionbench_accuracies(verdicts: Sequence[int], keys: Sequence[Key]) -> dict[str, float]:
    """Return accuracies over R questions, named and defined as in `HallusionBench`.

    >>> key = Key("VD", "chart", "0", "0", "0", "1")
    >>> hallusionbench_accuracies([RIGHT, WRONG], [key, key._replace(figure_id="1", visual_input="2")])["a_acc"]
    50.0
    """
    metric = HallusionBench(keys)
    metric.update(verdicts)
    return {name: value.item() for name, value in metric.compute().items()}


class HallusionBench(RowMetric):
    """Share of questions, figures and question pairs that are answered right, in percent.

    - `a_acc`: questions
    - `f_acc`: figures all of whose questions are right; VS without a figure is none
    - `q_acc`: question pairs, right with every variant of the figure; here VS without a figure is a variant
    - `easy_acc`, `hard_acc`: as `q_acc`, over questions about originals (or no figure) and about edited figures only
    - each with `/VD` and `/VS` for the two categories

    An unclear answer is wrong, but right where VS shows no figure: not knowing is the right answer then. What has no row
    has no value.

    Two questions about a figure and its edited twin, one wrong:

    >>> keys = [Key("VD", "chart", "0", figure, question, str(int(figure) + 1)) for figure in "01" for question in "01"]
    >>> metric = HallusionBench(keys)
    >>> metric.update([RIGHT, RIGHT, WRONG, RIGHT])
    >>> [round(metric.compute()[name].item(), 2) for name in ("a_acc", "f_acc", "q_acc", "easy_acc", "hard_acc")]
    [75.0, 50.0, 50.0, 100.0, 50.0]
    """

    columns = ("is_right",)
    higher_is_better = True

    def __init__(self, keys: Sequence[Key], **kwargs: Any) -> None:
        """Start without any answer.

        Args:
            keys: of the questions, in the order of their rows.
            kwargs: options of `torchmetrics.Metric`.

        Raises:
            ValueError: two questions have the same key, or a category is neither VD nor VS.
        """
        super().__init__(len(keys), **kwargs)
        known: dict[tuple[str, ...], int] = {}
        for row, key in enumerate(keys):
            if key.category not in ("VD", "VS"):
                raise ValueError(f"The category of row {row} has to be VD or VS, but it is {key.category!r}.")
            if (first := known.setdefault(key[:5], row)) != row:
                raise ValueError(f"Rows {first} and {row} are the same question, {'_'.join(key[:5])}.")
        self.keys = tuple(keys)

    def update(self, verdicts: Sequence[int], rows: Sequence[int] | None = None) -> None:
        """Add the verdicts on R answers.

        Args:
            verdicts: 0 wrong, 1 right, 2 unclear.
            rows: numbers of the questions; in order from the first if not given.

        Raises:
            ValueError: there are not as many numbers as verdicts, or a row is unknown or came with another verdict.
        """
        numbers = self._numbers(rows, verdicts=verdicts)
        values = []
        for row, verdict in zip(numbers, verdicts, strict=True):
            has_no_figure = self.keys[row].category == "VS" and self.keys[row].figure_id == "0"
            values.append((verdict == RIGHT or (verdict == UNCLEAR and has_no_figure),))
        self._put(numbers, values)

    def compute(self) -> dict[str, Tensor]:
        """Return float64[] for each of the names above.

        Raises:
            ValueError: there is no verdict.
        """
        keys = [self.keys[row] for row in self._seen().tolist()]
        if not keys:
            raise ValueError("a_acc is undefined: there is no verdict.")
        right = self._column("is_right").bool().tolist()
        rows = list(zip(keys, right, strict=True))
        found = _accuracies(rows)
        for category in ("VD", "VS"):
            part = _accuracies([row for row in rows if row[0].category == category])
            found |= {f"{name}/{category}": value for name, value in part.items()}
        return self._tensors(found)


def _accuracies(rows: Sequence[tuple[Key, bool]]) -> dict[str, float]:
    def pair_of(key: Key) -> tuple[str, ...]:
        return (*key[:3], key.question_id)

    groups: dict[str, list[tuple[tuple[str, ...], bool]]] = {
        "a_acc": [(key[:5], right) for key, right in rows],
        "f_acc": [(key[:4], right) for key, right in rows if key.category == "VD" or key.figure_id != "0"],
        "q_acc": [(pair_of(key), right) for key, right in rows],
        "easy_acc": [(pair_of(key), right) for key, right in rows if key.visual_input != "2"],
        "hard_acc": [(pair_of(key), right) for key, right in rows if key.visual_input == "2"],
    }
    return {name: _share_all_right(some) for name, some in groups.items() if some}


def _share_all_right(rows: Sequence[tuple[tuple[str, ...], bool]]) -> float:
    whole: dict[tuple[str, ...], bool] = {}
    for group, right in rows:
        whole[group] = whole.get(group, True) and right
    return 100 * sum(whole.values()) / len(whole)
