"""Object HalBench: what phrases and replies stand for, its rates by hand, and quirks O1, O2, O5 and O6."""

import random
import re

import pytest

from rlaifv.metrics.coco_objects import coco_objects
from rlaifv.metrics.noun_runs import ADJECTIVES, FUNCTION_WORDS, NOUNS_IN_ING_ED, NOUNS_TOO
from rlaifv.metrics.object_halbench import (
    ObjectHalBench,
    extracted_mentions,
    is_asked,
    object_halbench_rates,
    objects_of,
    parse_objects,
    phrase_words,
)

OBJECTS = coco_objects("listed")
ANSWERS = [
    "Assistant: Two dogs and a third dog rest on a boat.",
    "A man and a boy near a red couch, the man asleep.",
    "A wide blue sky over green hills.",
    "A cat.",  # too short to be asked about
]
PHRASES = [
    ["two dogs", "a dog", "boat"],
    ["man", "boy", "red couch"],
    ["sky", "green hills"],
    ["cat"],
]
TRUTHS = [{"dog", "person"}, {"person"}, {"kite"}, {"bed"}]


def test_extracted_rates_by_hand() -> None:
    """Objects: dog, boat; man, boy, couch; none; none. Boat and couch are false. Truths: 2 + 1 + 1 + 1, 2 named."""
    rates = object_halbench_rates(ANSWERS, TRUTHS, PHRASES)
    assert rates == pytest.approx(
        {
            "resp": 100.0,  # 2 of the 2 answers with objects
            "ment": 40.0,  # 2 of 5
            "recall": 40.0,  # 2 of 5
            "chair_s": 50.0,  # 2 of 4
            "object_f1": 2 * 40 * 60 / 100,
            "response_f1": 0.0,
            "mean_words": (10 + 12 + 7 + 2) / 4,  # "Assistant:" is no word of the answer
        }
    )


def test_plain_rates_count_repetitions() -> None:
    """Mentions: dog, dog, boat; man, boy, couch, man; none; cat. False: boat; couch; cat."""
    rates = object_halbench_rates(ANSWERS, TRUTHS)
    assert (rates["resp"], rates["ment"]) == (100.0, pytest.approx(300 / 8))
    assert rates["chair_s"] == 75.0


def test_the_modes_agree_on_responses_and_differ_in_mentions() -> None:
    answers = ["A dog, a dog, a dog and a cat here.", "A dog and then a dog."]
    truths = [{"dog"}, {"dog"}]
    extracted = object_halbench_rates(answers, truths, [["dog", "cat"], ["dog"]])
    plain = object_halbench_rates(answers, truths)
    assert extracted["resp"] == plain["resp"] == 50.0
    assert (extracted["ment"], plain["ment"]) == (pytest.approx(100 / 3), pytest.approx(100 / 6))


def test_o1_classes_named_truly_are_counted_apart_from_mentions() -> None:
    """The script's `coco_word_count` is the former."""
    metric = ObjectHalBench(1, "extracted")
    metric.update(["A man and a boy near a couch."], [{"person"}], [["man", "boy", "couch"]])
    counts = metric.sums()
    assert (counts["correct_classes"], counts["mentions"]) == (1, 3)


def test_o2_the_share_of_answers_with_objects_is_of_all_answers() -> None:
    """Three of four answers have objects, one of them a false one; the script would divide 3 by 3, for 1 percent."""
    answers = ["A dog is in a park.", "A cat is in a park.", "A cow is in a park.", "There is a wide park."]
    truths = [{"dog"}, {"cat"}, {"dog"}, {"dog"}]
    rates = object_halbench_rates(answers, truths, [["dog"], ["cat"], ["cow"], ["park"]])
    assert rates["response_f1"] == pytest.approx(2 * 75 * (200 / 3) / (75 + 200 / 3))


def test_o5_order_does_not_matter() -> None:
    rows = [0, 1, 2, 3, 2, 0]
    random.Random(1).shuffle(rows)
    metric = ObjectHalBench(4, "extracted")
    for row in rows:
        metric.update([ANSWERS[row]], [TRUTHS[row]], [PHRASES[row]], [row])
    values = {name: value.item() for name, value in metric.compute().items()}
    assert values == object_halbench_rates(ANSWERS, TRUTHS, PHRASES)


