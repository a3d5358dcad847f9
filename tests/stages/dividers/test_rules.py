import gc
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.records import Claim, Prompt, Response
from rlaifv.stages.dividers.protocol import Divider
from rlaifv.stages.dividers.rules import RulesDivider, to_claims, to_question
from rlaifv.stages.dividers.whole import WholeDivider
from rlaifv.worlds.shapes import COLOURS, POSITIONS, SHAPES, Thing, polar_question

PROMPT = Prompt("p7", "Describe the image.", ("/images/7.png",))


def respond(text: str) -> Response:
    return Response("p7/3", "p7", text, (5, 2), True, 11)


DESCRIPTIONS = {
    "picture_features_a_thing": (
        "The image features a black cat sitting on a bed. The cat is looking at the camera, and its eyes are green.",
        ["There is a black cat sitting on a bed.", "The cat is looking at the camera.", "Its eyes are green."],
    ),
    "fronted_place_and_comment": (
        "In the background, there are several cars parked along the street, adding to the bustling atmosphere.",
        ["There are several cars parked along the street in the background."],
    ),
    "shared_subject_and_auxiliary": (
        "He is wearing a white apron and holding a spoon.",
        ["He is wearing a white apron.", "He is holding a spoon."],
    ),
    "trailing_participle": (
        "A man and a woman are sitting at a table, enjoying a meal together.",
        ["A man and a woman are sitting at a table.", "A man and a woman are enjoying a meal together."],
    ),
    "shared_subject": (
        "The zebras are grazing in the field and have black and white stripes.",
        ["The zebras are grazing in the field.", "The zebras have black and white stripes."],
    ),
    "while": (
        "One dog is lying on the ground, while a bird is standing.",
        ["One dog is lying on the ground.", "A bird is standing."],
    ),
    "hedged_fact_and_guess": (
        "The woman appears to be waiting for a bus, possibly on her way to work. She might be a nurse.",
        ["The woman is waiting for a bus."],
    ),
    "opinions": (
        "It looks beautiful. The street is very lively. The candles create a cozy mood. Overall, it is a busy scene.",
        [],
    ),
    "comment_on_a_fact": (
        "The pizza is topped with cheese, tomatoes, and basil, making it look delicious.",
        ["The pizza is topped with cheese, tomatoes, and basil."],
    ),
    "inference": ("There is a cake. The presence of candles suggests that it is a birthday.", ["There is a cake."]),
    "existential_list": (
        "There is a cat, a dog and two birds on the bed.",
        ["There is a cat.", "There is a dog.", "There are two birds on the bed."],
    ),
    "picture_shows_a_list": (
        "The image shows a cat, a dog, and several birds.",
        ["There is a cat.", "There is a dog.", "There are several birds."],
    ),
    "list_of_placed_things": (
        "There is a cat on the bed and a dog on the floor.",
        ["There is a cat on the bed.", "There is a dog on the floor."],
    ),
    "list_that_belongs_to_one_thing": (
        "There is a man with a hat and a cane. There is a ball between a cat and a dog.",
        ["There is a man with a hat and a cane.", "There is a ball between a cat and a dog."],
    ),
    "apposition": (
        "There are two cats, one black and one white.",
        ["There are two cats, one black and one white."],
    ),
    "clauses_of_joint_subjects": (
        "A boy is running and a man and a woman are talking.",
        ["A boy is running.", "A man and a woman are talking."],
    ),
    "object_list_before_a_clause": (
        "The boy is holding a cup and a spoon and the dog is barking.",
        ["The boy is holding a cup.", "The boy is holding a spoon.", "The dog is barking."],
    ),
    "no_clause_behind_and": (
        "There are two men and a dog that is black near the door.",
        ["There are two men and a dog that is black near the door."],
    ),
    "pronoun_stays_with_its_noun": (
        "There is a cat on the bed and it is black.",
        ["There is a cat on the bed and it is black."],
    ),
    "quotation": ('The sign says "stop and the dog is safe".', ['The sign says "stop and the dog is safe".']),
    "fragments": (
        "A cat. Two dogs. A man riding a wave on top of a surfboard.",
        ["There is a cat.", "There are two dogs.", "There is a man riding a wave on top of a surfboard."],
    ),
    "fragment_or_unknown_verb": ("A man paints a wall. Two women paint.", ["A man paints a wall.", "Two women paint."]),
    "list_markers": (
        "Here is what I see:\n\n1. A red car\n2) A bus parked on the street\n- **Color**: The car is red\n* Two trees",
        ["There is a red car.", "There is a bus parked on the street.", "The car is red.", "There are two trees."],
    ),
    "abbreviations_and_decimals": (
        "Dr. Smith is 1.9 m tall, e.g. tall. The clock shows 3 p.m. The wall is white.",
        ["Dr. Smith is 1.9 m tall, e.g. tall.", "The clock shows 3 p.m.", "The wall is white."],
    ),
    "semicolon_and_wrapped_line": (
        "The umbrella is red; the coat,\nwhich is long, is blue.",
        ["The umbrella is red.", "The coat is blue.", "The coat is long."],
    ),
    "answers_and_questions": (
        "Yes, the cat is black. What a lovely cat! Is there anything else that you want to know?",
        ["The cat is black."],
    ),
    "first_person": ("I can see a dog in the park. I think that it is old.", ["There is a dog in the park."]),
    "connecting_words": (
        "Additionally, there's a clock on the wall. In the image we can see a lamp. In the picture, a man is eating.",
        ["There is a clock on the wall.", "There is a lamp.", "A man is eating."],
    ),
    "objects": (
        "The fridge contains a carton of milk, six eggs, and a jar of pickles, but no cheese. He has a hat and boots.",
        [
            *("The fridge contains a carton of milk.", "The fridge contains six eggs."),
            *("The fridge contains a jar of pickles.", "The fridge contains no cheese."),
            *("He has a hat.", "He has boots."),
        ],
    ),
    "objects_that_are_one_thing": (
        "The bowl holds a mix of apples and pears. The house has five windows, three upstairs and two downstairs.",
        [
            "The bowl holds a mix of apples and pears.",
            "The house has five windows, three upstairs and two downstairs.",
        ],
    ),
    "verbs_of_several": (
        "Two tables stand on the pavement, and three boys wear a cap and kick a ball.",
        ["Two tables stand on the pavement.", "Three boys wear a cap.", "Three boys kick a ball."],
    ),
    "nouns_that_look_like_verbs": (
        "There is a sports watch on the table and a cross on the wall. A woman with two watches and a display is here.",
        [
            *("There is a sports watch on the table.", "There is a cross on the wall."),
            "A woman with two watches and a display is here.",
        ],
    ),
    "relative_clauses": (
        "A woman who is holding a clipboard stands next to a horse that has a white face. The tower, which is tall, is red.",
        [
            *("A woman stands next to a horse.", "The woman is holding a clipboard.", "The horse has a white face."),
            *("The tower is red.", "The tower is tall."),
        ],
    ),
    "relative_clause_that_says_which": (
        "The car that is parked in front of the garage has a dent.",
        ["The car that is parked in front of the garage has a dent."],
    ),
    "share_of_several": (
        "There are twelve apples, four of which are green.",
        ["There are twelve apples.", "Four of the twelve apples are green."],
    ),
    "reason_and_concession": (
        "The road is dry, although the sky is grey. The dog is wet because it was raining.",
        ["The road is dry.", "The sky is grey.", "The dog is wet because it was raining."],
    ),
    "negations_in_a_list": (
        "The street is empty: there are no cars, no buses and no lamps.",
        ["The street is empty.", "There are no cars.", "There are no buses.", "There are no lamps."],
    ),
    "companions": (
        "A pizza lies on the table, along with a knife and two forks. It is sunny, with a few clouds.",
        [
            *("A pizza lies on the table.", "There is a knife.", "There are two forks."),
            *("It is sunny.", "There are a few clouds."),
        ],
    ),
    "what_a_thing_does_that_there_is": (
        "There is a man standing on a court, holding a racket. A girl wearing a red hat is singing.",
        [
            *("There is a man standing on a court.", "The man is holding a racket."),
            *("A girl is singing.", "The girl is wearing a red hat."),
        ],
    ),
    "what_can_be_seen": (
        "Several birds can be seen in the sky. A cup and a spoon are also visible.",
        ["There are several birds in the sky.", "There is a cup.", "There is a spoon."],
    ),
    "places_in_front_without_a_comma": (
        "On the table there are two plates and a cup, and on the floor there is a rug.",
        ["There are two plates on the table.", "There is a cup on the table.", "There is a rug on the floor."],
    ),
    "answers_that_break_off": (
        "A cat sits here. The horse is brown and\nIn the upper part of the\nA dog barks.A boy runs",
        ["A cat sits here.", "The horse is brown.", "A dog barks.", "A boy runs."],
    ),
    "headings_and_tags": (
        "## Overview\n<p>The <b>barn</b> is red.</p>\n# The sky is blue",
        ["The barn is red.", "The sky is blue."],
    ),
    "two_fronted_places": (
        "On the left, a man, and on the right, a dog.",
        ["On the left, a man, and on the right, a dog."],
    ),
}


