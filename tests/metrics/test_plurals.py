"""Plurals of a closed list, and that the table built of them leads back and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.metrics.coco_objects import coco_objects
from rlaifv.metrics.plurals import IRREGULAR, VES, WITHOUT_PLURAL, plurals_of, singulars


@pytest.mark.parametrize(
    ("word", "plurals"),
    [
        ("dog", ("dogs",)),
        ("bench", ("benches",)),
        ("glass", ("glasses",)),
        ("box", ("boxes",)),
        ("puppy", ("puppies",)),
        ("toy", ("toys",)),
        ("buffalo", ("buffalos", "buffaloes")),
        ("knife", ("knives",)),
        ("giraffe", ("giraffes",)),
        ("minibus", ("minibuses", "minibusses")),
        ("woman", ("women",)),
        ("human", ("humans",)),
        ("mouse", ("mice",)),
        ("child", ("children",)),
        ("scissors", ()),
        ("double-decker", ()),
    ],
)
def test_plurals_by_hand(word: str, plurals: tuple[str, ...]) -> None:
    assert plurals_of(word) == plurals


@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=2, max_size=12))
def test_every_plural_leads_back(word: str) -> None:
    table = singulars([word])
    assert {table[plural] for plural in plurals_of(word) if plural != word} <= {word}
    assert word not in table


def test_words_that_do_not_change_are_not_in_the_table() -> None:
    assert singulars(["sheep", "fish"]) == {"fishes": "fish"}


def test_no_two_words_of_the_built_in_list_share_a_plural() -> None:
    objects = coco_objects("listed")
    owners: dict[str, set[str]] = {}
    for word in {part for entry in (*objects.class_of, *objects.pairs) for part in entry.split()}:
        for plural in plurals_of(word):
            owners.setdefault(plural, set()).add(word)
    assert {plural: words for plural, words in owners.items() if len(words) > 1} == {}


def test_a_plural_in_the_built_in_list_is_of_the_class_of_its_singular() -> None:
    objects = coco_objects("listed")
    both = [(plural, word) for plural, word in objects.singular.items() if {plural, word} <= set(objects.class_of)]
    assert both == [("skis", "ski")]
    assert all(objects.class_of[plural] == objects.class_of[word] for plural, word in both)


def test_the_exceptions_are_exceptions() -> None:
    """Each is needed: by the rules alone it would have another plural."""
    for word, plurals in IRREGULAR.items():
        assert word + "s" not in plurals or word == "person"
    assert all(plurals_of("x" + word) != () for word in WITHOUT_PLURAL)
    assert all(word.endswith(("f", "fe")) for word in VES)
