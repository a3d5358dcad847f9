"""Settings that a method has no use for are refused where they are typed."""

from collections.abc import Callable

import pytest

Launch = Callable[..., tuple[int, str]]


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("learner.beta=0.2", "learner.beta has no effect with this method; what its learner knows is under"),
        ("learner.loss=ipo", "learner.loss has no effect with this method"),
        (
            "iteration.pairing.order=paper",
            "iteration.pairing.order has no effect with this method, which makes no pairs",
        ),
    ],
)
@pytest.mark.parametrize("method", ["method=grpo_claims", "method=reward_model", "experiment=rl/morlaif"])
def test_settings_of_pairs_are_refused_by_other_methods(launch: Launch, method: str, typed: str, sentence: str) -> None:
    status, output = launch(method, typed, "preflight_only=true")
    assert status == 2
    assert sentence in output
    assert "one iteration" not in output  # no table of an earlier run before the refusal


@pytest.mark.parametrize("typed", ["learner.loss=ipo", "learner.reduction=mean", "iteration.pairing.margin=2"])
def test_kto_takes_beta_and_no_other_setting_of_pairs(launch: Launch, typed: str) -> None:
    status, output = launch("method=kto_claims", typed, "preflight_only=true")
    assert status == 2
    assert f"{typed.partition('=')[0]} has no effect with this method" in output


@pytest.mark.parametrize("method", ["corrected_pairs", "sentence_pairs"])
def test_rules_of_scores_are_refused_by_methods_with_pairs_of_their_own(launch: Launch, method: str) -> None:
    status, output = launch(f"method={method}", "iteration.pairing.margin=2", "preflight_only=true")
    assert status == 2
    assert "iteration.pairing.margin has no effect with this method, which makes no pairs by score." in output


@pytest.mark.parametrize(
    "typed",
    [
        ("learner.beta=0.2", "iteration.pairing.order=paper"),
        ("method=corrected_pairs", "learner.beta=0.2", "learner.nll_weight=0.1"),
        ("method=sentence_pairs", "learner.beta=0.2", "learner.loss=robust"),
        (
            "method=grpo_claims",
            "learner.lr=1e-4",
            "learner.lora={r: 8}",
            "learner.batch_size=4",
            "learner.row_tokens=0",
        ),
        ("method=grpo_claims", "learner=shapes", "pairing=paper"),
        ("method=kto_claims", "learner.beta=0.2", "learner.lr=1e-4", "learner.batch_tokens=900"),
    ],
)
def test_settings_that_are_used_are_not(launch: Launch, typed: tuple[str, ...]) -> None:
    status, output = launch(*typed, "preflight_only=true")
    assert status == 0, output
