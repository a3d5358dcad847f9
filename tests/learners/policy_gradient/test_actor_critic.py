"""PPO with a critic on a tiny LLaVA: trees against separate rows, and what the critic's loss reaches."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from lightning import LightningModule

from rlaifv.engines.local import LocalEngine
from rlaifv.engines.reward import RewardEngine
from rlaifv.learners.policy_gradient.batch import RolloutBatch, RolloutCollator
from rlaifv.learners.policy_gradient.module import ActorCriticModule
from rlaifv.models.prompting import Prompter
from rlaifv.models.reward_head import RewardSpec, new_head
from rlaifv.models.sampling import Decoding
from rlaifv.records import Prompt, Rollout
from rlaifv.stages.gae import Advantages
from rlaifv.stages.rollout_logps import LowEntropy, RolloutValues
from rlaifv.stages.stage import Task
from tests.learners.dpo_run import ANSWERS

SGD: Any = partial(torch.optim.SGD, lr=0.05)
DECODING = Decoding(max_new_tokens=9)


@pytest.fixture(autouse=True)
def _unlogged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are taken without a trainer here."""
    monkeypatch.setattr(LightningModule, "log", lambda *arguments, **settings: None)
    monkeypatch.setattr(LightningModule, "log_dict", lambda *arguments, **settings: None)


@pytest.fixture
def engine(model: Any, prompter: Prompter) -> LocalEngine:
    return LocalEngine(model, prompter)


def critic_of(engine: LocalEngine) -> RewardEngine:
    head = new_head(engine.model)
    torch.manual_seed(3)
    torch.nn.init.normal_(head.weight, std=0.2)
    return RewardEngine(engine, head, RewardSpec(("value",)))


