"""A reward model on a tiny LLaVA: trees against separate rows, what it reads, and what it writes."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from transformers import AutoModelForImageTextToText

from rlaifv.engines.local import LocalEngine
from rlaifv.engines.reward import RewardEngine
from rlaifv.learners.reward_model.batch import ComparisonCollator, SegmentCollator
from rlaifv.learners.reward_model.module import RewardModelModule
from rlaifv.models.loading import export_model, load_model
from rlaifv.models.prompting import Prompter
from rlaifv.models.reward_head import RewardHead, RewardSpec, load_head, new_head
from rlaifv.records import Comparison, LabelledSegments, Prompt
from tests.learners.dpo_run import ANSWERS
from tests.settings import ROOT

SGD: Any = partial(torch.optim.SGD, lr=0.05)


@pytest.fixture(autouse=True)
def _unlogged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are taken without a trainer here."""
    monkeypatch.setattr(LightningModule, "log", lambda *arguments, **settings: None)
    monkeypatch.setattr(LightningModule, "log_dict", lambda *arguments, **settings: None)


@pytest.fixture
def engine(model: Any, prompter: Prompter) -> LocalEngine:
    return LocalEngine(model, prompter)


def head_of(model: Any, num_heads: int = 1, num_classes: int = 1) -> RewardHead:
    head = new_head(model, num_heads, num_classes)
    torch.manual_seed(3)
    torch.nn.init.normal_(head.weight, std=0.2)
    return head


def comparisons(prompter: Prompter, prompts: list[Prompt], num_heads: int = 1) -> list[Comparison]:
    """Two comparisons of the first prompt, which share an answer, and one of the second."""
    found = []
    for k, (prompt, first, second) in enumerate(((0, 0, 1), (0, 0, 2), (1, 3, 4))):
        ids = [prompter.completion_ids(prompts[prompt], ANSWERS[one]) for one in (first, second)]
        found.append(Comparison(f"c{k}", prompts[prompt].id, *ids, (float(k % 2),) * num_heads, (0.5,) * num_heads))
    return found


