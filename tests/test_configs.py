"""Every configuration file composes, says what its keys mean, and builds."""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from rlaifv.app.bounds import USUAL_PARTS
from rlaifv.app.build import build
from rlaifv.app.checks import ALLOWED_TARGETS, check_config
from rlaifv.models.sampling import Decoding
from rlaifv.observers.selection import SelectionRules
from rlaifv.stages.generate import Generate
from rlaifv.stages.given_pairs import GivenPairs
from rlaifv.stages.prompts import TakePrompts
from tests.data.preferences import write_format
from tests.settings import ROOT, composed

CONFIGS = ROOT / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
ABLATIONS = sorted(path.stem for path in (CONFIGS / "experiment/ablation").glob("*.yaml"))
# Those that train on published pairs, and make none.
OFFLINE = [name for name in EXPERIMENTS if name.endswith("_rlhfv")]
CHAINS = ["llava7b_fact_rlhf", "llava7b_fgaif", "llava7b_morlaif"]
# Where a file says nothing on a required value, this does.
REQUIRED = {
    "evaluation": "data_root=copies",
    "data": "data.path=prompts.jsonl",
    "labeler": "labeler.path=owner/name",
    "divider": "split_path=owner/name",
    "method": "method.reward_models.score=rm/export",
}
# What has no value of its own where one of several must be given.
EITHER_OR = {
    ("divider", "chat"): ["divider.path=owner/name"],
    ("run", "train"): ["data=trl"],
    ("method", "offline_dpo"): ["run=train", "data=trl"],
}
# Keys that belong to Hydra's own language.
STRUCTURAL = ("defaults", "_target_")


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS).with_suffix(""))


def options() -> Iterator[tuple[str, str]]:
    """Every file that a user can choose, as (group, option)."""
    for path in FILES:
        group = path.parent.name
        if path.parent.parent == CONFIGS and group not in ("experiment", "hydra"):
            yield group, path.stem


@pytest.mark.parametrize(("group", "option"), options())
def test_every_option_composes_and_passes_the_checks(group: str, option: str, tmp_path: Path) -> None:
    cfg = composed(f"{group}={option}", "run_dir=run", *EITHER_OR.get((group, option), ()))
    for key in OmegaConf.missing_keys(cfg):
        value = REQUIRED[key.partition(".")[0]].partition("=")[2]
        if key == "data.path":
            (tmp_path / value).write_text("")
            value = str(tmp_path / value)
        OmegaConf.update(cfg, key, value)
    OmegaConf.resolve(cfg)
    check_config(cfg)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_only_lacks_its_data(experiment: str) -> None:
    cfg = composed(f"experiment={experiment}", "run_dir=run")
    assert OmegaConf.missing_keys(cfg) == (set() if experiment in OFFLINE else {"data.path"})


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_opens_with_what_to_expect(experiment: str) -> None:
    """Paper or origin, command, hardware, hours, expected numbers and deviations."""
    text = (CONFIGS / f"experiment/{experiment}.yaml").read_text(encoding="utf-8")
    header = text.partition("\ndefaults:")[0]
    assert header.startswith("# @package _global_\n")
    assert f"python train.py experiment={experiment} " in header
    for word in ("Hardware", "Hours", "Expected", "Deviations"):
        assert re.search(rf"^# {word} +\S", header, re.MULTILINE), word
    assert re.search(r"arXiv|not in the paper|released", header)
    assert re.search(r"table 1|in no table of the paper|not in the paper", header)


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if name not in OFFLINE])
def test_an_experiment_says_how_many_prompts_it_needs(experiment: str) -> None:
    cfg = composed(f"experiment={experiment}", "run_dir=run")
    needed = cfg.iteration.num_iterations * cfg.iteration.num_prompts + cfg.data.num_held_out
    header = (CONFIGS / f"experiment/{experiment}.yaml").read_text(encoding="utf-8").partition("\ndefaults:")[0]
    assert f"# Data       {needed:,} prompts: " in header


def test_the_12b_model_is_judged_by_what_it_was() -> None:
    """The paper's labeler is the model before alignment, which the policy leaves behind."""
    cfg = composed("experiment=omnilmm12b_self", "run_dir=run", "model.path=a/converted")
    assert cfg.labeler.path == cfg.model.path == "a/converted"


