"""Answers and their corrections: which sentences leave, what takes their places, and which tokens spell it."""

from typing import Any

import pytest

from rlaifv.engines.local import LocalEngine
from rlaifv.models.prompting import Prompter
from rlaifv.records import Pair, Prompt, Response
from rlaifv.stages.corrected import CorrectedPairs
from rlaifv.stages.dividers.protocol import NotDivided
from rlaifv.stages.dividers.rules import RulesDivider
from rlaifv.stages.reference import encode_pair
from rlaifv.stages.sentences import DivideSentences
from rlaifv.stages.stage import Made, Task
from tests.stages.sentences import BLACK, BLUE, GREEN, RED, ids_of, sentence, table


@pytest.fixture
def policy(model: Any, prompter: Prompter) -> LocalEngine:
    return LocalEngine(model, prompter)


def made(
    policy: LocalEngine, *answers: tuple[str, str], cap: int = 9, fill: bool = False, complete: bool = False
) -> Made:
    return CorrectedPairs(policy, cap, fill, complete)(Task(), *table(policy.prompter, answers))


def test_rejected_sentences_leave_and_the_others_keep_their_tokens(policy: LocalEngine) -> None:
    whole = f"{RED} {GREEN} {BLACK}"
    (pair,) = made(policy, (whole, "+-+")).records
    assert (pair.chosen, pair.rejected) == (f"{RED} {BLACK}", whole)
    assert pair.chosen_token_ids == ids_of(policy.prompter, f"{RED} {BLACK}")
    assert pair.rejected_token_ids == ids_of(policy.prompter, whole)
    assert (pair.chosen_score, pair.rejected_score) == (0.0, -1.0)
    assert (pair.chosen_response_id, pair.rejected_response_id) == ("p/0", "p/0")


def test_sentences_that_claim_nothing_stay(policy: LocalEngine) -> None:
    (pair,) = made(policy, (f"{RED} Yes. {GREEN}", "+.-")).records
    assert pair.chosen == f"{RED} Yes."


def test_an_answer_that_would_begin_with_another_first_token_is_encoded(
    policy: LocalEngine, prompts: list[Prompt]
) -> None:
    """Within an answer "At" has a space before it, at its beginning none."""
    (pair,) = made(policy, (f"{RED} {GREEN}", "-+")).records
    assert (pair.chosen, pair.chosen_token_ids) == (GREEN, ())
    encoded, reason = encode_pair(policy, prompts[0], pair)
    assert reason == ""
    assert encoded.rejected_token_ids == pair.rejected_token_ids
    assert policy.decode(encoded.chosen_token_ids) == GREEN
    assert encoded.chosen_token_ids == policy.prompter.completion_ids(prompts[0], GREEN)


def test_the_closest_accepted_sentence_of_another_answer_takes_the_place(policy: LocalEngine) -> None:
    others = (f"{GREEN} {BLACK}", "++"), (f"{BLUE} {BLACK}", "++")
    pairs = made(policy, (f"{RED} {GREEN}", "-+"), *others, fill=True).records
    assert [pair.chosen for pair in pairs] == [f"{BLUE} {GREEN}"]
    assert pairs[0].chosen_token_ids == ids_of(policy.prompter, f"{BLUE} {GREEN}")


def test_what_an_answer_says_is_not_put_into_it_again(policy: LocalEngine) -> None:
    (pair,) = made(policy, (f"{RED} {GREEN}", "+-"), (RED, "+"), fill=True).records
    assert pair.chosen == RED
    twice = sentence("red", "star", "top"), sentence("red", "cross", "top")
    (pair,) = made(policy, (" ".join(twice), "--"), (BLUE, "+"), fill=True).records
    assert pair.chosen == BLUE


def test_a_first_sentence_within_an_answer_gets_its_space(policy: LocalEngine) -> None:
    (pair,) = made(policy, (f"{GREEN} {RED} {BLACK}", "+-+"), (BLUE, "+"), fill=True).records
    assert (pair.chosen, pair.chosen_token_ids) == (f"{GREEN} {BLUE} {BLACK}", ())