def step(module: RewardModelModule, batch: Any) -> tuple[float, dict[str, torch.Tensor]]:
    module.zero_grad()
    loss = module.training_step(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def check_apart(module: RewardModelModule, whole: Any, parts: list[tuple[float, Any]]) -> None:
    """A batch's loss and gradient are those of its parts, each weighed by its share."""
    loss, gradients = step(module, whole)
    apart = [(share, step(module, part)) for share, part in parts]
    assert loss == pytest.approx(sum(share * found for share, (found, _) in apart), abs=1e-5)
    for name, gradient in gradients.items():
        added = sum(share * found[name] for share, (_, found) in apart)
        torch.testing.assert_close(gradient, added, atol=1e-5, rtol=1e-3)
    assert any(gradient.abs().max() > 1e-4 for gradient in gradients.values())


def test_a_tree_of_comparisons_equals_separate_rows(
    engine: LocalEngine, prompter: Prompter, prompts: list[Prompt]
) -> None:
    """The slow twin runs every comparison as a batch of its own."""
    spec = RewardSpec(("a", "b"))
    module = RewardModelModule(engine.model, head_of(engine.model, 2), spec, SGD, margin=1.0, centring=0.1)
    records, by_id = comparisons(prompter, prompts, 2), {prompt.id: prompt for prompt in prompts}
    collator = ComparisonCollator(engine, spec)
    items = [(by_id[one.prompt_id], one) for one in records]
    whole = collator(items)
    assert len(whole.trees.branch_lengths) == 5  # the shared answer is one branch
    check_apart(module, whole, [(1 / 3, collator([item])) for item in items])


def test_a_tree_of_segments_equals_separate_rows(
    engine: LocalEngine, prompter: Prompter, prompts: list[Prompt]
) -> None:
    spec = RewardSpec(("a", "b"), num_classes=3)
    module = RewardModelModule(engine.model, head_of(engine.model, 2, 3), spec, SGD)
    collator = SegmentCollator(engine, spec)
    items = []
    for k in range(2):
        ids = prompter.completion_ids(prompts[0], ANSWERS[k])
        ends, labels = ((3, len(ids) - 1), (0, 1, 2, 2)) if k else ((4,), (1, 2))
        items.append((prompts[0], LabelledSegments(f"r{k}", prompts[0].id, ids, ends, labels)))
    check_apart(module, collator(items), [(1 / 3, collator(items[:1])), (2 / 3, collator(items[1:]))])


def test_a_score_is_read_after_the_answers_last_token(
    engine: LocalEngine, prompter: Prompter, prompts: list[Prompt]
) -> None:
    """The engine's scores at every token are those of the model run on plain sequences."""
    head, prompt = head_of(engine.model), prompts[0]
    answers = [prompter.completion_ids(prompt, text) for text in ANSWERS[:2]]
    scored = [(ids, range(len(ids))) for ids in answers]
    ((first, second),) = RewardEngine(engine, head, RewardSpec()).scores([(prompt, scored)])
    encoded = prompter.encode(prompt)
    for ids, found in zip(answers, (first, second), strict=True):
        whole = torch.tensor([[*encoded.ids, *ids]])
        with torch.no_grad():
            hidden = engine.model.base_model(input_ids=whole, **encoded.images).last_hidden_state[0, -len(ids) :]
            torch.testing.assert_close(found, head(hidden), atol=1e-5, rtol=1e-4)


def test_a_critic_reads_the_states_before_each_token(
    engine: LocalEngine, prompter: Prompter, prompts: list[Prompt]
) -> None:
    critic = RewardEngine(engine, head_of(engine.model), RewardSpec(("value",)))
    ids = prompter.completion_ids(prompts[0], ANSWERS[0])
    ((values,),) = critic.values([(prompts[0], [ids])])
    ((after,),) = critic.scores([(prompts[0], [(ids, range(len(ids)))])])
    torch.testing.assert_close(values[1:], after[:-1, 0], atol=1e-5, rtol=1e-4)
    assert len(values) == len(ids)


def test_facts_reach_the_reward_model_only(engine: LocalEngine, prompter: Prompter, prompts: list[Prompt]) -> None:
    spec = RewardSpec(facts="{facts} {question}")
    prompt = Prompt("p", "What is here?", prompts[0].image_paths, facts=("A {question} ring.",))
    assert spec.asked(prompt).question == "A {question} ring. What is here?"
    assert RewardSpec().asked(prompt) is prompt
    read = prompter.decode(prompter.encode(spec.asked(prompt)).ids)
    assert "ring" in read
    assert "ring" not in prompter.decode(prompter.encode(prompt).ids)
    assert "ring" not in prompter.decode(prompter.question_ids(prompt, "Is it?"))
    with pytest.raises(ValueError, match=r"prompt 'p' has none"):
        spec.asked(Prompt("p", "What?", prompts[0].image_paths))


def test_training_makes_the_better_answer_score_higher(
    engine: LocalEngine, prompter: Prompter, prompts: list[Prompt]
) -> None:
    spec, by_id = RewardSpec(), {prompt.id: prompt for prompt in prompts}
    module = RewardModelModule(engine.model, new_head(engine.model), spec, SGD, head_lr=0.1)
    batch = ComparisonCollator(engine, spec)([(by_id[c.prompt_id], c) for c in comparisons(prompter, prompts)])
    optimizer = torch.optim.AdamW(module.parameter_groups(), lr=1e-3)
    before, _ = step(module, batch)
    for _ in range(10):
        step(module, batch)
        optimizer.step()
    after, _ = step(module, batch)
    assert before == pytest.approx(0.6931, abs=1e-3)  # a head of zeros knows nothing
    assert after < 0.2


def test_the_head_has_a_learning_rate_of_its_own(engine: LocalEngine) -> None:
    module = RewardModelModule(engine.model, new_head(engine.model), RewardSpec(), SGD, head_lr=0.5)
    policy, head = module.parameter_groups()
    assert head["lr"] == 0.5
    assert len(head["params"]) == 2
    assert not {id(p) for p in head["params"]} & {id(p) for p in policy["params"]}


def test_the_export_is_read_again_and_plain_transformers_loads_it(
    engine: LocalEngine, prompter: Prompter, prompts: list[Prompt], tmp_path: Path
) -> None:
    spec = RewardSpec(("a", "b"), facts="{facts} {question}")
    module = RewardModelModule(engine.model, head_of(engine.model, 2), spec, SGD)
    export_model(engine.model, prompter.processor, tmp_path / "export", tmp_path / "adapter")
    module.export_beside(tmp_path / "export")
    AutoModelForImageTextToText.from_pretrained(tmp_path / "export")
    model, processor = load_model(str(tmp_path / "export"), dtype="float32")
    head, found = load_head(tmp_path / "export", model)
    assert found == spec
    prompt = Prompt("p", "What?", prompts[0].image_paths, facts=("A ring.",))
    scored = [(prompter.completion_ids(prompt, ANSWERS[0]), [2])]
    ours = RewardEngine(engine, module.head, spec).scores([(prompt, scored)])
    theirs = RewardEngine(LocalEngine(model, Prompter(processor)), head, found).scores([(prompt, scored)])
    torch.testing.assert_close(ours[0][0], theirs[0][0], atol=1e-5, rtol=1e-4)


def test_the_code_of_the_documentation_gives_the_scores(
    engine: LocalEngine, prompter: Prompter, prompts: list[Prompt], tmp_path: Path
) -> None:
    spec = RewardSpec(("a", "b"))
    module = RewardModelModule(engine.model, head_of(engine.model, 2), spec, SGD)
    export_model(engine.model, prompter.processor, tmp_path, tmp_path / "adapter")
    module.export_beside(tmp_path)
    prompt = prompts[0]
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "rl_reference.md").read_text(), re.DOTALL)
    values = (str(tmp_path), prompt.image_paths[0], prompt.question, ANSWERS[0])
    code, number = re.subn(
        r"(?<=^path, image, question, answer = ).*", lambda _: repr(values), code, flags=re.MULTILINE
    )
    assert number == 1
    found: dict[str, Any] = {}
    exec(code, found)
    ids = prompter.completion_ids(prompt, ANSWERS[0])
    ((ours,),) = RewardEngine(engine, module.head, spec).scores([(prompt, [(ids, [len(ids) - 1])])])
    torch.testing.assert_close(found["scores"], ours[0], atol=1e-4, rtol=1e-3)


