"""FaithScore against values made by hand."""

import re

import pytest

from rlaifv.metrics.faithscore import FaithScore, faith_scores, is_verified, sentence_faithfulness

FACTS = [[True, True, False, True], [], [False]]
SENTENCES = [[[0, 1], [2], [0, 3]], [], [[]]]


def values_of(metric: FaithScore) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


def test_scores_by_hand() -> None:
    """Answers weigh the same: 3/4, 0 without facts, 0; sentences 2/3, 1 without sentences, 1 for one without facts."""
    metric = FaithScore(3)
    metric.update(FACTS, SENTENCES)
    assert values_of(metric) == pytest.approx({"faithscore": 0.25, "sentence": (2 / 3 + 1 + 1) / 3})
    assert faith_scores(FACTS, SENTENCES) == pytest.approx(values_of(metric))


def test_without_sentences_there_is_no_sentence_score() -> None:
    metric = FaithScore(3)
    metric.update(FACTS)
    assert values_of(metric) == {"faithscore": 0.25}


def test_order_batches_and_repeated_rows_do_not_matter() -> None:
    metric = FaithScore(5)
    for row in (2, 0, 1, 0, 0):
        metric.update(FACTS[row : row + 1], SENTENCES[row : row + 1], [row])
    assert values_of(metric) == pytest.approx({"faithscore": 0.25, "sentence": 8 / 9})


def test_without_answers_nothing_is_claimed_to_be_measured() -> None:
    metric = FaithScore(1)
    metric.update([])
    with pytest.raises(ValueError, match="faithscore is undefined: there is no answer"):
        metric.compute()


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("Yes.", True), ("I would say YES", True), ("no", False), ("", False), ("eyes? yes, eyes", True)],
)
def test_yes_anywhere_is_yes(reply: str, verdict: bool) -> None:
    assert is_verified(reply) is verdict


def test_facts_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("A sentence has fact 2, but there are 2 facts, counted from 0.")):
        sentence_faithfulness([True, True], [[0, 2]])
    with pytest.raises(ValueError, match=r"different numbers of rows: {'verified': 1, 'sentences': 2}"):
        FaithScore(2).update([[True]], [[[0]], []])
