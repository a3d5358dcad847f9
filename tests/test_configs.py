"""Every configuration file composes, says what its keys mean, and builds; every key has an effect."""

import ast
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from peft import LoraConfig
from PIL import Image

from rlaifv.checks import ALLOWED_TARGETS, check_config
from rlaifv.data import rows_source
from rlaifv.feedback.pair import PairingRules
from rlaifv.given_pairs import GivenPairs
from rlaifv.loop import IterationSettings
from rlaifv.models.loading import load_model
from rlaifv.models.sampling import Decoding
from tests.data.preferences import write_format
from tools.build import build
from tools.launch import register_resolvers

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
# Those that train on published pairs, and make none.
OFFLINE = [name for name in EXPERIMENTS if name.endswith("_rlhfv")]
# Where a file says nothing on a required value, this does.
REQUIRED = {
    "evaluation": "data_root=copies",
    "data": "data.path=prompts.jsonl",
    "labeler": "labeler.path=owner/name",
    "divider": "split_path=owner/name",
}
# What has no value of its own where one of several must be given.
EITHER_OR = {("divider", "chat"): ["divider.path=owner/name"]}
# Keys that belong to Hydra's own language.
STRUCTURAL = ("defaults", "_target_")


def composed(*overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", list(overrides))


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


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(Exception, match=r"Could not override 'learner\.betta'"):
        composed("learner.betta=1")


def uncommented_keys(text: str) -> list[str]:
    """Keys of a YAML file that have no comment in the line above, but for structural ones and what is inside them."""
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
        if match[2] in STRUCTURAL:
            skip_deeper_than = indent
        elif not above.lstrip().startswith("#") or len(above) - len(above.lstrip()) != indent:
            found.append(f"line {number + 1}: {match[2]}")
        if line.rstrip().endswith("|"):  # a block of text
            skip_deeper_than = indent
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_key_has_a_comment_above_it(path: Path) -> None:
    assert uncommented_keys(path.read_text(encoding="utf-8")) == []


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
    allowed = ("tools.sweep.", "tools.guard.") if path.parent.name == "hydra" else ALLOWED_TARGETS
    for key, target, node in targets(raw(path)):
        assert target.startswith(allowed), key
        module, _, name = target.rpartition(".")
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        given = {str(name) for name in node} - {"_target_"}
        assert takes_any or given <= set(parameters), key


@pytest.fixture(scope="module")
def prompt_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough prompts for the four iterations of the smallest numbers that the tests ask for."""
    directory = tmp_path_factory.mktemp("photos")
    Image.new("RGB", (64, 48), "red").save(directory / "photo.png")
    listed = directory / "prompts.jsonl"
    listed.write_text("\n".join(json.dumps({"image": "photo.png", "question": f"What is {k}?"}) for k in range(16)))
    return listed


@pytest.mark.parametrize("experiment", OFFLINE)
def test_every_offline_experiment_builds_with_a_small_model(experiment: str, model_dir: Path, tmp_path: Path) -> None:
    """RLHF-V's recipe: given pairs, changed tokens weigh more, and the sum is not divided."""
    small = [f"model.path={model_dir}", "model.dtype=float32", "trainer=cpu"]
    path = write_format("rlhfv", tmp_path / "data")
    cfg = composed(f"experiment={experiment}", *small, f"data.path={path}", f"run_dir={tmp_path / 'run'}")
    check_config(cfg)
    loop, module, data = build(cfg, tmp_path / "run")
    assert isinstance(loop, GivenPairs)
    assert len(loop.source.prompts(0, None)) == 2  # of three pairs
    assert (module.reduction, module.normalize_weights, module.beta) == ("weighted", False, 0.1)
    assert data.collator.changed_weight == 1.1
    assert (data.num_iterations, data.epochs) == (1, 3)


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if name not in OFFLINE])
def test_every_experiment_builds_with_a_small_model(
    experiment: str, model_dir: Path, prompt_list: Path, tmp_path: Path
) -> None:
    """What it chooses besides weights and hardware goes through `build`, and arrives where it belongs."""
    run_dir = tmp_path / "run"
    small = [f"model.path={model_dir}", "model.dtype=float32", f"data.path={prompt_list}", "trainer=cpu"]
    small.append("model.quantization=none")  # 64 columns are one block of 4-bit weights; tested in test_loading
    if composed(f"experiment={experiment}", "run_dir=run").labeler.path is not None:
        small += [f"labeler.path={model_dir}", "labeler.dtype=float32"]
    cfg = composed(f"experiment={experiment}", *small, f"run_dir={run_dir}", "iteration.num_prompts=4")
    check_config(cfg)
    loop, module, data = build(cfg, run_dir)
    trainer = instantiate(cfg.trainer, logger=False, enable_checkpointing=False)
    torch.use_deterministic_algorithms(False)
    assert trainer.accumulate_grad_batches == cfg.trainer.accumulate_grad_batches
    assert len(loop.source.prompts(3, loop.settings.num_prompts)) == 4
    assert loop.settings.decoding == Decoding(temperature=0.7, top_k=50, max_new_tokens=512)
    assert loop.settings.num_responses == 10
    assert (module.beta, module.make_optimizer.keywords["lr"]) == (cfg.learner.beta, cfg.learner.lr)  # type: ignore[attr-defined]
    assert (data.num_iterations, data.epochs, data.batch_size) == (4, 4, cfg.learner.batch_size)
    assert (loop.labeler.engine is loop.policy) == (cfg.labeler.path is None)
    trainable = [name for name, parameter in module.policy.named_parameters() if parameter.requires_grad]
    assert trainable
    if cfg.learner.lora is None:
        assert not [name for name in trainable if "vision_tower" in name]
    else:
        assert all("lora_" in name for name in trainable)
    if loop.labeler.engine is not loop.policy:
        assert not any(parameter.requires_grad for parameter in loop.labeler.parameters())


