"""Advantages per token: GAE, the KL penalty and its steering, against numbers computed by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlaifv.records import Rollout
from rlaifv.stages.advantages import generalised_advantages
from rlaifv.stages.gae import KL_MEAN, KL_WEIGHT, Advantages, TooFarFromBase, mean_kl
from rlaifv.stages.stage import Task
from rlaifv.store.iteration import statistics_path

REWARDS, VALUES = [1.0, 0.0, 2.0], [0.5, 0.25, 1.0]


def rollout(
    logps: tuple[float, ...] = (-1.0, -1.0),
    reference: tuple[float, ...] = (-1.0, -1.0),
    rewards: tuple[float, ...] = (0.0, 1.0),
    values: tuple[float, ...] = (0.5, 0.5),
) -> Rollout:
    return Rollout(
        id="p/0",
        prompt_id="p",
        token_ids=tuple(range(len(logps))),
        finished=True,
        num_accepted=0,
        num_rejected=0,
        reward=sum(rewards),
        advantage=0.0,
        logps=logps,
        rewards=rewards,
        reference_logps=reference,
        values=values,
    )


def made(*rollouts: Rollout, iteration: int = 0, run_dir: Path = Path("none"), **settings: Any) -> list[Rollout]:
    """What the stage makes of rollouts; lambda is 0 and nothing is whitened, if not said otherwise."""
    stage = Advantages(run_dir, **{"lam": 0.0, "is_whitened": False, **settings})
    return list(stage(Task(iteration=iteration), rollouts).records)


def record(run_dir: Path, iteration: int, weight: float, kl: float, answers: float) -> None:
    path = statistics_path(run_dir, iteration)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({KL_WEIGHT: weight, KL_MEAN: kl, "rollouts_kept": answers}))


def test_with_lambda_1_advantages_are_what_was_still_earned_minus_the_value() -> None:
    # Still earned: 1 + 0 + 2 = 3, 0 + 2 = 2, 2.
    advantages, returns = generalised_advantages(REWARDS, VALUES, gamma=1.0, lam=1.0)
    assert advantages == pytest.approx([2.5, 1.75, 1.0])
    assert returns == pytest.approx([3.0, 2.0, 2.0])


def test_with_lambda_0_advantages_are_the_errors_of_one_step() -> None:
    # 1 + 0.25 - 0.5, 0 + 1 - 0.25, 2 + 0 - 1.
    assert generalised_advantages(REWARDS, VALUES, gamma=1.0, lam=0.0)[0] == pytest.approx([0.75, 0.75, 1.0])
    # With gamma 0.5: 1 + 0.125 - 0.5, 0 + 0.5 - 0.25, 2 - 1.
    assert generalised_advantages(REWARDS, VALUES, gamma=0.5, lam=0.0)[0] == pytest.approx([0.625, 0.25, 1.0])


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (0.5, 1.0), (0.0, 0.5)])
def test_advantages_are_discounted_sums_of_errors(gamma: float, lam: float) -> None:
    rewards, values = [0.3, -1.0, 0.0, 2.0, 0.5], [1.0, -0.5, 0.25, 2.0, -1.0]
    errors = [
        reward + gamma * after - value for reward, value, after in zip(rewards, values, [*values[1:], 0.0], strict=True)
    ]
    wanted = [sum((gamma * lam) ** k * error for k, error in enumerate(errors[t:])) for t in range(5)]
    advantages, returns = generalised_advantages(rewards, values, gamma, lam)
    assert advantages == pytest.approx(wanted)
    assert returns == pytest.approx([value + advantage for value, advantage in zip(values, wanted, strict=True)])


def test_what_a_critic_foresaw_is_no_advantage() -> None:
    assert generalised_advantages([0.0, 0.0, 2.0], [2.0, 2.0, 2.0], 1.0, 0.9) == ([0.0] * 3, [2.0] * 3)
    assert generalised_advantages([], []) == ([], [])


def test_a_reward_acts_on_its_token_and_those_before_it_only() -> None:
    """A segment that ends at the third of five tokens: 0.5 ** 2, 0.5, 1, and nothing after it."""
    values = [0.3, -0.2, 0.1, 0.7, 0.4]
    without = generalised_advantages([0.0, 0.0, 0.0, 0.0, 1.0], values, gamma=1.0, lam=0.5)[0]
    rewarded = generalised_advantages([0.0, 0.0, 1.0, 0.0, 1.0], values, gamma=1.0, lam=0.5)[0]
    assert [a - b for a, b in zip(rewarded, without, strict=True)] == pytest.approx([0.25, 0.5, 1.0, 0.0, 0.0])


def test_tables_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        generalised_advantages([0.0], [0.5, 0.5])
    with pytest.raises(ValueError, match="zip"):
        made(rollout(reference=(-1.0,)))


def test_the_penalty_comes_off_every_token() -> None:
    # Log-ratios 1 and -0.5, so rewards 2 * (0 - 0.1) = -0.2 and 2 * (1 + 0.05) = 2.1.
    # Each plus the next value, minus its own: -0.2 + 0.5 - 0.5, and 2.1 - 0.5.
    (one,) = made(rollout(reference=(-2.0, -0.5)), kl_weight=0.1, scale=2.0)
    assert one.advantages == pytest.approx((-0.2, 1.6))
    assert one.returns == pytest.approx((0.3, 2.1))


def test_a_clamped_penalty_never_pays() -> None:
    # As above, but the second reward is 2 * (1 - 0) = 2.
    (one,) = made(rollout(reference=(-2.0, -0.5)), kl_weight=0.1, scale=2.0, kl_is_clamped=True)
    assert one.advantages == pytest.approx((-0.2, 1.5))


def test_a_policy_that_moved_away_gets_less() -> None:
    stayed, moved = made(rollout(), rollout(reference=(-1.5, -3.0)), kl_weight=0.1, lam=0.95)
    assert all(a < b for a, b in zip(moved.advantages, stayed.advantages, strict=True))
    stayed, moved = made(rollout(), rollout(reference=(-1.5, -3.0)), kl_weight=0.0, lam=0.95)
    assert moved.advantages == stayed.advantages


def test_whitening_is_over_all_tokens_and_leaves_returns_alone() -> None:
    # Advantages 0, 2 and 4 of two answers: mean 2, sample deviation 2.
    some = (
        rollout(rewards=(0.0, 2.5), values=(0.5, 0.5)),
        rollout(logps=(-1.0,), reference=(-1.0,), rewards=(5.0,), values=(1.0,)),
    )
    first, second = made(*some, is_whitened=True)
    assert (*first.advantages, *second.advantages) == pytest.approx((-1.0, 0.0, 1.0))
    assert (*first.returns, *second.returns) == pytest.approx((0.5, 2.5, 5.0))
    plain = made(*some)
    assert (*plain[0].advantages, *plain[1].advantages) == pytest.approx((0.0, 2.0, 4.0))


def test_rollouts_keep_all_else() -> None:
    (one,) = made(rollout())
    assert (one.id, one.token_ids, one.reward, one.rewards, one.values) == ("p/0", (0, 1), 1.0, (0.0, 1.0), (0.5, 0.5))
    assert made() == []


@pytest.mark.parametrize(
    ("kl", "wanted"),
    [
        (5.4, 0.09936),  # 10% below the target: 0.1 * (1 - 0.1 * 64 / 1000)
        (6.0, 0.1),
        (6.6, 0.10064),
        (7.2, 0.10128),  # 20% above
        (600.0, 0.10128),  # no more than 20% counts
        (-600.0, 0.09872),
    ],
)
def test_the_weight_follows_its_target(tmp_path: Path, kl: float, wanted: float) -> None:
    """The rule of arXiv 1909.08593, section 2.2, from what the iteration before recorded, not from the first weight."""
    record(tmp_path, 2, 0.1, kl, 64.0)
    stage = Advantages(tmp_path, kl_weight=77.0, kl_target=6.0, kl_horizon=1000)
    assert stage.weight_at(3) == pytest.approx(wanted)


def test_the_steered_weight_is_the_one_that_is_used(tmp_path: Path) -> None:
    record(tmp_path, 0, 0.5, 60.0, 1000.0)
    moved = rollout(reference=(-2.0, -1.0))  # a log-ratio of 1 at the first token
    # 0.5 * (1 + 0.2 * 1000 / 1000) = 0.6.
    (one,) = made(moved, iteration=1, run_dir=tmp_path, kl_weight=0.1, kl_target=6.0, kl_horizon=1000)
    assert one.advantages[0] == pytest.approx(-0.6)


def test_a_weight_without_target_or_past_stays(tmp_path: Path) -> None:
    assert Advantages(tmp_path, kl_weight=0.3, kl_target=6.0).weight_at(0) == 0.3
    assert Advantages(tmp_path, kl_weight=0.3).weight_at(5) == 0.3


def test_the_kl_is_the_mean_of_summed_log_ratios() -> None:
    # 1 - 0.5 = 0.5, and 2 + 2 = 4.
    assert mean_kl([rollout(reference=(-2.0, -0.5)), rollout(reference=(-3.0, -3.0))]) == pytest.approx(2.25)
    assert mean_kl([]) == 0.0


def test_a_run_stops_when_it_is_too_far_from_its_base() -> None:
    far = rollout(reference=(-3.0, -3.0))  # KL 4
    with pytest.raises(TooFarFromBase, match=r"The KL to the reference is 4 per answer, above max_kl=3.5\. Raise"):
        made(far, max_kl=3.5)
    assert len(made(far, max_kl=4.0)) == len(made(far, max_kl=0.0)) == 1
    assert issubclass(TooFarFromBase, ValueError)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gamma": 1.1}, "gamma and lam must be between 0 and 1, but they are 1.1 and 0.95"),
        ({"lam": -0.1}, "gamma and lam must be between 0 and 1, but they are 1.0 and -0.1"),
        ({"gamma": float("nan")}, "gamma and lam must be between 0 and 1"),
        ({"kl_weight": -0.1}, "must be 0 or more"),
        ({"kl_target": -1.0}, "must be 0 or more"),
        ({"max_kl": -1.0}, "must be 0 or more"),
        ({"kl_weight": float("nan")}, "must be 0 or more"),
        ({"kl_horizon": 0}, "kl_horizon and scale above 0"),
        ({"scale": 0.0}, "kl_horizon and scale above 0"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Advantages(tmp_path, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        {"kl_weight": 0.2}, {"kl_target": 6.0}, {"kl_horizon": 9.0}, {"kl_is_clamped": True}, {"scale": 10.0},
        {"gamma": 0.9}, {"lam": 0.9}, {"is_whitened": False}, {"max_kl": 9.0},
    ],
)  # fmt: skip
def test_every_setting_is_among_what_advantages_depend_on(other: dict[str, Any]) -> None:
    assert Advantages(Path("a"), **other).producer() != Advantages(Path("a")).producer()
    assert Advantages(Path("a"), **other).producer() == Advantages(Path("b"), **other).producer()
