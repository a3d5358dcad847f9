"""Nouns of a closed vocabulary: inflections, sentence ends, and words that are not always nouns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.metrics.nouns import IRREGULAR, NounFinder, sentences, words_of
from rlaifv.metrics.plurals import regular_plural


@pytest.mark.parametrize(
    ("word", "plural"),
    [
        ("bus", "buses"),
        ("box", "boxes"),
        ("beach", "beaches"),
        ("brush", "brushes"),
        ("buoy", "buoys"),
        ("butterfly", "butterflies"),
        ("giraffe", "giraffes"),
        ("human", "humans"),
        ("woman", "women"),
    ],
)
def test_plurals_by_rule(word: str, plural: str) -> None:
    assert regular_plural(word) == plural
    assert NounFinder({word})(f"some {plural} and a {word}") == [word, word]


def test_irregular_plurals() -> None:
    find = NounFinder(set(IRREGULAR.values()) - {"men"})
    for form, singular in IRREGULAR.items():
        assert find(f"the {form}.") == ([] if form == "men" else [singular])


def test_forms_that_the_official_lemmatiser_takes_elsewhere() -> None:
    """Its "leaves" is leaf, its "men" stays, and names in the plural are never found, as their singular is not in the list."""
    find = NounFinder({"leave", "man", "earrings", "sunglasses", "people", "glass", "tennis"})
    assert find("leaves, men, earrings and sunglasses") == []
    assert find("people with glasses play tennis") == ["people", "glass", "tennis"]
    assert NounFinder({"earring", "earrings"})("earrings") == ["earring"]


def test_a2_case_counts() -> None:
    find = NounFinder({"dog", "TV"})
    assert find("Dog. Dogs. TVs. A DOG, a TV and a dog") == ["TV", "dog"]


def test_the_word_before_a_full_stop_is_found() -> None:
    assert NounFinder({"bench", "dog"})("There is a bench. A dog. It sits\non the bench.") == ["bench", "dog", "bench"]


def test_hyphens_join_and_possessives_part() -> None:
    assert words_of("the hot-dog's end, a dog’s toy_box; don't") == [
        "the",
        "hot-dog",
        "end",
        "a",
        "dog",
        "toy",
        "box",
        "don't",
    ]
    assert NounFinder({"dog", "e-book"})("a hot-dog, an e-book, the dog's") == ["e-book", "dog"]


def test_sentences_end_with_a_sign_and_space_only() -> None:
    assert sentences('He said "stop!" It is 3.5 m. Go') == ['He said "stop!', "It is 3.5 m.", "Go"]


@pytest.mark.parametrize(
    ("text", "nouns"),
    [
        ("a boat can be seen next to a trash can", ["boat", "can"]),
        ("it is hot in the desert", ["desert"]),
        ("an orange cat eats an orange", ["cat", "orange"]),
        ("a light blue boat under a light", ["boat", "light"]),
        ("they watch a boat with a watch", ["boat", "watch"]),
        ("to train a cat next to train rails and close to rocks", ["cat", "train", "rock"]),
        ("individual people and an individual", ["people", "individual"]),
        ("a boat sailing by, a cat is sailing, a sailing and its sailing", ["boat", "cat", "sailing", "sailing"]),
        ("a cat that watches trains and two watches", ["cat", "train", "watch"]),
    ],
)
def test_words_that_are_not_always_nouns(text: str, nouns: list[str]) -> None:
    vocabulary = {
        "boat",
        "can",
        "hot",
        "desert",
        "orange",
        "cat",
        "light",
        "watch",
        "sailing",
        "train",
        "rock",
        "individual",
        "people",
    }
    assert NounFinder(vocabulary)(text) == nouns


@given(st.text(), st.text())
def test_texts_on_lines_of_their_own_do_not_touch(one: str, other: str) -> None:
    find = NounFinder({"dog", "can", "watch"})
    assert find(f"{one}\n{other}") == find(one) + find(other)