def test_a_head_of_another_backbone_and_no_head_are_refused(engine: LocalEngine, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no reward model: reward_head\.json is missing"):
        load_head(tmp_path, engine.model)
    spec = RewardSpec()
    module = RewardModelModule(engine.model, RewardHead(8), spec, SGD)
    module.export_beside(tmp_path)
    with pytest.raises(ValueError, match=r"weight is \(1, 8\), but this backbone needs \(1, 64\)"):
        load_head(tmp_path, engine.model)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": ()}, "needs heads with distinct names"),
        ({"heads": ("a", "a")}, "needs heads with distinct names"),
        ({"num_classes": 2}, "num_classes must be 1 or 3, but it is 2"),
        ({"facts": "{facts}"}, r"must hold \{facts\} and \{question\}"),
    ],
)
def test_wrong_descriptions_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardSpec(**wrong)


def test_weights_of_comparisons_are_refused_for_segments(engine: LocalEngine) -> None:
    spec = RewardSpec(num_classes=3)
    with pytest.raises(ValueError, match="segments has neither"):
        RewardModelModule(engine.model, new_head(engine.model, 1, 3), spec, SGD, margin=1.0)


def test_records_that_do_not_fit_the_heads_are_refused(
    engine: LocalEngine, prompter: Prompter, prompts: list[Prompt]
) -> None:
    (record, *_) = comparisons(prompter, prompts)
    with pytest.raises(ValueError, match=r"Comparison 'c0' does not hold answers and one preference for each"):
        ComparisonCollator(engine, RewardSpec(("a", "b"))).check_record(record)
    labelled = LabelledSegments("r", "p", (5, 6), (2,), (1,))
    with pytest.raises(ValueError, match=r"Answer 'r' does not hold one label for each segment"):
        SegmentCollator(engine, RewardSpec(num_classes=3)).check_record(labelled)
