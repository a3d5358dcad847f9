"""POPE: does the model see objects that are not there? "Yes" is the positive class.

POPE (arXiv 2305.10355), as its script computes it and as two evaluation suites do, who read answers otherwise.

Shapes: Q questions.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlaifv.evaluation.rows import RowMetric
from rlaifv.evaluation.yes_no import exact, whole_word

PARSERS = ("official", "lmms_eval", "vlmevalkit", "strict")
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
    if parser == "official":
        words = text.split(".")[0].replace(",", "").split(" ")
        return "yes" if {"No", "no", "not"}.isdisjoint(words) else "no"
    if parser == "lmms_eval":
        word = text.lower().strip()
        return word if word in ("yes", "no") else ""
    if parser == "vlmevalkit":
        return whole_word(text)
    if parser == "strict":
        return exact(text)
    raise ValueError(f"POPE has the parsers {', '.join(PARSERS)}, but got {parser!r}.")


def pope_scores(answers: Sequence[str], truths: Sequence[str], parser: str = "official") -> dict[str, float]:
    """Scores of Q answers as in `POPE`.

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
        raise ValueError("All numbers of POPE are undefined without an answer.")
    positive = [truth != "no" for truth in truths]
    pairs = list(zip(answers, positive, strict=True))
    true_positives = sum(answer == "yes" and truth for answer, truth in pairs)
    said_yes = sum(answer == "yes" for answer in answers)
    # In lmms-eval, a question whose answer cannot be read is not one that was missed.
    missed = sum(truth and (answer == "no" if parser == "lmms_eval" else answer != "yes") for answer, truth in pairs)
    strict = parser in ("official", "strict")
    precision = _share(true_positives, said_yes, "Precision", "no answer was read as yes", strict)
    recall = _share(true_positives, true_positives + missed, "Recall", "no question has the label yes", strict)
    f1 = _share(2 * precision * recall, precision + recall, "F1", "no answer yes is right", strict)
    # ... and its ratio of yes is that of the labels.
    yes = sum(positive) if parser == "lmms_eval" else said_yes
    right = sum(answer == ("yes" if truth else "no") for answer, truth in pairs)
    return dict(zip(NAMES, (right / len(pairs), precision, recall, f1, yes / len(pairs)), strict=True))


class POPE(RowMetric):
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
    >>> metric.update([0, 1], ["Yes.", "There is no boat."], ["yes", "no"])
    >>> metric.update([2, 0], ["I see none.", "Yes."], ["no", "yes"])
    >>> {name: round(value.item(), 2) for name, value in metric.compute().items()}
    {'accuracy': 0.67, 'precision': 0.5, 'recall': 1.0, 'f1': 0.67, 'yes_ratio': 0.67}
    """

    higher_is_better = None

    def __init__(self, num_rows: int, parser: str = "official", **kwargs: Any) -> None:
        """Start with no answer.

        Args:
            num_rows: how many questions there are to be in all.
            parser: how answers are read: see `read_answer`.
            kwargs: options of `torchmetrics.Metric`.

        Raises:
            ValueError: there is no such parser.
        """
        super().__init__(num_rows, 2, **kwargs)
        read_answer("", parser)
        self.parser = parser

    def update(self, rows: Sequence[int], responses: Sequence[str], truths: Sequence[str]) -> None:
        """Add Q answers; one that was added before is not counted again.

        Args:
            rows: the place of each among all questions.
            responses: raw answers.
            truths: "no", or anything else for yes.

        Raises:
            ValueError: the arguments differ in length, or a place does not exist.
        """
        sizes = {"rows": len(rows), "responses": len(responses), "truths": len(truths)}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"The arguments describe different numbers of questions: {sizes}.")
        self.keep(
            rows,
            [
                (ANSWERS.index(read_answer(response, self.parser)), int(truth != "no"))
                for response, truth in zip(responses, truths, strict=True)
            ],
        )

    def compute(self) -> dict[str, Tensor]:
        """Return float64[] for each of the names above.

        Raises:
            ValueError: one of them is undefined.
        """
        seen = self.seen
        answers, truths = [ANSWERS[answer] for answer, _ in seen], ["yes" if truth else "no" for _, truth in seen]
        scores = pope_scores(answers, truths, self.parser)
        return {name: torch.tensor(score, dtype=torch.float64) for name, score in scores.items()}


def _share(some: float, every: float, name: str, reason: str, strict: bool) -> float:
    if every:
        return some / every
    if strict:
        raise ValueError(
            f"{name} is undefined: {reason}. POPE's script divides by zero here; parser=vlmevalkit and parser=lmms_eval say 0."
        )
    return 0.0