@pytest.mark.parametrize("option", [option for group, option in options() if group == "learner"])
def test_every_learner_trains_the_usual_parts(option: str) -> None:
    """So that other parts beside adapters are the user's own wish, and can be refused."""
    assert {*composed(f"learner={option}").learner.train_parts} == USUAL_PARTS


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_says_what_it_is_and_has_an_effect(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outputs/plain_captioner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    cfg, method = (composed(f"experiment=ablation/{one}", "run_dir=run") for one in (name, "method"))
    check_config(cfg)
    assert (cfg == method) == (name == "method")
    assert (
        f"#   python train.py experiment=ablation/{name}\n"
        in (CONFIGS / f"experiment/ablation/{name}.yaml").read_text()
    )


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(Exception, match=r"Could not override 'learner\.betta'"):
        composed("learner.betta=1")


def uncommented_keys(text: str, passes_on: bool = False) -> list[str]:
    """Keys of a YAML file without a comment in the line above, but for structural ones and what is inside them.

    A method's file passes settings on, which have their comments elsewhere.
    """
    lines = text.splitlines()
    found, skip_deeper_than = [], None
    for number, line in enumerate(lines):
        match = re.match(r"( *)([\w.]+|\"[^\"]+\"):(?: |$)", line)
        indent = len(line) - len(line.lstrip())
        if skip_deeper_than is not None and (not line.strip() or indent > skip_deeper_than):
            continue
        skip_deeper_than = None
        if not match:
            continue
        above = lines[number - 1] if number else ""
        if re.fullmatch(r"\$\{[a-z_.]+\}", line.partition(": ")[2]) and passes_on:
            continue
        if match[2] in STRUCTURAL:
            skip_deeper_than = indent
        elif not above.lstrip().startswith("#") or len(above) - len(above.lstrip()) != indent:
            found.append(f"line {number + 1}: {match[2]}")
        if line.rstrip().endswith("|"):  # a block of text
            skip_deeper_than = indent
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_key_has_a_comment_above_it(path: Path) -> None:
    assert uncommented_keys(path.read_text(encoding="utf-8"), path.is_relative_to(CONFIGS / "method")) == []


def test_a_key_without_a_comment_would_be_found() -> None:
    text = "# About a.\na: 1\nb: 2\n# About c.\nc:\n  d: 3\n  # About e.\n  e: |\n    f: text\ndefaults:\n  - g: h\n"
    assert uncommented_keys(text) == ["line 3: b", "line 6: d"]


def targets(node: Any, key: str = "") -> Iterator[tuple[str, str, DictConfig]]:
    """(key, target, its node) of everything that `instantiate` would build."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield key, node["_target_"], node
        for name in node:
            if not OmegaConf.is_missing(node, name):
                yield from targets(node._get_node(name), f"{key}.{name}".lstrip("."))
    elif isinstance(node, ListConfig):
        for k in range(len(node)):
            yield from targets(node._get_node(k), f"{key}[{k}]")


def raw(path: Path) -> DictConfig:
    loaded = OmegaConf.load(path)
    assert isinstance(loaded, DictConfig)
    return loaded


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_targets_exist_are_allowed_and_take_their_keys(path: Path) -> None:
    """Hydra builds its own callbacks before anything can be checked, so what it builds has to be this project's too."""
    allowed = ("rlaifv.app.sweep.", "rlaifv.app.guard.") if path.parent.name == "hydra" else ALLOWED_TARGETS
    for key, target, node in targets(raw(path)):
        assert target.startswith(allowed), key
        module, _, name = target.rpartition(".")
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        given = {str(name) for name in node} - {"_target_"}
        assert takes_any or given <= set(parameters), key


@pytest.mark.parametrize("experiment", OFFLINE)
def test_every_offline_experiment_builds_with_a_small_model(experiment: str, model_dir: Path, tmp_path: Path) -> None:
    """RLHF-V's recipe: given pairs, changed tokens weigh more, and the sum is not divided."""
    small = [f"model.path={model_dir}", "model.dtype=float32", "trainer=cpu"]
    path = write_format("rlhfv", tmp_path / "data")
    cfg = composed(f"experiment={experiment}", *small, f"data.path={path}", f"run_dir={tmp_path / 'run'}")
    check_config(cfg)
    run = build(cfg, tmp_path / "run")
    loop, module, data = run.loop, run.module, run.data
    assert [stage.name for stage in loop.stages] == ["prompts", "pair", "reference"]
    assert isinstance(loop.stages[1], GivenPairs)
    assert len(run.held_out.source.prompts(0, None)) == 2  # of three pairs
    assert (module.reduction, module.normalize_weights, module.beta) == ("weighted", False, 0.1)
    assert data.collator.changed_weight == 1.1
    assert (data.num_iterations, data.epochs, run.held_out.selection) == (1, 3, SelectionRules(0))


@pytest.mark.parametrize(
    ("experiment", "kl", "lam", "answers", "tokens", "lr"),
    [
        ("llava7b_fact_rlhf", 0.1, 1.0, 4096, 896, 3e-5),
        ("llava7b_fgaif", 0.1, 1.0, 4096, 896, 1e-7),
        ("llava7b_morlaif", 0.05, 0.95, 1000, 128, 4e-6),
    ],
)
def test_published_settings_of_ppo_arrive(
    experiment: str, kl: float, lam: float, answers: int, tokens: int, lr: float
) -> None:
    """They run on twins in tests/twins."""
    cfg = composed(f"experiment={experiment}", "run_dir=run", "data.path=prompts.jsonl")
    assert (cfg.method.stages.advantages.kl_weight, cfg.method.stages.advantages.lam) == (kl, lam)
    assert cfg.iteration.num_prompts * cfg.iteration.num_responses == answers
    assert (cfg.iteration.decoding.max_new_tokens, cfg.learner.lr, cfg.learner.lora.lora_dropout) == (tokens, lr, 0.0)
    batch = cfg.learner.batch_size * cfg.trainer.accumulate_grad_batches
    assert batch == (128 if experiment == "llava7b_morlaif" else 256)
    module = cfg.method.learner.module
    assert (module.clip, module.value_clip) == (0.2, 0.2)
    assert cfg.method.critic.path == cfg.method.reward_models.score == "run/reward_model/export"


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if name not in (*OFFLINE, *CHAINS)])
def test_every_experiment_builds_with_a_small_model(
    experiment: str, model_dir: Path, prompt_list: Path, tmp_path: Path
) -> None:
    """What it chooses besides weights and hardware goes through `build`, and arrives where it belongs."""
    run_dir = tmp_path / "run"
    small = [f"model.path={model_dir}", "model.dtype=float32", f"data.path={prompt_list}", "trainer=cpu"]
    small.append("model.quantization=none")  # 64 columns are one block of 4-bit weights; tested in test_loading
    if composed(f"experiment={experiment}", "run_dir=run").labeler.path is not None:
        small += [f"labeler.path={model_dir}", "labeler.dtype=float32"]
    small += ["data.num_held_out=2", "iteration.num_prompts=4"]
    cfg = composed(f"experiment={experiment}", *small, f"run_dir={run_dir}")
    check_config(cfg)
    run = build(cfg, run_dir)
    loop, module, data = run.loop, run.module, run.data
    prompts, generate = loop.stages[:2]
    assert isinstance(prompts, TakePrompts)
    assert isinstance(generate, Generate)
    trainer = instantiate(cfg.trainer, logger=False, enable_checkpointing=False)
    torch.use_deterministic_algorithms(False)
    assert trainer.accumulate_grad_batches == cfg.trainer.accumulate_grad_batches
    assert len(prompts.source.prompts(3, prompts.num_prompts)) == 4
    penalty = 1.1 if experiment == "omnilmm12b_self" else 1.0
    assert generate.decoding == Decoding(0.7, top_k=50, max_new_tokens=512, repetition_penalty=penalty)
    assert (run.held_out.selection, composed(f"experiment={experiment}").data.num_held_out) == (SelectionRules(4), 256)
    assert generate.num_responses == 10
    assert (module.beta, module.make_optimizer.lr) == (cfg.learner.beta, cfg.learner.lr)  # type: ignore[attr-defined]
    assert (data.num_iterations, data.epochs, data.batch_size) == (4, 4, cfg.learner.batch_size)
    labeler: Any = run.held_out.labeler
    assert (labeler is run.policy) == (cfg.labeler.path is None)
    trainable = [name for name, parameter in module.policy.named_parameters() if parameter.requires_grad]
    assert trainable
    if cfg.learner.lora is None:
        assert not [name for name in trainable if "vision_tower" in name]
    else:
        assert all("lora_" in name for name in trainable)
    if labeler is not run.policy:
        assert not any(parameter.requires_grad for parameter in labeler.model.parameters())


