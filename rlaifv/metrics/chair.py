"""CHAIR: which objects a caption mentions that its image does not have (arXiv 1809.02156, section 3.1)."""

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from torch import Tensor

from rlaifv.metrics.by_row import RowMetric, share
from rlaifv.metrics.coco_objects import CocoObjects, coco_objects

COLUMNS = (
    "texts",
    "hallucinating",
    "with_objects",
    "mentions",
    "hallucinated",
    "correct_classes",
    "truth_classes",
    "words",
)


def count_mentions(mentions: Sequence[tuple[str, str]], truth: Collection[str], text: str) -> tuple[int, ...]:
    """Return the counts named by `COLUMNS` for one text, from its mentions (word, class) and the classes in its image.

    >>> dict(zip(COLUMNS, count_mentions([("puppy", "dog"), ("cat", "cat")], {"dog", "bed"}, "A puppy and a cat.")))
    ... # doctest: +NORMALIZE_WHITESPACE
    {'texts': 1, 'hallucinating': 1, 'with_objects': 1, 'mentions': 2, 'hallucinated': 1, 'correct_classes': 1,
     'truth_classes': 2, 'words': 5}
    """
    classes = [name for _, name in mentions]
    wrong = sum(name not in truth for name in classes)
    correct = len(set(classes) & set(truth))
    return 1, int(wrong > 0), int(bool(classes)), len(classes), wrong, correct, len(set(truth)), len(text.split())


def chair_rates(
    captions: Sequence[str], truths: Sequence[Collection[str]], objects: CocoObjects | None = None
) -> dict[str, float]:
    """Return the values of `CHAIR` for all captions at once.

    Args:
        captions: texts.
        truths: for each caption, the COCO classes in its image.
        objects: the words that count; this project's own by default.

    Raises:
        ValueError: the arguments differ in length, or a rate is undefined.

    >>> chair_rates(["Two dogs on a boat.", "A cat sleeps."], [{"dog"}, {"cat", "bed"}])["chair_s"]
    50.0
    """
    metric = CHAIR(len(captions), objects)
    metric.update(captions, truths)
    return {name: value.item() for name, value in metric.compute().items()}


class CHAIR(RowMetric):
    """Caption and mention hallucination rate on the 80 classes of COCO, in percent, with recall and length.

    - `chair_s`: captions with at least one hallucinated mention / all captions, also those without any mention
    - `chair_i`: hallucinated mentions / mentions, repetitions counted
    - `recall`: distinct classes mentioned truly / classes in the images, summed over captions (later scripts have it)
    - `mean_words`: words per caption, parted by white space

    A mention is a word or pair of words of the list, found by `CocoObjects.mentions`; it is hallucinated if its class is not
    in the image. Longer captions have higher rates, so compare only at like length.
    Source: arXiv 1809.02156, section 3.1, and its published script.

    Of two captions one names a boat that is not there; one of three mentions is false; two of three classes are named:

    >>> metric = CHAIR(num_rows=2)
    >>> metric.update(["Two dogs on a boat.", "A cat sleeps."], [{"dog"}, {"cat", "bed"}])
    >>> for name, value in metric.compute().items():
    ...     print(f"{name} {value:.2f}")
    chair_s 50.00
    chair_i 33.33
    recall 66.67
    mean_words 4.00
    """

    columns = COLUMNS
    higher_is_better: ClassVar[dict[str, bool | None]] = {  # type: ignore[assignment, misc]
        "chair_s": False,
        "chair_i": False,
        "recall": True,
        "mean_words": None,
    }

    def __init__(self, num_rows: int, objects: CocoObjects | None = None, **kwargs: Any) -> None:
        """Start from zero.

        Args:
            num_rows: how many captions there are.
            objects: the words that count; this project's own by default.
            kwargs: options of `torchmetrics.Metric`.
        """
        super().__init__(num_rows, **kwargs)
        self.objects = coco_objects() if objects is None else objects

    def update(
        self, captions: Sequence[str], truths: Sequence[Collection[str]], rows: Sequence[int] | None = None
    ) -> None:
        """Add captions.

        Args:
            captions: their texts.
            truths: the COCO classes in their images.
            rows: numbers of the captions among those of the benchmark; in order from the first if not given.

        Raises:
            ValueError: the arguments differ in length, or a row is unknown or came with other counts.
        """
        numbers = self._numbers(rows, captions=captions, truths=truths)
        counts = [
            count_mentions(self.objects.mentions(caption), truth, caption)
            for caption, truth in zip(captions, truths, strict=True)
        ]
        self._put(numbers, counts)

    def compute(self) -> dict[str, Tensor]:
        """Return float64[] for each of the four names above; `recall` only where an image has an object.

        Raises:
            ValueError: a rate is undefined, because there is no caption or no mention.
        """
        sums = self.sums()
        texts, mentions, present = sums["texts"], sums["mentions"], sums["truth_classes"]
        values = {
            "chair_s": 100 * share("chair_s", sums["hallucinating"], texts, "there is no caption"),
            "chair_i": 100
            * share("chair_i", sums["hallucinated"], mentions, "no caption mentions an object of the list"),
        }
        if present:  # the script does not know recall, so it cannot fail for it
            values["recall"] = 100 * sums["correct_classes"] / present
        return self._tensors(values | {"mean_words": sums["words"] / texts})
