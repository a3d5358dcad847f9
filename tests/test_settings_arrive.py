"""Every key of the settings is read, and has an effect."""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from peft import LoraConfig
from PIL import Image

from rlaifv.app.build import build
from rlaifv.data import rows_source
from rlaifv.models.loading import load_model
from tests.settings import ROOT, composed


def words_in(*paths: Path) -> set[str]:
    """Attribute names and strings of source files: how a key is read, as in cfg.seed and learner["lr"]."""
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return attributes | {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


READ_BY_NAME = words_in(ROOT / "train.py", ROOT / "rlaifv/app/build.py", ROOT / "rlaifv/app/launch.py")
# Methods refer to settings by their whole keys.
READ_BY_METHODS = {
    key
    for path in (ROOT / "configs/method").rglob("*.yaml")
    for key in re.findall(r"\$\{([a-z_.]+)\}", path.read_text())
}
# Sections that are handed over whole, and who takes their keys; what a class takes is tested with its target in test_configs.
HANDED_OVER = {
    "model": {*inspect.signature(load_model).parameters},
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
        if key not in READ_BY_METHODS
        and not key.startswith("method.")
        and key.rpartition(".")[2] not in HANDED_OVER.get(key.rpartition(".")[0], READ_BY_NAME)
        and key.rpartition(".")[2] not in READ_BY_NAME
    ]
    assert unread == []


SECTIONS = ("seed", "model", "labeler", "divider", "engine", "iteration", "learner", "data", "evaluation")
# Other values, where one more or half of it will not do.
OTHER: dict[str, Any] = {
    "iteration.pairing.order": "reference",
    "iteration.pairing.score": "rate",
    "iteration.selection.by": "last",
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
        patched.setattr("rlaifv.app.build.load_model", lambda *a, **k: calls.append((a, k)) or (model, processor))
        patched.setattr("rlaifv.app.build.select_trainable", lambda model, *others: calls.append(others) or model)
        patched.setattr(model, "gradient_checkpointing_enable", calls.append)
        patched.setattr("rlaifv.app.build.keep_features", lambda _, store: calls.append(store.max_bytes))
        run = build(cfg, run_dir)
    loop, module, data, held_out = run.loop, run.module, run.data, run.held_out
    evaluator = held_out.evaluator
    made = [vars(held_out.source), vars(evaluator.divider), held_out.selection, evaluator.num_examples, calls]
    made += [loop.seed, loop.shard_prompts, loop.min_pairs, *(stage.producer() for stage in loop.stages)]
    made += [run.policy.batch_tokens, [getattr(observer, "set", None) for observer in loop.observers]]
    made += [evaluator.wording, getattr(held_out.labeler, "error_rate", None)]
    made += [module.make_optimizer]
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
    for section in SECTIONS:  # else a change would reach others through what refers to it
        if isinstance(cfg[section], DictConfig):
            OmegaConf.resolve(cfg[section])
    before = fingerprint(cfg, tmp_path, model, processor)
    assert fingerprint(cfg, tmp_path, model, processor) == before
    without_effect = []
    inner = ("data", "divider", "iteration.decoding", "iteration.selection", "iteration.pairing")
    keys = [key for key in (*leaves(cfg), *(k for name in inner for k in leaves(OmegaConf.select(cfg, name), name)))]
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
        fields = (*fields, "run", "max_drop_rate")
        return repr([calls, [getattr(source, name) for name in fields], len(source.held_out())])

    before = made(cfg)
    for key in leaves(cfg.data, "data"):
        if not key.endswith("_target_"):
            changed = cfg.copy()
            OmegaConf.update(changed, key, others.get(key) or other_than(key, OmegaConf.select(cfg, key), tmp_path))
            assert made(changed) != before, key


def test_a_key_that_nothing_reads_would_be_found() -> None:
    cfg = composed("run_dir=run", "+learner.momentum=0.9", "+iteration.penalty=1.1")
    keys = [key for key in leaves(cfg) if key.rpartition(".")[2] in ("momentum", "penalty")]
    assert keys == ["iteration.penalty", "learner.momentum"]
    assert {"momentum", "penalty"}.isdisjoint(READ_BY_NAME)
