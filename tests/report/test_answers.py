from hypothesis import given
from hypothesis import strategies as st

from rlaifv.report.answers import mark_claims
from rlaifv.report.run import JudgedClaim


def claim(text: str) -> JudgedClaim:
    return JudgedClaim(text, "", 0.9, 0.1, "accepted")


def test_claims_are_found_in_the_text() -> None:
    cat, dog = claim("There is a cat."), claim("a dog sleeps")
    answer = mark_claims("there is a  cat. Beside it A dog sleeps, too.", [cat, dog])
    assert [(segment.text, segment.claim) for segment in answer.segments] == [
        ("there is a  cat.", cat),
        (" Beside it ", None),
        ("A dog sleeps", dog),
        (", too.", None),
    ]
    assert answer.elsewhere == ()


def test_a_place_said_first_is_found_though_its_claim_ends_with_it() -> None:
    text = "At the left, there is a cat. In front of it, a dog sleeps. There is a cat."
    cat, dog, again = (
        claim("There is a cat at the left."),
        claim("A dog sleeps in front of it."),
        claim("There is a cat."),
    )
    answer = mark_claims(text, [cat, dog, again])
    assert [(segment.text, segment.claim) for segment in answer.segments if segment.claim] == [
        ("At the left, there is a cat.", cat),
        ("In front of it, a dog sleeps.", dog),
        ("There is a cat.", again),
    ]


def test_reworded_claims_and_parts_of_words_are_not_guessed() -> None:
    reworded, part, empty = claim("A cat is there."), claim("there is a cat"), claim(" . ")
    answer = mark_claims("There is a caterpillar.", [reworded, part, empty])
    assert [segment.claim for segment in answer.segments] == [None]
    assert answer.elsewhere == (reworded, part, empty)


def test_repeated_claims_mark_repeated_sentences() -> None:
    first, second, third = (claim("It is red.") for _ in range(3))
    answer = mark_claims("It is red. It is red.", [first, second, third])
    assert [segment.claim for segment in answer.segments if segment.claim] == [first, second]
    assert answer.elsewhere == (third,)


def test_claim_inside_another_is_not_marked_twice() -> None:
    whole, inner = claim("a red ball on a table"), claim("a table")
    answer = mark_claims("I see a red ball on a table.", [whole, inner])
    assert [segment.claim for segment in answer.segments] == [None, whole]
    assert answer.elsewhere == (inner,)


words = st.text(alphabet="ab ().*\\ß<", max_size=30)


@given(words, st.lists(words, max_size=5))
def test_segments_join_to_the_text_and_no_claim_is_lost(text: str, texts: list[str]) -> None:
    claims = [claim(words) for words in texts]
    answer = mark_claims(text, claims)
    assert "".join(segment.text for segment in answer.segments) == text
    placed = [id(segment.claim) for segment in answer.segments if segment.claim]
    assert sorted([*placed, *map(id, answer.elsewhere)]) == sorted(map(id, claims))
