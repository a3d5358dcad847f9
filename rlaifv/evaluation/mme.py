"""MME's tasks on hallucination: existence, count, position and color, with two yes/no questions about each image.

MME (arXiv 2306.13394), as its script computes it and as two evaluation suites do, who read answers otherwise.

Shapes: Q questions.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlaifv.evaluation.rows import RowMetric
from rlaifv.evaluation.yes_no import whole_word

TASKS = ("existence", "count", "position", "color")
PARSERS = ("official", "lmms_eval", "vlmevalkit")


def read_answer(text: str, parser: str = "official") -> str:
    """Read an answer.

    Args:
        text: the answer.
        parser: "official" looks for yes, and then for no, in the first four characters, spaces included and case aside;
            "lmms_eval" does so without the spaces around and without full stops, and knows y and n; "vlmevalkit" looks for
            either word alone.

    Returns:
        "yes", "no", or "" for what cannot be read, which is wrong.

    Raises:
        ValueError: there is no such parser.

    >>> [read_answer(text) for text in ("Yes, there is", "not sure", "eyes", "  yes")]
    ['yes', 'no', 'yes', '']
    """
    if parser == "vlmevalkit":
        return whole_word(text)
    if parser not in PARSERS:
        raise ValueError(f"MME has the parsers {', '.join(PARSERS)}, but got {parser!r}.")
    start = text.lower()
    if parser == "lmms_eval":
        start = start.strip().replace(".", "")
        if start in ("y", "n"):
            return {"y": "yes", "n": "no"}[start]
    return next((word for word in ("yes", "no") if word in start[:4]), "")


def mme_scores(tasks: Sequence[str], images: Sequence[int], right: Sequence[bool]) -> dict[str, float]:
    """Scores of Q answers as in `MME`.

    Args:
        tasks: of the questions, among `TASKS`.
        images: of the questions; a number that only the two questions about an image share.
        right: whether each is answered right.

    Raises:
        ValueError: there is no answer, or an image does not have two of them.

    >>> mme_scores(["count"] * 4, [0, 0, 1, 1], [True, True, True, False])
    {'count/accuracy': 75.0, 'count/accuracy_plus': 50.0, 'count': 125.0}
    """
    if not tasks:
        raise ValueError("All numbers of MME are undefined without an answer.")
    by_image: dict[str, dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for task, image, is_right in zip(tasks, images, right, strict=True):
        by_image[task][image].append(is_right)
    scores: dict[str, float] = {}
    for task in TASKS:
        pairs = by_image.get(task, {})
        for image, pair in pairs.items():
            if len(pair) != 2:
                raise ValueError(f"Image {image} of {task} has {len(pair)} answers; accuracy+ is defined for two.")
        if pairs:
            accuracy = sum(map(sum, pairs.values())) / (2 * len(pairs)) * 100
            plus = sum(map(all, pairs.values())) / len(pairs) * 100
            scores |= {f"{task}/accuracy": accuracy, f"{task}/accuracy_plus": plus, task: accuracy + plus}
    if all(task in scores for task in TASKS):
        scores["total"] = sum(scores[task] for task in TASKS)
    return scores


class MME(RowMetric):
    """MME's scores on existence, count, position and color, and their total; higher is better.

    A task's score is the percentage of questions answered right (`count/accuracy`) plus that of images of which both are
    (`count/accuracy_plus`), so at most 200; `total`, at most 800, is only there with all four tasks. MME, arXiv 2306.13394,
    section 2.2.

    >>> metric = MME(num_rows=2)
    >>> metric.update([0, 1], ["color"] * 2, [0, 0], ["Yes, it is red.", "No."], ["yes", "yes"])
    >>> metric.compute()["color"].item()
    50.0
    """

    higher_is_better = True

    def __init__(self, num_rows: int, parser: str = "official", **kwargs: Any) -> None:
        """Start with no answer.

        Args:
            num_rows: how many questions there are to be in all.
            parser: how answers are read: see `read_answer`.
            kwargs: options of `torchmetrics.Metric`.

        Raises:
            ValueError: there is no such parser.
        """
        super().__init__(num_rows, 3, **kwargs)
        read_answer("", parser)
        self.parser = parser

    def update(
        self,
        rows: Sequence[int],
        tasks: Sequence[str],
        images: Sequence[int],
        responses: Sequence[str],
        truths: Sequence[str],
    ) -> None:
        """Add Q answers; one that was added before is not counted again.

        Args:
            rows: the place of each among all questions.
            tasks: among `TASKS`.
            images: a number that only the two questions about an image share.
            responses: raw answers.
            truths: "yes" or "no".

        Raises:
            ValueError: the arguments differ in length, or a place or a task does not exist.
        """
        sizes = {"rows": len(rows), "tasks": len(tasks), "images": len(images)}
        sizes |= {"responses": len(responses), "truths": len(truths)}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"The arguments describe different numbers of questions: {sizes}.")
        if unknown := [task for task in tasks if task not in TASKS]:
            raise ValueError(f"The tasks are {', '.join(TASKS)}, but got {unknown[0]!r}.")
        right = [read_answer(text, self.parser) == truth for text, truth in zip(responses, truths, strict=True)]
        places = [TASKS.index(task) for task in tasks]
        self.keep(rows, list(zip(places, images, map(int, right), strict=True)))

    def compute(self) -> dict[str, Tensor]:
        """Return float64[] for each of the names above.

        Raises:
            ValueError: there is no answer, or an image does not have two of them.
        """
        seen = self.seen
        tasks, images, right = ([row[part] for row in seen] for part in range(3))
        scores = mme_scores([TASKS[task] for task in tasks], images, [bool(one) for one in right])
        return {name: torch.tensor(score, dtype=torch.float64) for name, score in scores.items()}