def test_the_defaults_build_the_embedded_world(model_dir: Path, tmp_path: Path) -> None:
    cfg = composed(f"model.path={model_dir}", f"run_dir={tmp_path / 'run'}")
    run = build(cfg, tmp_path / "run")
    held_out, data = run.held_out, run.data
    assert held_out.evaluator.truth is held_out.source
    assert len(held_out.source.held_out()) == len(held_out.prompts(for_choice=False)) == 256
    assert (data.batch_size, run.module.schedule, data.finish) == (32, "cosine", held_out.measure)


def test_the_truth_chooses_only_where_it_is_known(model_dir: Path, prompt_list: Path, tmp_path: Path) -> None:
    chosen = ("iteration.selection.per_epoch=4", "iteration.selection.by=truth", f"model.path={model_dir}")
    cfg = composed("data=files", f"data.path={prompt_list}", "data.num_held_out=2", "run_dir=run", *chosen)
    check_config(cfg)
    message = r"iteration\.selection\.by=truth needs data whose truth is known; FilesSource knows none"
    with pytest.raises(ValueError, match=message):
        build(cfg, tmp_path / "run")
    held_out = build(composed(f"run_dir={tmp_path / 'run'}", *chosen), tmp_path / "run").held_out
    assert held_out.selection.by == "truth"
    for_choice, for_report = (held_out.prompts(for_choice=is_for) for is_for in (True, False))
    assert len(for_choice) == len(for_report) == 128
    assert not {prompt.id for prompt in for_choice} & {prompt.id for prompt in for_report}