def rollouts_of(
    engine: LocalEngine, critic: RewardEngine, base: LocalEngine, prompts: list[Prompt], tmp_path: Any, **settings: Any
) -> list[Rollout]:
    """Two answers to each of two prompts, through the stages that users run."""
    some = []
    for k in range(4):
        prompt = prompts[k // 2]
        ids = engine.prompter.completion_ids(prompt, ANSWERS[k])
        rewards = (*(0.0 for _ in ids[1:]), float(k % 2))
        some.append(Rollout(f"{prompt.id}/{k}", prompt.id, ids, True, 0, 0, float(k % 2), 0.0, rewards=rewards))
    valued = RolloutValues(engine, DECODING, critic, lambda: base)(Task(), prompts[:2], some).records
    return list(Advantages(tmp_path, **settings)(Task(), valued).records)


def batch_of(engine: LocalEngine, prompts: list[Prompt], rollouts: list[Rollout]) -> RolloutBatch:
    by_id, collator = {prompt.id: prompt for prompt in prompts}, RolloutCollator(engine)
    for rollout in rollouts:
        collator.check_record(rollout)
    return collator([(by_id[rollout.prompt_id], rollout) for rollout in rollouts])


def step(module: ActorCriticModule, batch: RolloutBatch) -> tuple[float, dict[str, torch.Tensor]]:
    module.zero_grad()
    loss = module.training_step(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("has_own_backbone", [False, True])
def test_a_tree_equals_separate_rows_in_loss_and_gradient(
    engine: LocalEngine, prompter: Prompter, prompts: list[Prompt], tmp_path: Any, has_own_backbone: bool
) -> None:
    """The slow twin runs each answer as a batch of its own; the result does not depend on the size of a batch."""
    base = LocalEngine(copy.deepcopy(engine.model), prompter)
    critic = critic_of(LocalEngine(copy.deepcopy(engine.model), prompter) if has_own_backbone else engine)
    rollouts = rollouts_of(engine, critic, base, prompts, tmp_path)
    module = ActorCriticModule(engine.model, critic, SGD, value_weight=0.5, critic_is_detached=False)
    assert (module.critic is not None) == has_own_backbone
    loss, gradients = step(module, batch_of(engine, prompts, rollouts))
    lengths = [len(one.token_ids) for one in rollouts]
    apart = [
        (n / sum(lengths), *step(module, batch_of(engine, prompts, [one])))
        for n, one in zip(lengths, rollouts, strict=True)
    ]
    assert loss == pytest.approx(sum(share * found for share, found, _ in apart), abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, sum(share * g[name] for share, _, g in apart), atol=1e-5, rtol=1e-3)
    assert gradients["value_head.weight"].abs().max() > 1e-4


def test_a_detached_critic_leaves_the_policy_alone(engine: LocalEngine, prompts: list[Prompt], tmp_path: Any) -> None:
    critic = critic_of(engine)
    rollouts = rollouts_of(engine, critic, engine, prompts, tmp_path)
    batch = batch_of(engine, prompts, rollouts)
    found = {}
    for weight, is_detached in ((0.0, True), (5.0, True), (5.0, False)):
        module = ActorCriticModule(engine.model, critic, SGD, value_weight=weight, critic_is_detached=is_detached)
        _, gradients = step(module, batch)
        found[weight, is_detached] = next(g for name, g in gradients.items() if "language_model.layers.0" in name)
    torch.testing.assert_close(found[0.0, True], found[5.0, True])
    assert not torch.allclose(found[5.0, True], found[5.0, False], atol=1e-4)


def test_the_ratio_is_1_and_values_are_those_of_the_stage_at_the_first_step(
    engine: LocalEngine, prompts: list[Prompt], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: dict[str, float] = {}
    record = lambda self, found, **settings: logged.update({k: v.item() for k, v in found.items()})  # noqa: E731
    monkeypatch.setattr(LightningModule, "log_dict", record)
    critic = critic_of(engine)
    rollouts = rollouts_of(engine, critic, engine, prompts, tmp_path)
    step(ActorCriticModule(engine.model, critic, SGD), batch_of(engine, prompts, rollouts))
    assert logged["policy/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert logged["policy/clipped"] == 0.0
    errors = [(r - v) ** 2 for one in rollouts for r, v in zip(one.returns, one.values, strict=True)]
    assert logged["critic/loss"] == pytest.approx(0.5 * sum(errors) / len(errors), rel=1e-4)


def test_a_policy_that_left_the_base_model_is_pulled_back(
    engine: LocalEngine, prompter: Prompter, prompts: list[Prompt], tmp_path: Any
) -> None:
    """With no reward but the KL penalty, a step makes what became likelier than under the base model less likely again."""
    base = LocalEngine(copy.deepcopy(engine.model), prompter)
    with torch.no_grad():
        engine.model.lm_head.weight.mul_(1.5)
    critic = RewardEngine(engine, new_head(engine.model), RewardSpec(("value",)))  # expects nothing
    prompt = prompts[0]
    answers = [prompter.completion_ids(prompt, text) for text in ANSWERS[:4]]
    some = [
        Rollout(f"r{k}", prompt.id, ids, True, 0, 0, 0.0, 0.0, rewards=(0.0,) * len(ids))
        for k, ids in enumerate(answers)
    ]
    valued = RolloutValues(engine, DECODING, critic, lambda: base)(Task(), [prompt], some).records
    settings = {"kl_weight": 1.0, "is_whitened": False, "lam": 0.0, "gamma": 0.0}
    rollouts = list(Advantages(tmp_path, **settings)(Task(), valued).records)
    module = ActorCriticModule(engine.model, critic, SGD, value_weight=0.0)
    step(module, batch_of(engine, prompts, rollouts))
    with torch.no_grad():
        for parameter in module.policy.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    (after,) = engine.completion_logps([(prompt, answers)])
    gaps = [
        (p - q, now - p)
        for one, values in zip(rollouts, after, strict=True)
        for p, q, now in zip(one.logps, one.reference_logps, values, strict=True)
    ]
    mean = sum(gap for gap, _ in gaps) / len(gaps)
    moved = sum((gap - mean) * change for gap, change in gaps)
    assert moved < 0


def test_a_policy_that_says_one_thing_only_stops_the_run(engine: LocalEngine, prompts: list[Prompt]) -> None:
    critic = critic_of(engine)
    ids = engine.prompter.completion_ids(prompts[0], ANSWERS[0])
    rollout = Rollout("r", prompts[0].id, ids, True, 0, 0, 0.0, 0.0, rewards=(0.0,) * len(ids))
    stage = RolloutValues(engine, DECODING, critic, lambda: engine, reference="start", min_entropy=50.0)
    with pytest.raises(LowEntropy, match=r"per token, below min_entropy=50\.0"):
        stage(Task(), prompts[:1], [rollout])
    calm = RolloutValues(engine, DECODING, critic, lambda: engine, reference="start", min_entropy=0.1)
    (found,) = calm(Task(), prompts[:1], [rollout]).records
    assert found.reference_logps == found.logps


def test_wrong_settings_are_refused(engine: LocalEngine) -> None:
    with pytest.raises(ValueError, match="value_weight and value_clip must be 0 or more"):
        ActorCriticModule(engine.model, critic_of(engine), SGD, value_weight=-1.0)
    with pytest.raises(ValueError, match="The reference must be start or base, but it is 'first'"):
        RolloutValues(engine, DECODING, critic_of(engine), lambda: engine, reference="first")  # type: ignore[arg-type]
