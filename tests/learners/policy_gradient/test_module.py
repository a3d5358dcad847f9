"""The policy gradient on a tiny LLaVA: trees against separate rows, and what is refused."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from lightning import LightningModule

from rlaifv.engines.local import LocalEngine
from rlaifv.learners.policy_gradient.batch import RolloutBatch, RolloutCollator
from rlaifv.learners.policy_gradient.module import PolicyGradientModule, TooFarFromReference
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding
from rlaifv.records import Prompt, Rollout
from rlaifv.stages.rollout_logps import RolloutLogps
from rlaifv.stages.stage import Task
from tests.learners.dpo_run import ANSWERS

SGD: Any = partial(torch.optim.SGD, lr=0.05)
ADVANTAGES = (1.0, -0.5, -0.5, 0.75)


@pytest.fixture(autouse=True)
def _unlogged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are taken without a trainer here."""
    monkeypatch.setattr(LightningModule, "log", lambda *arguments, **settings: None)
    monkeypatch.setattr(LightningModule, "log_dict", lambda *arguments, **settings: None)


@pytest.fixture
def engine(model: Any, prompter: Prompter) -> LocalEngine:
    return LocalEngine(model, prompter)


@pytest.fixture
def rollouts(engine: LocalEngine, prompter: Prompter, prompts: list[Prompt]) -> list[Rollout]:
    """Two answers to each of two prompts, with the log-probs of the stage that users run."""
    some = []
    for k, advantage in enumerate(ADVANTAGES):
        prompt = prompts[k // 2]
        ids = prompter.completion_ids(prompt, ANSWERS[k])
        some.append(Rollout(f"{prompt.id}/{k}", prompt.id, ids, True, 1, 0, 0.0, advantage))
    counted: list[int] = []
    made = RolloutLogps(engine, Decoding(max_new_tokens=9))(Task(advance=counted.append), prompts[:2], some)
    assert sum(counted) == 4
    return list(made.records)


def batch_of(engine: LocalEngine, prompts: list[Prompt], rollouts: list[Rollout]) -> RolloutBatch:
    by_id = {prompt.id: prompt for prompt in prompts}
    collator = RolloutCollator(engine)
    for rollout in rollouts:
        collator.check_record(rollout)
    return collator([(by_id[rollout.prompt_id], rollout) for rollout in rollouts])


def step(module: PolicyGradientModule, batch: RolloutBatch) -> tuple[float, dict[str, torch.Tensor]]:
    module.zero_grad()
    loss = module.training_step(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def test_the_ratio_is_1_at_the_first_step(
    engine: LocalEngine, prompts: list[Prompt], rollouts: list[Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored and current log-probs agree, so the loss is minus the mean advantage, and no KL is seen."""
    logged: dict[str, float] = {}
    monkeypatch.setattr(
        LightningModule,
        "log_dict",
        lambda self, found, **settings: logged.update({k: v.item() for k, v in found.items()}),
    )
    module = PolicyGradientModule(engine.model, SGD, kl_weight=1.0)
    loss, _ = step(module, batch_of(engine, prompts, rollouts))
    assert logged["policy/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert logged["policy/kl"] == pytest.approx(0.0, abs=1e-6)
    assert logged["policy/clipped"] == 0.0
    assert loss == pytest.approx(-sum(ADVANTAGES) / 4, abs=1e-5)


@pytest.mark.parametrize("aggregation", ["sequence", "token"])
def test_a_tree_equals_separate_rows_in_loss_and_gradient(
    engine: LocalEngine, prompts: list[Prompt], rollouts: list[Rollout], aggregation: Any
) -> None:
    """The slow twin runs each answer as a batch of its own, prefix and image included."""
    old = [replace(one, logps=tuple(value - 0.1 for value in one.logps)) for one in rollouts]
    module = PolicyGradientModule(engine.model, SGD, kl_weight=0.5, aggregation=aggregation)
    loss, gradients = step(module, batch_of(engine, prompts, old))
    lengths = [len(one.token_ids) for one in old]
    shares = [length / sum(lengths) if aggregation == "token" else 1 / 4 for length in lengths]
    apart = [step(module, batch_of(engine, prompts, [one])) for one in old]
    assert loss == pytest.approx(sum(share * found for share, (found, _) in zip(shares, apart, strict=True)), abs=1e-5)
    for name, gradient in gradients.items():
        added = sum(share * found[name] for share, (_, found) in zip(shares, apart, strict=True))
        torch.testing.assert_close(gradient, added, atol=1e-5, rtol=1e-3)
    assert any(gradient.abs().max() > 1e-4 for gradient in gradients.values())


def test_a_step_makes_good_answers_likelier_than_bad_ones(
    engine: LocalEngine, prompts: list[Prompt], rollouts: list[Rollout]
) -> None:
    module = PolicyGradientModule(engine.model, SGD, kl_weight=0.0)
    step(module, batch_of(engine, prompts, rollouts))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
    after = engine.completion_logps(
        [(prompts[k], [one.token_ids for one in rollouts[2 * k : 2 * k + 2]]) for k in range(2)]
    )
    gains = [
        sum(now) - sum(one.logps) for one, now in zip(rollouts, [one for some in after for one in some], strict=True)
    ]
    assert gains[0] > gains[1]
    assert gains[3] > gains[2]


def test_the_run_stops_when_the_policy_has_gone_too_far(
    engine: LocalEngine, prompts: list[Prompt], rollouts: list[Rollout]
) -> None:
    moved = [replace(one, logps=tuple(value - 1.0 for value in one.logps)) for one in rollouts]
    batch = batch_of(engine, prompts, moved)
    kl = torch.tensor(-1.0).exp().item()  # q = 1/e: 1/e + 1 - 1
    step(PolicyGradientModule(engine.model, SGD, max_kl=kl + 0.01), batch)
    with pytest.raises(
        TooFarFromReference, match=r"the KL to the iteration's start is 0\.368 per token, above max_kl=0\.3"
    ):
        step(PolicyGradientModule(engine.model, SGD, max_kl=0.3), batch)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clip": 1.0}, "The clip range must be between 0 and 1, but it is 1.0"),
        ({"kl_weight": -1.0}, "kl_weight and max_kl must be 0 or more"),
        ({"aggregation": "sum"}, "The aggregation must be sequence or token, but it is 'sum'"),
    ],
)
def test_wrong_settings_are_refused(engine: LocalEngine, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PolicyGradientModule(engine.model, SGD, **wrong)


def test_a_rollout_without_log_probs_is_refused(rollouts: list[Rollout]) -> None:
    with pytest.raises(ValueError, match=r"does not hold one log-prob for each of its tokens"):
        RolloutCollator.check_record(replace(rollouts[0], logps=rollouts[0].logps[:-1]))