@pytest.mark.parametrize(("group", "option"), [pair for pair in options() if pair[0] in ("callbacks", "logger")])
def test_callbacks_and_loggers_can_be_made(group: str, option: str, tmp_path: Path) -> None:
    """Nothing is started by it: no directory, no service."""
    cfg = composed(f"{group}={option}", f"run_dir={tmp_path / 'run'}")
    made = instantiate(cfg[group])
    assert {*made} == {*cfg[group]}
    assert not (tmp_path / "run").exists()


def test_the_numbers_of_the_paper() -> None:
    """RLAIF-V's appendix and released scripts; a slip here would be a different experiment."""
    cfg = composed("experiment=llava7b_next34b", "run_dir=run")
    assert (cfg.iteration.num_iterations, cfg.iteration.num_prompts, cfg.iteration.epochs) == (4, 4000, 4)
    assert (cfg.iteration.num_responses, cfg.iteration.decoding.temperature) == (10, 0.7)
    assert cfg.iteration.selection.per_epoch == 4
    assert (cfg.learner.beta, cfg.learner.lr) == (0.1, 5e-7)
    assert list(cfg.learner.train_parts) == ["projector", "language_model"]


def test_the_numbers_of_rlhf_v() -> None:
    """The paper's, and those of the authors' script since February 2024; neither decays weights."""
    paper, script = (
        composed("experiment=llava7b_rlhfv", f"learner=rlhfv_{one}").learner for one in ("paper", "script")
    )
    assert (paper.changed_weight, paper.beta, paper.warmup_ratio, paper.normalize_weights) == (5.0, 0.5, 0.1, True)
    assert (script.changed_weight, script.beta, script.warmup_ratio, script.normalize_weights) == (
        1.1,
        0.1,
        0.03,
        False,
    )
    assert paper.weight_decay == script.weight_decay == 0


def test_no_secret_is_in_a_configuration() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in FILES).lower()
    assert not re.search(r"api_key|password|oc\.env|token:", text)