@pytest.mark.parametrize(
    ("phrase", "objects"),
    [
        ("dog", ["dog"]),
        ("Dog", ["dog"]),
        ("TV", ["tv"]),
        ("a flat TV", ["tv"]),
        ("Traffic light", ["traffic light"]),
        ("Traffic Light", []),
        ("the Orange", []),
        ("Boston Terrier", []),
    ],
)
def test_o6_capitals_within_a_phrase_are_names_and_match_nothing(phrase: str, objects: list[str]) -> None:
    assert [word for word, _ in extracted_mentions([phrase], OBJECTS)] == objects


@pytest.mark.parametrize(
    ("phrase", "words"),
    [
        ("a large wooden bench", ["bench"]),
        ("kitchen table", ["kitchen table"]),  # one run, so no object
        ("the man's hat", ["man", "hat"]),
        ("slice of pizza", ["slice", "pizza"]),
        ("man holding an umbrella", ["man", "umbrella"]),
        ("parked cars", ["car"]),
        ("orange cats", ["cat"]),
        ("orange", ["orange"]),
        ("oranges and apples", ["orange", "apple"]),
        ("young male skier", ["skier"]),
        ("a dog and a hot dog", ["hot dog"]),  # a pair, so nothing else
        ("baby elephants", ["elephant"]),
        ("3 birds", ["bird"]),
        ("building", ["building"]),
        ("", []),
    ],
)
def test_words_of_phrases_by_hand(phrase: str, words: list[str]) -> None:
    assert phrase_words(phrase, OBJECTS) == words


def test_every_word_of_the_list_is_an_object_alone() -> None:
    """Among them "moped" and "duckling", which end like participles."""
    assert [word for word in OBJECTS.class_of if not extracted_mentions([word], OBJECTS)] == []


def test_the_closed_lists_do_not_contradict_each_other() -> None:
    assert ADJECTIVES.isdisjoint(FUNCTION_WORDS)
    assert (FUNCTION_WORDS | ADJECTIVES).isdisjoint(set(OBJECTS.class_of) - NOUNS_TOO)
    assert all(word.endswith(("ing", "ed")) for word in NOUNS_IN_ING_ED)


def test_objects_are_distinct_by_word_and_a_toilet_has_no_seat() -> None:
    assert extracted_mentions(["man", "men", "child"], OBJECTS) == [("man", "person"), ("child", "person")]
    assert extracted_mentions(["seat", "toilet"], OBJECTS) == [("toilet", "toilet")]
    assert extracted_mentions(["train track", "home plate"], OBJECTS) == []


@pytest.mark.parametrize(
    ("reply", "phrases"),
    [
        ('["dog", "boat"]', ["dog", "boat"]),
        (" [ ]\n", []),
        ('Objects:\n["dog"]', ["dog"]),
        ('{"dog": 1}', ["dog"]),
        ('"cat"', ["c", "a", "t"]),
    ],
)
def test_replies_are_read_by_the_official_rule(reply: str, phrases: list[str]) -> None:
    assert parse_objects(reply) == phrases


@pytest.mark.parametrize(
    "reply", ["()", '```json\n["dog"]\n```', '["dog"]\nThat is all.', "['dog']", "3", "null", "[1]", "", "Objects:\n[]"]
)
def test_replies_that_the_script_asks_again_for_are_unreadable(reply: str) -> None:
    with pytest.raises(ValueError, match=r"The extractor's reply is no JSON list of phrases"):
        parse_objects(reply)
    assert objects_of({"7": '["dog"]', "8": reply}) == ({"7": ["dog"]}, ["8"])


def test_short_answers_are_not_asked_about_and_have_no_objects() -> None:
    assert [is_asked(text) for text in ("A red cat.", "Assistant: A red cat.", "A very red cat.")] == [
        False,
        False,
        True,
    ]
    with pytest.raises(ValueError, match="resp is undefined: no answer mentions an object of the list"):
        object_halbench_rates(["A red cat."], [{"cat"}], [["cat"]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("extracted", ["A dog."], [{"dog"}], None), "Mode 'extracted' needs phrases."),
        (("plain", ["A dog."], [{"dog"}], [["dog"]]), "Mode 'plain' has no use for phrases."),
        (
            ("extracted", ["A dog."], [{"dog"}], []),
            "different numbers of rows: {'answers': 1, 'truths': 1, 'phrases': 0}",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: tuple, message: str) -> None:
    mode, answers, truths, phrases = arguments
    with pytest.raises(ValueError, match=re.escape(message)):
        ObjectHalBench(1, mode).update(answers, truths, phrases)
