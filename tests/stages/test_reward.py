"""From verdicts to rewarded answers: terms, drops, and what is refused."""

import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from rlaifv.models.sampling import Decoding
from rlaifv.records import AnswerScore, Claim, Judgement, Prompt, Response
from rlaifv.stages.reward import Reward, rollout_statistics
from rlaifv.stages.rollout_logps import RolloutLogps
from rlaifv.stages.stage import Made, Task
from rlaifv.stages.terms import Claims, NoEnd, Score

Answer = tuple[str, str, bool]
TASK = Task()
PROMPTS = [Prompt("p", "What?", ("p.png",))]


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


def terms(accepted: float = 0.2, rejected: float = -1.0, cut: float = -1.0) -> dict[str, Any]:
    return {
        "accepted": Claims(verdict="accepted", weight=accepted),
        "rejected": Claims(verdict="rejected", weight=rejected),
        "cut": NoEnd(weight=cut),
    }


def rewarded(*answers: Answer, estimator: Any = "grpo", task: Task = TASK, **weights: float) -> Made:
    return Reward(terms(**weights), estimator)(task, PROMPTS, *made(*answers))


def test_a_reward_is_the_sum_of_its_weighted_terms() -> None:
    answers = (("A.", "aar", True), ("B.", "a", False), ("C.", "r", True))
    found = rewarded(*answers, estimator="rloo", accepted=0.5, rejected=-2.0, cut=-3.0)
    rollouts = found.records
    assert [one.reward for one in rollouts] == [-1.0, -2.5, -2.0]
    assert [(one.num_accepted, one.num_rejected, one.finished) for one in rollouts] == [
        (2, 1, True),
        (1, 0, False),
        (0, 1, True),
    ]
    assert [one.advantage for one in rollouts] == pytest.approx([1.25, -1.0, -0.25])
    assert rollouts[1].term_names == ("accepted", "rejected", "cut")
    assert rollouts[1].terms == (0.5, 0.0, -3.0)
    assert not found.drops


def test_repeating_a_claim_does_not_pay() -> None:
    found = rewarded(("A. A. A.", "aAr", True), ("B.", "r", True))
    assert [one.num_accepted for one in found.records] == [1, 0]


def test_what_cannot_be_rewarded_is_dropped_and_counted() -> None:
    answers = (("", "", True), ("Hm.", "", True), ("A.", "au", True), ("B.", "a", True), ("C.", "r", True))
    found = rewarded(*answers)
    assert [one.id for one in found.records] == ["p/3", "p/4"]
    assert found.drops == {"empty_response": 1, "no_claims": 1, "unknown": 1}


@pytest.mark.parametrize("estimator", ["grpo", "rloo", "reinforce++"])
def test_a_prompt_whose_answers_are_equally_good_teaches_nothing(estimator: Any) -> None:
    found = rewarded(("A.", "a", True), ("B.", "a", True), estimator=estimator)
    assert (found.records, found.drops) == ([], Counter(no_spread=2))
    found = rewarded(("A.", "a", True))
    assert (found.records, found.drops) == ([], Counter(alone=1))


def test_answers_that_were_not_divided_are_counted_once() -> None:
    found = rewarded(("A.", "", True), ("B.", "a", True), ("C.", "r", True), task=Task(drops={"not_divided": 1}))
    assert len(found.records) == 2
    assert found.drops == {}


def test_a_critic_gets_rewards_by_token_and_all_answers() -> None:
    rollouts = rewarded(("A.", "a", True), ("B.", "r", True), estimator="gae").records
    assert [one.rewards for one in rollouts] == [(0.0, 0.2), (0.0, -1.0)]
    assert [one.advantage for one in rollouts] == [0.0, 0.0]


def test_scores_of_reward_models_need_no_claims() -> None:
    stage = Reward({"score": Score(name="rm/score"), "none": None}, "gae")
    assert stage.reads == ("prompts", "responses", "scores")
    responses = made(("A.", "", True), ("B.", "", True))[0]
    scores = [AnswerScore(f"p/{k}", "p", "rm", ("other", "score"), (9.0, float(k)), (1,)) for k in range(2)]
    assert [one.reward for one in stage(TASK, PROMPTS, responses, scores).records] == [0.0, 1.0]


def test_a_constant_reward_and_one_that_is_no_number_end_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^The reward is the same for all 2 answers, so there is nothing to learn"):
        rewarded(("A.", "a", True), ("B.", "a", True), estimator="gae")
    stage = Reward({"score": Score(name="rm/score")}, "gae")
    responses = made(("A.", "", True), ("B.", "", True))[0]
    scores = [AnswerScore(f"p/{k}", "p", "rm", ("score",), (value,), (1,)) for k, value in enumerate((0.0, math.nan))]
    with pytest.raises(ValueError, match=r"^The term 'score' of the reward is nan for answer 'p/1'\.$"):
        stage(TASK, PROMPTS, responses, scores)


def test_every_term_is_among_the_statistics() -> None:
    tables = made(("A.", "aar", True), ("B.", "a", False))
    made_of = Reward(terms())(TASK, PROMPTS, *tables)
    found = rollout_statistics(tables[0], tables[2], list(made_of.records), Counter(made_of.drops))
    # Rewards: 0.4 - 1 = -0.6, and 0.2 - 1 = -0.8.
    assert found["reward/mean"] == pytest.approx(-0.7)
    assert found["reward/std"] == pytest.approx(0.1)
    shown = [found[f"reward/{name}"] for name in ("accepted", "rejected", "cut")]
    assert shown == pytest.approx([0.3, -0.5, -0.5])
    assert (found["rollouts_kept"], found["responses"], found["dropped/no_spread"]) == (2.0, 2.0, 0.0)
    assert found["length/answer_tokens"] == 2.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"terms": terms(0.0, 0.0, 0.0)}, "no term with a weight other than 0"),
        ({"terms": {"cut": None}}, "no term with a weight other than 0"),
        ({"terms": terms(), "estimator": "ppo"}, "must be one of grpo, rloo, reinforce.*, gae, but it is 'ppo'"),
    ],
)
def test_wrong_rules_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reward(**wrong)


@pytest.mark.parametrize("wrong", [{"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 40}, {"repetition_penalty": 1.1}])
def test_answers_of_another_distribution_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"the policy's own distribution: set iteration\.decoding\.{name}=[01.]+\.$"):
        RolloutLogps(SimpleNamespace(), Decoding(max_new_tokens=9, **wrong))  # type: ignore[arg-type]


def test_answers_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"set iteration\.chosen_from=null"):
        RolloutLogps(SimpleNamespace(), Decoding(max_new_tokens=9), chosen_from=object())  # type: ignore[arg-type]
