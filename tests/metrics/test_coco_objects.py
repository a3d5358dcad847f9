"""What text mentions, by the quirks of CHAIR's script (C1 to C7) and by hand."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.metrics.coco_objects import PAIRS, coco_objects, objects_from, read_synonyms, tokens_of
from rlaifv.metrics.coco_synonyms import ROWS

# In the form of the official list, with the two spaces that it has after some commas.
GIVEN = """
person, man, woman, child, children, people
motorcycle, scooter,  motor bike, moped
cake,  cheesecake, cupcake
cell phone, phone, iPhone
oven, stovetop, stove, stove top oven
toilet, urinal
chair, seat
dining table, table
train, locomotive
bear, panda
skis, ski
tie, bow, bow tie
"""


def words(text: str, rows: str | None = None) -> list[str]:
    objects = coco_objects() if rows is None else objects_from(read_synonyms(rows, "rows", strip=False), "fixed")
    return [word for word, _ in objects.mentions(text)]


def classes(text: str) -> list[str]:
    return [name for _, name in coco_objects().mentions(text)]


def test_the_built_in_list_has_coco_s_80_classes_and_no_word_twice() -> None:
    rows = read_synonyms(ROWS, "ROWS", strip=True)
    assert len(rows) == 80
    assert [word for word, count in Counter(word for row in rows for word in row).items() if count > 1] == []
    assert all(word == word.lower().strip() for row in rows for word in row)
    names = [row[0] for row in rows]
    assert (names[0], names[14], names[57], names[79]) == ("person", "bird", "couch", "toothbrush")


def test_there_are_27_pairs_of_words() -> None:
    assert len(PAIRS) == len(set(PAIRS)) == 27


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Dogs. A cat.\nEnd", ["Dogs", ".", "A", "cat", ".", "End"]),
        ("bench.The end", ["bench.The", "end"]),
        ("a dog, a cat; (bird)", ["a", "dog", ",", "a", "cat", ";", "(", "bird", ")"]),
        ("the dogs' and the dog's bowl", ["the", "dogs", "'", "and", "the", "dog", "'s", "bowl"]),
        ("the dog’s bowl", ["the", "dog", "’", "s", "bowl"]),
        ('"bench."', ['"', "bench", ".", '"']),
        ("**Dog**: here", ["*", "*", "Dog", "*", "*", ":", "here"]),
        ("at 3:30, 1,000 dogs/cats", ["at", "3:30", ",", "1,000", "dogs/cats"]),
        ("(dogs'). The dogs', 'cats'.", ["(", "dogs", "'", ")", ".", "The", "dogs", "'", ",", "'cats", "'", "."]),
        ("isn't 'it's'", ["isn't", "'it", "'s", "'"]),
        ("dogs... and--cats", ["dogs", "...", "and", "--", "cats"]),
    ],
)
def test_tokens_by_hand(text: str, tokens: list[str]) -> None:
    assert tokens_of(text) == tokens


def test_c1_a_second_space_after_a_comma_stays_in_the_word_which_then_never_matches() -> None:
    assert words("A motor bike, a cheesecake, a moped and a cupcake.", GIVEN) == ["moped", "cupcake"]
    assert words("An iPhone and a phone.", GIVEN) == ["phone"]  # texts are lower-cased, the list is not
    stripped = objects_from(read_synonyms(GIVEN, "rows", strip=True), "listed")
    assert stripped.mentions("A motor bike and a cheesecake.") == [("motor bike", "motorcycle"), ("cheesecake", "cake")]


def test_c2_three_words_are_no_pair() -> None:
    assert words("A stove top oven.", GIVEN) == ["stove", "oven"]


def test_c3_what_pairs_are_read_as_need_not_be_an_object() -> None:
    assert words("A baby animal, an adult cub, home plate, a train track and train tracks.") == []
    assert words("A passenger train and a passenger jet; a baby elephant; an adult dog.") == [
        "train",
        "jet",
        "elephant",
        "dog",
    ]
    assert words("A passenger in a baby seat.") == ["passenger", "baby", "seat"]


def test_c4_words_and_classes_stay_together_where_seats_are_left_out() -> None:
    """The script's indices do not; there are none here."""
    assert coco_objects().mentions("A dog on the seat of the toilet by a sofa") == [
        ("dog", "dog"),
        ("toilet", "toilet"),
        ("sofa", "couch"),
    ]
    assert words("A toilet seat and another seat") == ["toilet"]
    assert words("A seat") == ["seat"]


def test_c6_plurals_are_put_into_the_singular_as_the_original_does() -> None:
    """The forks' WordNet keeps "men", which is no word of the list."""
    assert words("Two men, three women, children and people with knives") == [
        "man",
        "woman",
        "child",
        "people",
        "knife",
    ]
    assert words("Two men, children, people on skis", GIVEN) == ["man", "child", "people", "ski"]
    assert words("wine glasses, a wine glass and a wine glas") == ["wine glass"] * 3


def test_c7_a_pair_uses_up_both_words() -> None:
    assert words("a baby bear cub") == ["bear"]
    assert words("a teddy bear cub") == ["teddy bear"]
    assert words("a passenger train track") == ["train"]  # and "track" alone


def test_pairs_are_not_made_across_marks_or_hyphens() -> None:
    assert words("hot, dog") == ["dog"]
    assert words("a hot-dog") == []
    assert words("a HOT DOG") == ["hot dog"]


def test_bow_ties_are_ties() -> None:
    assert coco_objects().mentions("a bow tie") == [("tie", "tie")]
    assert classes("men in ties") == ["person", "tie"]


def test_of_two_rows_with_a_word_the_later_has_it() -> None:
    assert objects_from([["cup", "mug"], ["bowl", "mug"]], "fixed").class_of["mug"] == "bowl"


def test_listed_pairs_are_those_of_the_list() -> None:
    listed, fixed = coco_objects("listed"), coco_objects("fixed")
    assert [word for word, _ in listed.mentions("a remote control on a dining table")] == [
        "remote control",
        "dining table",
    ]
    assert [word for word, _ in fixed.mentions("a remote control on a dining table")] == ["remote", "table"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog, puppy\ncat,kitten", "Row 2 of list.txt has to be words separated by a comma and a space: 'cat,kitten'"),
        ("dog, , puppy", "Row 1 of list.txt has to be words separated by a comma and a space"),
        ("\n  \n", "list.txt has no row of synonyms"),
    ],
)
def test_broken_lists_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_synonyms(text, "list.txt", strip=True)


@given(st.lists(st.sampled_from(sorted(coco_objects().class_of)), max_size=6))
def test_sentences_mention_what_they_name(named: list[str]) -> None:
    """Each word on its own, in a sentence of its own; words of more parts may be read as others."""
    single = [word for word in named if " " not in word]
    found = words(" ".join(f"There is a {word}." for word in single))
    expected = ["ski" if word == "skis" else word for word in single]
    assert found == ([word for word in expected if word != "seat"] if "toilet" in expected else expected)