def test_what_an_answer_lacks_is_added_on_request(policy: LocalEngine) -> None:
    answers = (f"{RED} {GREEN}", "+-"), (RED, "+"), (f"{RED} {BLACK}", "++")
    wrong, short = made(policy, *answers, complete=True).records
    assert (wrong.chosen, wrong.rejected, wrong.rejected_score) == (f"{RED} {BLACK}", f"{RED} {GREEN}", -2.0)
    assert (short.chosen, short.rejected, short.rejected_score) == (f"{RED} {BLACK}", RED, -1.0)
    assert short.chosen_token_ids == ids_of(policy.prompter, f"{RED} {BLACK}")
    filled, _ = made(policy, *answers, fill=True, complete=True).records
    assert (filled.chosen, filled.rejected_score) == (f"{RED} {BLACK}", -1.0)
    assert made(policy, *answers, complete=True).drops == {"nothing_rejected": 1}


def test_every_answer_without_a_pair_is_counted(policy: LocalEngine) -> None:
    wrong = f"{RED} {GREEN}", "+-"
    result = made(policy, (RED, "+"), (RED, "-"), wrong, wrong, ("Yes.", "."), (RED, "?"))
    assert [pair.rejected for pair in result.records] == [f"{RED} {GREEN}"]
    assert result.drops == {"nothing_rejected": 1, "nothing_left": 1, "repeated": 1, "no_claims": 1, "unknown": 1}


def test_the_cap_counts_what_it_drops(policy: LocalEngine) -> None:
    result = made(policy, (f"{RED} {GREEN}", "+-"), (f"{RED} {BLACK}", "+-"), (f"{RED} {BLUE}", "+-"), cap=2)
    assert (len(result.records), result.drops) == (2, {"over_cap": 1})
    assert len({pair.id for pair in result.records}) == 2


def test_claims_that_know_no_sentence_are_refused(policy: LocalEngine) -> None:
    records = table(policy.prompter, [(RED, "-")], ends=False)
    with pytest.raises(
        ValueError, match=r"Claim 'p/0/0' does not say in which sentence it is; set method\.stages\.divide"
    ):
        CorrectedPairs(policy)(Task(), *records)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"chosen_from": object()}, "iteration.chosen_from=null"), ({"max_pairs_per_prompt": 0}, "must be at least 1")],
)
def test_settings_without_a_meaning_are_refused(policy: LocalEngine, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CorrectedPairs(policy, **arguments)


def test_claims_are_numbered_over_the_sentences_and_know_their_ends(policy: LocalEngine, prompts: list[Prompt]) -> None:
    text = f"{RED} {GREEN}"
    response = Response("a", prompts[0].id, text, ids_of(policy.prompter, text), True, 0)
    claims = DivideSentences(policy, RulesDivider())(Task(), prompts[:1], [response]).records
    assert [(claim.id, claim.text, claim.end) for claim in claims] == [
        ("a/0", "There is a red ring at the top.", 9),
        ("a/1", "There is a green star at the left.", 19),
    ]


def test_an_answer_with_a_sentence_that_fails_is_not_divided(policy: LocalEngine, prompts: list[Prompt]) -> None:
    class Failing:
        producer = "failing"

        def divide_all(self, pairs: Any) -> list[Any]:
            rules = RulesDivider()
            return [NotDivided("no") if "star" in one.text else rules.divide(prompt, one) for prompt, one in pairs]

    responses = [
        Response(f"{k}", prompts[0].id, text, ids_of(policy.prompter, text), True, 0)
        for k, text in enumerate([f"{RED} {GREEN}", RED])
    ]
    result = DivideSentences(policy, Failing())(Task(), prompts[:1], responses)
    assert [claim.id for claim in result.records] == ["1/0"]
    assert result.drops == {"not_divided": 1}
    # They have no claims either, and are counted once.
    pairs = CorrectedPairs(policy)(Task(drops={"not_divided": 1}), responses, [], [])
    assert pairs.drops == {"no_claims": 1}
    assert not any(isinstance(record, Pair) for record in pairs.records)