def test_the_defaults_build_the_embedded_world(model_dir: Path, tmp_path: Path) -> None:
    cfg = composed(f"model.path={model_dir}", f"run_dir={tmp_path / 'run'}")
    loop, module, data = build(cfg, tmp_path / "run")
    assert loop.truth is loop.source
    assert len(loop.source.held_out()) == 256
    assert (data.batch_size, module.schedule, data.finish) == (32, "cosine", loop.measure)


@pytest.mark.parametrize(("group", "option"), [pair for pair in options() if pair[0] in ("callbacks", "logger")])
def test_callbacks_and_loggers_can_be_made(group: str, option: str, tmp_path: Path) -> None:
    """Nothing is started by it: no directory, no service."""
    cfg = composed(f"{group}={option}", f"run_dir={tmp_path / 'run'}")
    made = instantiate(cfg[group])
    assert {*made} == {*cfg[group]}
    assert not (tmp_path / "run").exists()


def words_in(*paths: Path) -> set[str]:
    """Attribute names and strings of source files: how a key is read, as in cfg.seed and learner["lr"]."""
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return attributes | {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


READ_BY_NAME = words_in(ROOT / "train.py", ROOT / "tools/build.py", ROOT / "tools/launch.py")
# Sections that are handed over whole, and who takes their keys; what a class takes is tested with its target above.
HANDED_OVER = {
    "model": {*inspect.signature(load_model).parameters},
    "iteration": {field.name for field in fields(IterationSettings)},
    "iteration.decoding": {field.name for field in fields(Decoding)},
    "iteration.pairing": {field.name for field in fields(PairingRules)},
    "learner.lora": {field.name for field in fields(LoraConfig)},
}


def leaves(node: DictConfig, key: str = "") -> Iterator[str]:
    for name in node:
        inner = f"{key}.{name}".lstrip(".")
        child = None if OmegaConf.is_missing(node, name) else node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none():
            if "_target_" not in child:
                yield from leaves(child, inner)
        else:
            yield inner


@pytest.mark.parametrize(
    "overrides", [[], ["learner=paper_lora"], ["labeler=model"], ["data=files"], ["data=trl"], ["logger=none"]]
)
def test_every_key_is_read(overrides: list[str]) -> None:
    """By its name where the program is put together, or by what its section is handed to; checks and budget do not count."""
    unread = [
        key
        for key in leaves(composed(*overrides, "run_dir=run"))
        if key.rpartition(".")[2] not in HANDED_OVER.get(key.rpartition(".")[0], READ_BY_NAME)
        and key.rpartition(".")[2] not in READ_BY_NAME
    ]
    assert unread == []


SECTIONS = ("seed", "model", "labeler", "divider", "engine", "iteration", "learner", "data", "evaluation")
# Other values, where one more or half of it will not do.
OTHER: dict[str, Any] = {
    "iteration.pairing.order": "reference",
    "iteration.pairing.score": "rate",
    "labeler.other_forms": ["{question} Please answer no or yes."],
    "learner.reduction": "mean",
    "learner.schedule": "linear",
    "learner.train_parts": ["projector"],
    "learner.lora": {"r": 2, "lora_alpha": 4},
    "iteration.num_prompts": 3,
    "iteration.decoding.stop": ["Question:"],
    "model.revision": "abc",
    "labeler.revision": "abc",
    "data.num_iterations": 5,
    "data.revision": "abc",
    "data.seed": 9,
    "data.image_root": ".",
}


def other_than(key: str, value: Any, prompt_list: Path) -> Any:
    if key == "data.path":
        copy = prompt_list.with_name("copy.jsonl")
        copy.write_text(prompt_list.read_text())
        return str(copy)
    if key in OTHER:
        return OTHER[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value * 0.5 or 0.25 if isinstance(value, float) else f"{value}x"


def fingerprint(cfg: DictConfig, run_dir: Path, model: Any, processor: Any) -> str:
    """Everything that `build` makes of a configuration, in words; the models themselves are stood in for."""
    calls: list[Any] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tools.build.load_model", lambda *a, **k: calls.append((a, k)) or (model, processor))
        patched.setattr("tools.build.select_trainable", lambda model, *others: calls.append(others) or model)
        patched.setattr(model, "gradient_checkpointing_enable", calls.append)
        patched.setattr("tools.build.keep_features", lambda _, store: calls.append(store.max_bytes))
        loop, module, data = build(cfg, run_dir)
    made = [vars(loop.source), vars(loop.divider), loop.settings, loop.seed, loop.num_examples, calls]
    made += [loop.policy.batch_tokens, loop.canaries, loop.labeler.question_suffix, loop.labeler.other_forms]
    made += [module.make_optimizer.keywords]  # type: ignore[attr-defined]
    names = ("beta", "reduction", "normalize_weights", "loss", "label_smoothing", "nll_weight")
    names = (*names, "schedule", "warmup_ratio", "reset_optimizer")
    made += [getattr(module, name) for name in names]
    made += [getattr(data, name) for name in ("batch_size", "batch_tokens", "num_iterations", "epochs", "seed")]
    return repr([*made, data.collator.row_tokens, data.collator.changed_weight])


def test_every_setting_arrives(model: Any, processor: Any, prompt_list: Path, tmp_path: Path) -> None:
    """Changed one by one, each key of the sections that `build` reads makes something else."""
    cfg = composed(
        "data=files", f"data.path={prompt_list}", "labeler=model", "labeler.path=owner/name", "run_dir=run", "seed=3"
    )
    OmegaConf.resolve(cfg)  # else a change would reach others through what refers to it
    before = fingerprint(cfg, tmp_path, model, processor)
    assert fingerprint(cfg, tmp_path, model, processor) == before
    without_effect = []
    keys = [key for key in (*leaves(cfg), *leaves(cfg.data, "data"), *leaves(cfg.divider, "divider"))]
    keys = [key for key in keys if key.partition(".")[0] in SECTIONS and not key.endswith("_target_")]
    for key in keys:
        changed = cfg.copy()
        OmegaConf.set_struct(changed, False)
        OmegaConf.update(changed, key, other_than(key, OmegaConf.select(cfg, key), prompt_list))
        if fingerprint(changed, tmp_path, model, processor) == before:
            without_effect.append(key)
    assert len(keys) > 40
    assert without_effect == []


def test_every_setting_of_published_data_arrives(tmp_path: Path) -> None:
    """As above for the keys of a source of pairs, which is looked at before any model."""
    rows = [{"prompt": f"What is {k}?", "chosen": "a", "rejected": "b", "images": ["photo.png"]} for k in range(16)]
    for folder in (tmp_path, tmp_path / "root"):
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), "red").save(folder / "photo.png")
    for name in ("pairs.jsonl", "pairs.jsonlx", "copy.jsonl"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    cfg = composed("data=trl", f"data.path={tmp_path / 'pairs.jsonl'}", "data.num_rows=12", "run_dir=run", "seed=3")
    OmegaConf.resolve(cfg)
    others = {"data.path": str(tmp_path / "copy.jsonl"), "data.image_root": "root", "data.split": "test"}

    def made(cfg: DictConfig) -> str:
        calls: list[Any] = []
        with pytest.MonkeyPatch.context() as patched:
            table = rows_source.Table
            patched.setattr(
                rows_source, "Table", lambda *a, **k: calls.append((a, k)) or table("trl", a[1], num_rows=9)
            )
            source = instantiate(cfg.data)
        fields = ("path", "directory", "num_iterations", "seed", "reuse_prompts", "max_pixels", "max_bytes")
        return repr([calls, [getattr(source, name) for name in fields], len(source.held_out())])

    before = made(cfg)
    for key in leaves(cfg.data, "data"):
        if not key.endswith("_target_"):
            changed = cfg.copy()
            OmegaConf.update(changed, key, others.get(key) or other_than(key, OmegaConf.select(cfg, key), tmp_path))
            assert made(changed) != before, key


def test_a_key_that_nothing_reads_would_be_found() -> None:
    cfg = composed("run_dir=run", "+learner.momentum=0.9", "+iteration.decoding.penalty=1.1")
    keys = [key for key in leaves(cfg) if key.rpartition(".")[2] in ("momentum", "penalty")]
    assert keys == ["iteration.decoding.penalty", "learner.momentum"]
    assert {"momentum", "penalty"}.isdisjoint(READ_BY_NAME)


def test_the_numbers_of_the_paper() -> None:
    """RLAIF-V's appendix and released scripts; a slip here would be a different experiment."""
    cfg = composed("experiment=llava7b_next34b", "run_dir=run")
    assert (cfg.iteration.num_iterations, cfg.iteration.num_prompts, cfg.iteration.epochs) == (4, 4000, 4)
    assert (cfg.iteration.num_responses, cfg.iteration.decoding.temperature) == (10, 0.7)
    assert (cfg.learner.beta, cfg.learner.lr) == (0.1, 5e-7)
    assert list(cfg.learner.train_parts) == ["projector", "language_model"]


def test_no_secret_is_in_a_configuration() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in FILES).lower()
    assert not re.search(r"api_key|password|oc\.env|token:", text)