@pytest.mark.parametrize(("text", "claims"), DESCRIPTIONS.values(), ids=DESCRIPTIONS.keys())
def test_claims_of_a_description(text: str, claims: list[str]) -> None:
    assert to_claims(text) == claims


@pytest.mark.parametrize(
    ("claim", "question"),
    [
        ("There is a red circle at the top left.", "Is there a red circle at the top left?"),
        ("There are two dogs.", "Are there two dogs?"),
        ("The cat is black.", "Is the cat black?"),
        ("It was raining", "Was it raining?"),
        ("A dog can be seen on the left.", "Can a dog be seen on the left?"),
        ("A trash can is on the street.", "Is a trash can on the street?"),
        ("The bus has been parked.", "Has the bus been parked?"),
        ("The bus has two doors.", "Does the bus have two doors?"),
        ("The dogs have collars.", "Do the dogs have collars?"),
        ("The woman sitting on the bench wears a hat.", "Does the woman sitting on the bench wear a hat?"),
        ("Cats are sleeping.", "Are cats sleeping?"),
        ("James is sleeping.", "Is James sleeping?"),
        ("The cat and the dog are black.", "Are the cat and the dog black?"),
        ("A man in a suit and tie is standing.", "Is a man in a suit and tie standing?"),
        ("There is a man who is holding a cup.", "Is there a man who is holding a cup?"),
        ('The sign reads "STOP".', 'Does the sign read "STOP"?'),
    ],
)
def test_question_is_inverted(claim: str, question: str) -> None:
    assert to_question(claim) == question


