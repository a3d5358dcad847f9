"""AMBER's numbers for descriptions against counts made by hand, and each quirk of its script."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.metrics.amber_generative import (
    AMBERGenerative,
    Lexicon,
    count_nouns,
    generative_scores,
)
from rlaifv.metrics.nouns import NounFinder

LEXICON = Lexicon(
    {
        "boat": ["ship"],
        "harbor": ["pier", "water"],
        "gull": ["bird"],
        "lake": ["water"],
        "water": [],
        "tree": ["leaf"],
        "light": [],
    },
    frozenset({"light"}),
)
# Nouns, truth, hallu; below them the counts in the order of COUNTS, made by hand.
RESPONSES = [
    (["boat", "ship", "bird", "tree", "sky"], ["harbor", "boat"], ["gull", "lake"]),
    (["light", "pier"], ["harbor", "light"], ["gull", "boat", "tree"]),
    ([], ["boat", "tree"], ["gull", "lake", "light"]),
]
COUNTS = [(4, 2, 2, 1, 2, 1), (2, 0, 2, 1, 3, 0), (0, 0, 2, 0, 3, 0)]
# 2/6.001, 2/6.001, 100 - 2/3.001, 1/8.001
EXPECTED = {"chair": 33.3, "cover": 33.3, "hal": 33.4, "cog": 12.5}


def update(metric: AMBERGenerative, rows: Sequence[int]) -> dict[str, float]:
    nouns, truths, hallus = ([RESPONSES[row][part] for row in rows] for part in range(3))
    metric.update(nouns, truths, hallus, rows)
    return {name: value.item() for name, value in metric.compute().items()}


def of(table: dict[tuple[str, str], float]) -> object:
    return lambda one, other: 1.0 if one == other else table.get((one, other), 0.0)


def test_counts_by_hand() -> None:
    assert [count_nouns(*response, LEXICON) for response in RESPONSES] == COUNTS


def test_a1_sums_are_divided_once() -> None:
    """Means over responses would give a CHAIR of (2/4 + 0 + 0) / 3 = 16.7, and Cog over nouns 1/6."""
    assert generative_scores(COUNTS) == EXPECTED
    assert update(AMBERGenerative(3, LEXICON), [0, 1, 2]) == EXPECTED


def test_unrounded() -> None:
    scores = generative_scores(COUNTS, rounded=False)
    assert scores == pytest.approx(
        {"chair": 200 / 6.001, "cover": 200 / 6.001, "hal": 100 - 200 / 3.001, "cog": 100 / 8.001}, rel=1e-12
    )


def test_a2_capitals_are_other_words() -> None:
    assert count_nouns(["Boat", "boat"], ["boat"], ["gull"], LEXICON)[:2] == (1, 0)
    assert NounFinder(LEXICON.vocabulary)("Boats lie there. A boat.") == ["boat"]


def test_a3_relations_come_before_the_words_themselves() -> None:
    """ "water" is a truth of its own and goes with "harbor", which gets it; so two mentions cover one word."""
    assert count_nouns(["water", "water"], ["harbor", "water"], ["gull"], LEXICON) == (2, 0, 2, 1, 1, 0)
    assert count_nouns(["water", "pier"], ["harbor", "water"], ["gull"], LEXICON)[3] == 1


def test_a4_a_word_that_is_safe_never_counts_as_thought_of() -> None:
    assert count_nouns(["boat", "ship"], ["boat"], ["boat", "gull"], LEXICON) == (2, 0, 1, 1, 2, 0)


def test_a5_safe_words_and_repeated_truths_lower_the_ceiling_of_cover() -> None:
    assert count_nouns(["light", "boat"], ["light", "boat", "boat"], ["gull"], LEXICON) == (2, 0, 3, 1, 1, 0)


def test_a6_one_noun_may_mark_two_words_and_still_be_safe() -> None:
    similar = of({("bird", "water"): 0.9})
    assert count_nouns(["bird"], ["boat"], ["lake", "gull"], LEXICON, similar) == (1, 1, 1, 0, 2, 2)
    both = of({("bird", "tree"): 0.9})
    assert count_nouns(["bird"], ["boat", "tree"], ["gull"], LEXICON, both) == (1, 0, 2, 1, 1, 1)


def test_similar_is_above_the_threshold_only_and_the_first_wins() -> None:
    at, above = of({("ship", "water"): 0.8}), of({("ship", "water"): 0.8001, ("ship", "lake"): 0.99})
    assert count_nouns(["ship"], ["lake"], ["gull"], LEXICON, at)[1] == 1
    assert count_nouns(["ship"], ["lake"], ["gull"], LEXICON, above)[1:4] == (0, 1, 1)
    assert count_nouns(["ship"], ["tree", "lake", "water"], ["gull"], LEXICON, above)[3] == 1


def test_a7_silence_looks_perfect_but_for_cover() -> None:
    assert generative_scores([count_nouns([], ["boat"], ["gull"], LEXICON)] * 5000) == {
        "chair": 0.0,
        "cover": 0.0,
        "hal": 0.0,
        "cog": 0.0,
    }


@pytest.mark.parametrize(("num_clean", "hal"), [(1, 0.1), (2, 0.0), (3, 0.0)])
def test_a8_few_responses_bias_hal(num_clean: int, hal: float) -> None:
    assert generative_scores([(1, 0, 1, 1, 1, 0)] * num_clean)["hal"] == hal


def test_a10_an_annotation_without_words_counts_for_nothing() -> None:
    """The script's negative slice takes the whole list then, but the list has nothing else in it."""
    assert count_nouns(["boat"], [], [], LEXICON) == (1, 1, 0, 0, 0, 0)


def test_the_denominators_are_smoothed_once() -> None:
    """Per response, 1004 clean ones would get a Hal of 0.1; 0.001 in all leaves 0.0."""
    assert generative_scores([(1, 0, 1, 1, 1, 0)] * 1004)["hal"] == 0.0


def test_without_responses_nothing_is_claimed_to_be_measured() -> None:
    metric = AMBERGenerative(3, LEXICON)
    metric.update([], [], [])
    with pytest.raises(ValueError, match="hal is undefined: there is no response"):
        metric.compute()


def test_rows_that_come_again_count_once() -> None:
    metric = AMBERGenerative(3, LEXICON)
    update(metric, [2, 0])
    assert update(metric, [0, 1, 0]) == EXPECTED


def test_words_outside_of_the_relations_are_refused() -> None:
    with pytest.raises(ValueError, match="The annotated word 'kettle' is no key of the relations"):
        count_nouns([], ["kettle"], [], LEXICON)


def test_arguments_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("{'nouns': 2, 'truths': 1, 'hallus': 1, 'rows': 1}")):
        AMBERGenerative(3, LEXICON).update([[], []], [[]], [[]], [0])


WORDS = st.lists(st.sampled_from(sorted(LEXICON.vocabulary)), max_size=6)
KEYS = st.lists(st.sampled_from(sorted(LEXICON.relations)), max_size=4)


@given(WORDS, KEYS, KEYS)
def test_counts_stay_within_their_bounds(nouns: list[str], truth: list[str], hallu: list[str]) -> None:
    mentioned, hallucinated, truths, covered, hallus, thought_of = count_nouns(nouns, truth, hallu, LEXICON)
    assert mentioned == len(nouns)
    assert 0 <= hallucinated <= mentioned
    assert 0 <= covered <= truths == len(truth)
    # Without other similarities than to itself, only a hallucinated noun is thought of.
    assert 0 <= thought_of <= min(hallus, hallucinated)
