"""Advantages, against numbers computed by hand."""

import pytest

from rlaifv.stages.advantages import group_advantages, whiten


def test_grpo_divides_by_the_sample_deviation() -> None:
    """Rewards 1, 2, 6: mean 3, deviations -2, -1, 3, variance (4 + 1 + 9) / 2 = 7."""
    root = 7**0.5
    assert group_advantages([1.0, 2.0, 6.0], "grpo") == pytest.approx([-2 / root, -1 / root, 3 / root], rel=1e-5)


def test_rloo_compares_with_the_mean_of_the_others() -> None:
    """1 - (2 + 6) / 2 = -3; 2 - (1 + 6) / 2 = -1.5; 6 - (1 + 2) / 2 = 4.5."""
    assert group_advantages([1.0, 2.0, 6.0], "rloo") == pytest.approx([-3.0, -1.5, 4.5])


def test_reinforce_subtracts_the_mean_and_is_whitened_over_all_prompts() -> None:
    centred = [*group_advantages([1.0, 3.0], "reinforce++"), *group_advantages([0.0, 0.0], "reinforce++")]
    assert centred == [-1.0, 1.0, 0.0, 0.0]
    assert whiten(centred) == pytest.approx([-((3 / 2) ** 0.5), (3 / 2) ** 0.5, 0.0, 0.0])
    assert whiten([]) == []


@pytest.mark.parametrize("estimator", ["grpo", "rloo", "reinforce++"])
def test_advantages_add_up_to_nothing_and_ignore_a_constant(estimator: str) -> None:
    rewards = [0.5, -1.0, 2.0, 0.0]
    found = group_advantages(rewards, estimator)  # type: ignore[arg-type]
    assert sum(found) == pytest.approx(0.0, abs=1e-9)
    assert group_advantages([reward + 100 for reward in rewards], estimator) == pytest.approx(found)  # type: ignore[arg-type]


@pytest.mark.parametrize("estimator", ["grpo", "rloo", "reinforce++"])
def test_equal_rewards_give_no_advantage(estimator: str) -> None:
    assert group_advantages([2.0, 2.0, 2.0], estimator) == [0.0, 0.0, 0.0]  # type: ignore[arg-type]
    assert whiten([2.0, 2.0]) == [0.0, 0.0]


def test_one_answer_and_unknown_estimators_are_refused() -> None:
    with pytest.raises(ValueError, match="there are only 1"):
        group_advantages([1.0], "grpo")
    with pytest.raises(ValueError, match="must be one of grpo, rloo, reinforce"):
        group_advantages([1.0, 2.0], "ppo")  # type: ignore[arg-type]
