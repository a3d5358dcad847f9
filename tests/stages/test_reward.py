"""From verdicts to rewarded answers: terms, drops, and what is refused."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from rlaifv.models.sampling import Decoding
from rlaifv.records import Claim, Judgement, Response
from rlaifv.stages.reward import Reward, RewardRules, RolloutLogps, build_rollouts, rollout_statistics
from rlaifv.stages.stage import Task

Answer = tuple[str, str, bool]


def made(*answers: Answer) -> tuple[list[Response], list[Claim], list[Judgement]]:
    """Responses to prompt `p`: per answer its text, verdicts (a: accepted, r: rejected, u: unknown), and whether it ended.

    Claims of the same letter and place ask the same question; upper case repeats the question before it.
    """
    responses, claims, judgements = [], [], []
    names = {"a": "accepted", "r": "rejected", "u": "unknown"}
    for k, (text, verdicts, finished) in enumerate(answers):
        responses.append(Response(f"p/{k}", "p", text, (5, 6), finished, k))
        for j, letter in enumerate(verdicts):
            place = j - 1 if letter.isupper() else j
            claims.append(Claim(f"p/{k}/{j}", f"p/{k}", "p", "It is.", f"Is it {place}?"))
            verdict: Any = names[letter.lower()]
            judgements.append(Judgement(f"p/{k}/{j}", f"p/{k}", "p", 0.5, 0.5, verdict))
    return responses, claims, judgements


def test_a_reward_is_the_sum_of_its_weighted_terms() -> None:
    rules = RewardRules(accepted=0.5, rejected=2.0, cut=3.0, estimator="rloo")
    rollouts, drops = build_rollouts(*made(("A.", "aar", True), ("B.", "a", False), ("C.", "r", True)), rules)
    assert [one.reward for one in rollouts] == [-1.0, -2.5, -2.0]
    assert [(one.num_accepted, one.num_rejected, one.finished) for one in rollouts] == [
        (2, 1, True),
        (1, 0, False),
        (0, 1, True),
    ]
    assert [one.advantage for one in rollouts] == pytest.approx([1.25, -1.0, -0.25])
    assert not drops


def test_repeating_a_claim_does_not_pay() -> None:
    rollouts, _ = build_rollouts(*made(("A. A. A.", "aAr", True), ("B.", "r", True)), RewardRules(accepted=1.0))
    assert [one.num_accepted for one in rollouts] == [1, 0]


def test_what_cannot_be_rewarded_is_dropped_and_counted() -> None:
    answers = (("", "", True), ("Hm.", "", True), ("A.", "au", True), ("B.", "a", True), ("C.", "r", True))
    rollouts, drops = build_rollouts(*made(*answers), RewardRules())
    assert [one.id for one in rollouts] == ["p/3", "p/4"]
    assert drops == {"empty_response": 1, "no_claims": 1, "unknown": 1}


@pytest.mark.parametrize("estimator", ["grpo", "rloo", "reinforce++"])
def test_a_prompt_whose_answers_are_equally_good_teaches_nothing(estimator: Any) -> None:
    assert build_rollouts(*made(("A.", "a", True), ("B.", "a", True)), RewardRules(estimator=estimator)) == (
        [],
        Counter(no_spread=2),
    )
    assert build_rollouts(*made(("A.", "a", True)), RewardRules()) == ([], Counter(alone=1))


def test_answers_that_were_not_divided_are_counted_once() -> None:
    task = Task(drops={"not_divided": 1})
    found = Reward(RewardRules())(task, *made(("A.", "", True), ("B.", "a", True), ("C.", "r", True)))
    assert len(found.records) == 2
    assert found.drops == {}


def test_every_term_is_among_the_statistics() -> None:
    tables = made(("A.", "aar", True), ("B.", "a", False))
    rollouts, drops = build_rollouts(*tables, RewardRules())
    found = rollout_statistics(tables[0], tables[2], rollouts, drops)
    # Rewards: 0.4 - 1 = -0.6, and 0.2 - 1 = -0.8.
    assert found["reward/mean"] == pytest.approx(-0.7)
    assert found["reward/std"] == pytest.approx(0.1)
    assert (found["reward/accepted"], found["reward/rejected"], found["reward/cut"]) == (1.5, 0.5, 0.5)
    assert (found["rollouts_kept"], found["responses"], found["dropped/no_spread"]) == (2.0, 2.0, 0.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rejected": -1.0}, "The weight rejected of the reward must be 0 or more, but it is -1.0"),
        ({"cut": float("nan")}, "The weight cut of the reward must be 0 or more, but it is nan"),
        ({"accepted": 0.0, "rejected": 0.0, "cut": 0.0}, "All weights of the reward are 0"),
        ({"estimator": "ppo"}, "must be one of grpo, rloo, reinforce.*, but it is 'ppo'"),
    ],
)
def test_wrong_rules_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardRules(**wrong)


@pytest.mark.parametrize("wrong", [{"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 40}, {"repetition_penalty": 1.1}])
def test_answers_of_another_distribution_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"the policy's own distribution: set iteration\.decoding\.{name}=[01.]+\.$"):
        RolloutLogps(SimpleNamespace(), Decoding(max_new_tokens=9, **wrong))  # type: ignore[arg-type]


def test_answers_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"set iteration\.chosen_from=null"):
        RolloutLogps(SimpleNamespace(), Decoding(max_new_tokens=9), chosen_from=object())  # type: ignore[arg-type]