@pytest.mark.parametrize(
    "claim",
    [
        "There is no dog.",
        "The cat isn't black.",
        "The man who is sitting is tall.",
        "On the table is a cup.",
        "The dog barks at a man and the cat is black.",
        "The cat is black but the dogs are white.",
        "Two women paint.",
        "Red bus on the left.",
        "一只猫.",
    ],
)
def test_unclear_or_negated_claim_is_quoted(claim: str) -> None:
    assert to_question(claim) == f'Does the statement "{claim}" describe the image correctly?'


def test_quotation_marks_cannot_end_the_quoted_statement() -> None:
    question = to_question('No sign reads "yes". Is “this” «it»?\n"')
    assert question == """Does the statement "No sign reads 'yes'. Is 'this' 'it'? '" describe the image correctly?"""


def test_the_embedded_world_is_divided_into_its_own_sentences_and_questions() -> None:
    things = [Thing(cell, c, s) for cell in range(len(POSITIONS)) for c in COLOURS for s in SHAPES]
    assert to_claims(" ".join(thing.sentence for thing in things)) == [thing.sentence for thing in things]
    assert to_claims(" ".join(thing.caption_sentence for thing in things)) == [thing.sentence for thing in things]
    assert [to_question(thing.sentence) for thing in things] == [polar_question(thing) for thing in things]


@pytest.mark.parametrize("text", ["", "  \n\t", "...", "!!! ???", "Yes.", "- \n* \n1. \n", "_", "()"])
def test_nothing_is_claimed_by_nothing(text: str) -> None:
    assert to_claims(text) == []


WORDS = st.sampled_from(
    ["a", "The", "cat", "dogs", "is", "are", "has", "sits", "and", "while", "there", "on", "not", "who"]
)
MARKS = st.sampled_from([",", ".", ";", '"', "'It'", "in", "3.", "-", "\n", "?", ":", "("])


