import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.stages.dividers.clauses import split_asides, split_clauses, split_front


@pytest.mark.parametrize(
    ("text", "front", "rest"),
    [
        ("In the corner, there is a cup", " in the corner", "there is a cup"),
        ("On the wall there is a cup", " on the wall", "there is a cup"),
        ("A cup, there is", "", "A cup, there is"),
        ("On the left, a man, and on the right, a dog", "", "On the left, a man, and on the right, a dog"),
    ],
)
def test_place_in_front(text: str, front: str, rest: str) -> None:
    assert split_front(text) == (front, rest)


@pytest.mark.parametrize(
    "clause",
    [
        "the car that is parked here has a dent",  # which car
        "he says that the cat is black",
        'the sign says "a cat, which is red"',
        "a cat and a dog that are black",  # the dog, or both
        "a man with a dog that bark",  # no agreement
        "there is a cup, including the spoon",
        "it is a place where people meet",
    ],
)
def test_what_cannot_be_told_apart_stays_whole(clause: str) -> None:
    assert split_asides(clause) == (clause, [])


WORDS = st.sampled_from(
    [
        "a",
        "the",
        "cat",
        "dogs",
        "is",
        "are",
        "has",
        "that",
        "which",
        "who",
        ",",
        "and",
        "with",
        "wearing",
        "where",
        "there",
        "of",
        "in",
        "red",
        "stands",
    ]
)


@given(st.lists(WORDS, min_size=1, max_size=30).map(lambda words: " ".join(words).replace(" ,", ",")))
def test_no_word_is_lost_or_invented(text: str) -> None:
    """But for the relative word itself, and the articles and verbs of what becomes a statement of its own."""
    joined = [word for clause in split_clauses(text.split()) for word in clause]
    assert {word.strip(",") for word in text.split()} - {"and"} <= {word.strip(",") for word in joined}
    main, asides = split_asides(text)
    said = " ".join([main, *asides]).replace(",", "").split()
    free = {"who", "which", "that", "where", "with", "a", "the", "there", "is", "are", "of"}
    assert set(text.replace(",", "").split()) - free == set(said) - free
