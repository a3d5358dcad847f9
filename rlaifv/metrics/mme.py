"""MME's tasks on hallucination: existence, count, position and color, with two yes/no questions about each image.

MME (arXiv 2306.13394), as its script computes it and as two evaluation suites do, who read answers otherwise.

Shapes: Q questions.
"""

from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor

from rlaifv.metrics.yes_no import YesNoMetric, exact, first_found, reader, whole_word

TASKS = ("existence", "count", "position", "color")


def _by_start(text: str) -> str:
    return first_found(text.lower()[:4])


def _by_start_without_spaces(text: str) -> str:
    start = text.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(start) or first_found(start[:4])


READERS = {
    "official": _by_start,
    "lmms_eval": _by_start_without_spaces,
    "vlmevalkit": whole_word,
    "strict": exact,
}
PARSERS = tuple(READERS)


def read_answer(text: str, parser: str = "official") -> str:
    """Read an answer.

    Args:
        text: the answer.
        parser: "official" looks for yes, and then for no, in the first four characters, spaces included and case aside;
            "lmms_eval" does so without the spaces around and without full stops, and knows y and n; "vlmevalkit" looks for
            either word alone; "strict" wants nothing else but a full stop.

    Returns:
        "yes", "no", or "" for what cannot be read, which is wrong.

    Raises:
        ValueError: there is no such parser.

    >>> [read_answer(text) for text in ("Yes, there is", "not sure", "eyes", "  yes")]
    ['yes', 'no', 'yes', '']
    """
    return reader(READERS, parser, "MME")(text)


def mme_scores(right: Sequence[bool], tasks: Sequence[str], images: Sequence[int]) -> dict[str, float]:
    """Return scores of Q answers as in `MME`.

    Args:
        right: whether each is answered right.
        tasks: of the questions, among `TASKS`.
        images: of the questions; a number that only the two questions about an image share.

    Raises:
        ValueError: there is no answer, or an image does not have two of them.

    >>> mme_scores([True, True, True, False], ["count"] * 4, [0, 0, 1, 1])
    {'count/accuracy': 75.0, 'count/accuracy_plus': 50.0, 'count': 125.0}
    """
    if not tasks:
        raise ValueError("total is undefined: there is no answer.")
    by_image: dict[str, dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for task, image, is_right in zip(tasks, images, right, strict=True):
        by_image[task][image].append(is_right)
    scores: dict[str, float] = {}
    for task in TASKS:
        pairs = by_image.get(task, {})
        for image, pair in pairs.items():
            if len(pair) != 2:
                raise ValueError(
                    f"{task}/accuracy_plus is undefined: image {image} does not have two answers, but {len(pair)}."
                )
        if pairs:
            accuracy = sum(map(sum, pairs.values())) / (2 * len(pairs)) * 100
            plus = sum(map(all, pairs.values())) / len(pairs) * 100
            scores |= {f"{task}/accuracy": accuracy, f"{task}/accuracy_plus": plus, task: accuracy + plus}
    if all(task in scores for task in TASKS):
        scores["total"] = sum(scores[task] for task in TASKS)
    return scores


class MME(YesNoMetric):
    """MME's scores on existence, count, position and color, and their total; higher is better.

    A task's score is the percentage of questions answered right (`count/accuracy`) plus that of images of which both are
    (`count/accuracy_plus`), so at most 200; `total`, at most 800, is only there with all four tasks. MME, arXiv 2306.13394,
    section 2.2.

    >>> metric = MME(num_rows=2)
    >>> metric.update(["Yes, it is red.", "No."], ["yes", "yes"], ["color"] * 2, images=[0, 0])
    >>> metric.compute()["color"].item()
    50.0
    """

    columns = ("task", "image", "is_right", "is_read")
    readers, benchmark = READERS, "MME"
    higher_is_better = True

    def update(
        self,
        responses: Sequence[str],
        truths: Sequence[str],
        tasks: Sequence[str],
        images: Sequence[int],
        rows: Sequence[int] | None = None,
    ) -> None:
        """Add Q answers.

        Args:
            responses: raw answers.
            truths: "yes" or "no".
            tasks: of the questions, among `TASKS`.
            images: of the questions; a number that only the two questions about an image share.
            rows: places of the questions among all; in order from the first if not given.

        Raises:
            ValueError: the arguments differ in length, a task does not exist, or a row is unknown or came with another
                answer.
        """
        numbers = self._numbers(rows, responses=responses, truths=truths, tasks=tasks, images=images)
        if unknown := [task for task in tasks if task not in TASKS]:
            raise ValueError(f"The tasks are {', '.join(TASKS)}, but got {unknown[0]!r}.")
        answers = [self.read(response) for response in responses]
        self._put(
            numbers,
            [
                (TASKS.index(task), image, answer == truth, answer != "")
                for task, image, answer, truth in zip(tasks, images, answers, truths, strict=True)
            ],
        )

    def compute(self) -> dict[str, Tensor]:
        """Return float64[] for each of the names above.

        Raises:
            ValueError: there is no answer, or an image does not have two of them.
        """
        counts = self._counts()
        right, tasks, images = ([row[part] for row in counts] for part in (2, 0, 1))
        return self._tensors(mme_scores([one == 1 for one in right], [TASKS[task] for task in tasks], images))
