"""POPE: does the model see objects that are not there? "Yes" is the positive class.

POPE (arXiv 2305.10355), as its script computes it and as two evaluation suites do, who read answers otherwise.

Shapes: Q questions.
"""

from collections.abc import Sequence

from torch import Tensor

from rlaifv.metrics.by_row import share
from rlaifv.metrics.yes_no import YesNoMetric, exact, reader, whole_word


def _by_first_sentence(text: str) -> str:
    words = text.split(".")[0].replace(",", "").split(" ")
    return "yes" if {"No", "no", "not"}.isdisjoint(words) else "no"


def _by_whole_text(text: str) -> str:
    word = text.lower().strip()
    return word if word in ("yes", "no") else ""


READERS = {
    "official": _by_first_sentence,
    "lmms_eval": _by_whole_text,
    "vlmevalkit": whole_word,
    "strict": exact,
}
PARSERS = tuple(READERS)
NAMES = ("accuracy", "precision", "recall", "f1", "yes_ratio")
ANSWERS = ("", "yes", "no")


def read_answer(text: str, parser: str = "official") -> str:
    """Read an answer.

    Args:
        text: the answer.
        parser: "official" says no where the text before the first full stop has one of the words No, no and not, in this very
            spelling and between spaces, and yes everywhere else; "lmms_eval" knows yes and no in any case and nothing else;
            "vlmevalkit" looks for either word alone; "strict" is "lmms_eval" with a full stop allowed.

    Returns:
        "yes", "no", or "" for what cannot be read.

    Raises:
        ValueError: there is no such parser.

    >>> [read_answer(text) for text in ("No, it is not.", "NO", "Yes, not a problem", "I cannot tell")]
    ['no', 'yes', 'no', 'yes']
    """
    return reader(READERS, parser, "POPE")(text)


def pope_scores(answers: Sequence[str], truths: Sequence[str], parser: str = "official") -> dict[str, float]:
    """Return scores of Q answers as in `POPE`.

    Args:
        answers: "yes", "no" or "", as `read_answer` returns them.
        truths: "no", or anything else for yes.
        parser: whose rules hold for what cannot be read, and where a share is undefined.

    Raises:
        ValueError: there is no answer, or precision, recall or F1 are undefined and the script fails.

    >>> pope_scores(["yes", "yes", "no", "no"], ["yes", "no", "no", "yes"])
    {'accuracy': 0.5, 'precision': 0.5, 'recall': 0.5, 'f1': 0.5, 'yes_ratio': 0.5}
    """
    if not answers:
        raise ValueError("accuracy is undefined: there is no answer.")
    positive = [truth != "no" for truth in truths]
    pairs = list(zip(answers, positive, strict=True))
    true_positives = sum(answer == "yes" and truth for answer, truth in pairs)
    said_yes = sum(answer == "yes" for answer in answers)
    # In lmms-eval, a question whose answer cannot be read is not one that was missed.
    missed = sum(truth and (answer == "no" if parser == "lmms_eval" else answer != "yes") for answer, truth in pairs)
    strict = parser in ("official", "strict")
    precision = _share("precision", true_positives, said_yes, "no answer was read as yes", strict)
    recall = _share("recall", true_positives, true_positives + missed, "no question has the label yes", strict)
    f1 = _share("f1", 2 * precision * recall, precision + recall, "no answer yes is right", strict)
    # ... and its ratio of yes is that of the labels.
    yes = sum(positive) if parser == "lmms_eval" else said_yes
    right = sum(answer == ("yes" if truth else "no") for answer, truth in pairs)
    return dict(zip(NAMES, (right / len(pairs), precision, recall, f1, yes / len(pairs)), strict=True))


class POPE(YesNoMetric):
    """POPE's five numbers for one split, as shares in [0, 1], which is how its script prints them (arXiv 2305.10355).

    - `accuracy`: right answers / answers
    - `precision`: right among the answers yes
    - `recall`: answered yes among the questions with the label yes
    - `f1`: their harmonic mean
    - `yes_ratio`: answers yes / answers; 0.5 is the truth

    An answer that cannot be read, which the official parser does not have, is wrong, and no yes. `lmms_eval` leaves it out of
    recall, and takes the ratio of yes from the labels. Where a share is undefined, these two suites say 0, and the official
    script fails, as this metric does.

    >>> metric = POPE(num_rows=3)
    >>> metric.update(["Yes.", "There is no boat."], ["yes", "no"], rows=[0, 1])
    >>> metric.update(["I see none.", "Yes."], ["no", "yes"], rows=[2, 0])
    >>> {name: round(value.item(), 2) for name, value in metric.compute().items()}
    {'accuracy': 0.67, 'precision': 0.5, 'recall': 1.0, 'f1': 0.67, 'yes_ratio': 0.67}
    """

    columns = ("answer", "is_positive", "is_read")
    readers, benchmark = READERS, "POPE"
    higher_is_better = None

    def update(self, responses: Sequence[str], truths: Sequence[str], rows: Sequence[int] | None = None) -> None:
        """Add Q answers.

        Args:
            responses: raw answers.
            truths: "no", or anything else for yes.
            rows: places of the questions among all; in order from the first if not given.

        Raises:
            ValueError: the arguments differ in length, or a row is unknown or came with another answer.
        """
        numbers = self._numbers(rows, responses=responses, truths=truths)
        answers = [ANSWERS.index(self.read(response)) for response in responses]
        self._put(
            numbers,
            [(answer, truth != "no", answer > 0) for answer, truth in zip(answers, truths, strict=True)],
        )

    def compute(self) -> dict[str, Tensor]:
        """Return float64[] for each of the names above.

        Raises:
            ValueError: one of them is undefined.
        """
        counts = self._counts()
        answers, truths = [ANSWERS[row[0]] for row in counts], ["yes" if row[1] else "no" for row in counts]
        return self._tensors(pope_scores(answers, truths, self.parser))


def _share(name: str, part: float, whole: float, missing: str, strict: bool) -> float:
    if whole == 0 and not strict:
        return 0.0
    hint = "POPE's script divides by zero here, and parser=vlmevalkit and parser=lmms_eval say 0"
    return share(name, part, whole, f"{missing}; {hint}")
