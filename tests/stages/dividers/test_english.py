import pytest

from rlaifv.stages.dividers.english import base_form, finite, head, is_many, is_participle, is_plural


@pytest.mark.parametrize(
    ("text", "verbs"),
    [
        ("the cat is black", ["is"]),
        ("two boys stand on a wall", ["stand"]),
        ("a sports watch lies on the table", ["lies"]),
        ("a woman watches the game", ["watches"]),
        ("a woman with two watches", []),
        ("they carry bags", []),  # "bags" may be a verb for all that is known here
        ("they carry the bags", ["carry"]),
        ("a man can be seen", ["can"]),
        ("a trash can is red", ["is"]),
        ("the faces of the clock", []),
        ("its faces are white", ["are"]),
        ("stand on the wall", []),
    ],
)
def test_finite_verbs(text: str, verbs: list[str]) -> None:
    words = text.split()
    assert [words[k] for k in finite(words)] == verbs


@pytest.mark.parametrize(
    ("verb", "base"),
    [
        ("carries", "carry"),
        ("plays", "play"),
        ("crosses", "cross"),
        ("watches", "watch"),
        ("ties", "tie"),
        ("is", "is"),
    ],
)
def test_base_form(verb: str, base: str) -> None:
    assert base_form(verb) == base


@pytest.mark.parametrize(
    ("phrase", "many"),
    [
        ("a cat", False),
        ("a few cats", True),
        ("two cats", True),
        ("no cat", False),
        ("no cats on beds", True),
        ("his dogs", True),
        ("the glass of flowers", False),
    ],
)
def test_number_of_a_noun_phrase(phrase: str, many: bool) -> None:
    assert is_many(phrase.split()) == many


def test_nouns_and_participles() -> None:
    nouns = ("cats", "its", "glass", "bus", "men", "deer", "tennis")
    assert [word for word in nouns if is_plural(word)] == ["cats", "men", "deer"]
    words = ("running", "ring", "during", "building", "parked")
    assert [word for word in words if is_participle(word)] == ["running", "parked"]
    assert head(["red", "kite", "hanging", "in", "a", "tree"]) == ["red", "kite"]
    assert head(["in", "the"]) == ["in", "the"]
