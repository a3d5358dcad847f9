"""CHAIR against counts made by hand, over batches and repeated rows."""

import random
import re

import pytest

from rlaifv.metrics.chair import CHAIR, chair_rates
from rlaifv.metrics.coco_objects import objects_from

CAPTIONS = [
    "Two dogs rest on a boat. The dogs sleep.",  # dog, boat, dog
    "A man holds a wine glass near a couch.",  # man, wine glass, couch
    "A blue sky over green hills.",  # nothing
    "Children and a kitten by a teddy bear",  # child, kitten, teddy bear
]
TRUTHS = [{"dog", "person"}, {"person", "couch"}, {"kite"}, {"cat", "teddy bear"}]
# Hallucinated: boat; wine glass; none; child. 3 of 4 captions, 3 of 9 mentions. Named truly: dog; person and couch; none; cat
# and teddy bear: 5 of 2 + 2 + 1 + 2 classes. Words: 9 + 9 + 6 + 8.
EXPECTED = {"chair_s": 75.0, "chair_i": 300 / 9, "recall": 500 / 7, "mean_words": 8.0}


def values_of(metric: CHAIR) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


def test_rates_by_hand() -> None:
    assert chair_rates(CAPTIONS, TRUTHS) == pytest.approx(EXPECTED)


def test_counts_by_hand() -> None:
    metric = CHAIR(4)
    metric.update(CAPTIONS, TRUTHS)
    assert metric.sums() == {
        "texts": 4,
        "hallucinating": 3,
        "with_objects": 3,
        "mentions": 9,
        "hallucinated": 3,
        "correct_classes": 5,
        "truth_classes": 7,
        "words": 32,
    }


def test_the_list_decides() -> None:
    objects = objects_from([["dog"], ["boat"]], "fixed")
    assert chair_rates(CAPTIONS, TRUTHS, objects)["chair_i"] == pytest.approx(100 / 3)


def test_neither_order_nor_batches_nor_repeated_rows_matter() -> None:
    rows = [0, 1, 2, 3, 1, 3, 3]
    random.Random(0).shuffle(rows)
    metric = CHAIR(6)
    for row in rows:
        metric.update([CAPTIONS[row]], [TRUTHS[row]], [row])
    metric.update([], [], [])
    assert values_of(metric) == pytest.approx(EXPECTED)
    metric.reset()
    metric.update(CAPTIONS[:1], TRUTHS[:1])
    assert values_of(metric)["chair_i"] == pytest.approx(100 / 3)


def test_a_row_with_two_captions_is_refused() -> None:
    with pytest.raises(ValueError, match="Row 0 came more than once, with different answers"):
        CHAIR(2).update(["A dog.", "Two dogs and a cat."], [{"dog"}] * 2, [0, 0])


@pytest.mark.parametrize(
    ("captions", "truths", "message"),
    [
        ([], [], "chair_s is undefined: there is no caption."),
        (["A blue sky."], [{"dog"}], "chair_i is undefined: no caption mentions an object of the list."),
        (["A dog."], [], "different numbers of rows: {'captions': 1, 'truths': 0}"),
    ],
)
def test_what_is_undefined_is_said(captions: list[str], truths: list[set[str]], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        chair_rates(captions, truths)


def test_recall_which_the_script_does_not_have_cannot_make_it_fail() -> None:
    assert chair_rates(["A dog."], [set()]) == {"chair_s": 100.0, "chair_i": 100.0, "mean_words": 2.0}