@given(
    st.one_of(
        st.text(), st.lists(WORDS | MARKS, max_size=40).map(" ".join), st.text('\u2028\x85\r\n\x1c"“.?！ aÅß\U0001f600')
    )
)
def test_any_text_survives(text: str) -> None:
    for claim in to_claims(text):
        assert claim.splitlines() == [claim]
        assert claim.endswith(".")
        assert any(char.isalnum() for char in claim)
    for question in map(to_question, [text, *to_claims(text)]):
        assert question.endswith("?")
        assert len(question.splitlines()) == 1


@given(st.lists(st.sampled_from([text for text, _ in DESCRIPTIONS.values()]), max_size=4))
def test_sentences_are_divided_independently(texts: list[str]) -> None:
    assert to_claims("\n\n".join(texts)) == [claim for text in texts for claim in to_claims(text)]


@given(st.lists(st.sampled_from([claim for _, claims in DESCRIPTIONS.values() for claim in claims])))
def test_claims_say_nothing_that_the_answer_does_not(claims: list[str]) -> None:
    """Dividing a list of claims again invents no word."""
    text = " ".join(claims)
    assert set(re.findall(r"\w+", " ".join(to_claims(text)).lower())) <= set(re.findall(r"\w+", text.lower())) | {
        "there",
        "is",
        "are",
    }


def test_divider_makes_records_and_keeps_repetitions() -> None:
    divider: Divider = RulesDivider()
    first, second, third = divider.divide(PROMPT, respond("The cat is black. A dog. The cat is black."))
    assert (first.id, second.id, third.id) == ("p7/3/0", "p7/3/1", "p7/3/2")
    assert (first.text, first.question) == (third.text, third.question) == ("The cat is black.", "Is the cat black?")
    assert (second.text, second.question) == ("There is a dog.", "Is there a dog?")
    assert (second.response_id, second.prompt_id) == ("p7/3", "p7")
    assert divider.divide(PROMPT, respond("")) == []


def test_divider_keeps_the_first_claims_of_a_runaway_answer() -> None:
    claims = RulesDivider(max_claims=2).divide(PROMPT, respond("The cat is black. The dog is white. The bus is red."))
    assert [claim.text for claim in claims] == ["The cat is black.", "The dog is white."]


def test_a_cap_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="max_claims must be at least 1, but it is 0"):
        RulesDivider(max_claims=0)


def test_a_negation_is_never_lost() -> None:
    """A cut that dropped a "not" would turn a claim around."""
    for text in (
        "The man, who is not smiling, is old.",
        "There is no dog and no cat.",
        "A cup that has no handle is red.",
    ):
        assert sum(claim.count(" no") for claim in to_claims(text)) == text.count(" no")


@pytest.mark.parametrize(
    "unit",
    [
        *("a cat and ", "The dog, which is red, ", "there is a cup, ", "in on at ", "who is a ", "and on the a b c "),
        *(
            "along with ",
            ", with a ",
            "a cup of b, ",
            "of which ",
            "wearing ",
            ": there is ",
            "the the ",
            "can be seen ",
            "has a b, ",
        ),
    ],
)
def test_time_is_linear_in_the_length_of_an_answer(unit: str) -> None:
    def seconds(num_words: int) -> float:
        text = "There is " + unit * (num_words // len(unit.split()))
        gc.disable()  # what other tests left behind is not this one's to look through
        start = time.thread_time()  # of this thread alone, whatever else the machine does
        to_claims(text)
        taken = time.thread_time() - start
        gc.enable()
        return taken

    seconds(500)
    short = min(seconds(1500) for _ in range(2))
    assert min(seconds(6000) for _ in range(2)) < 10 * short + 0.05


def test_an_answer_left_whole_is_one_claim_with_one_question() -> None:
    response = Response("p/3", "p", 'There is  a "red"\ncat. It sits.', (1,), True, 0)
    (claim,) = WholeDivider().divide(Prompt("p", "What is it?", ()), response)
    assert claim == Claim(
        "p/3/0",
        "p/3",
        "p",
        'There is a "red" cat. It sits.',
        "Does the statement \"There is a 'red' cat. It sits.\" describe the image correctly?",
    )
    assert WholeDivider().divide(Prompt("p", "What is it?", ()), Response("p/4", "p", " \n", (1,), True, 0)) == []
