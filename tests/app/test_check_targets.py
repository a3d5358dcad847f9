"""What settings may have built, and which of Lightning's keys they may set."""

import ast

import pytest
from omegaconf import DictConfig

from rlaifv.app import bounds, checks
from tests.settings import ROOT, changed, composed, fault_of, faults


@pytest.fixture(scope="module")
def base() -> DictConfig:
    return composed("run_dir=run", "learner.lora={r: 8, lora_alpha: 16}")


FORBIDDEN = [
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "torch.load",
    "torch.hub.load",
    "pickle.loads",
    "importlib.import_module",
    "hydra.utils.instantiate",
    "hydra._internal.utils._locate",
    "omegaconf.OmegaConf.load",
    "lightning.Trainer.fit",
    "lightning.pytorch.loggers.CSVLogger.save",
    "lightning.Trainer.__init__.__globals__",
    "rlaifv.data.sources.FilesSource.__init__",
    "rlaifv.records.Prompt.__reduce__",
    "hydra.utils.get_method",
    "lightning.pytorch.utilities.seed.isolate_rng",
    "lightningtrap.Trainer",
    "rlaifvtrap.Evil",
    # What a module of ours happens to import is not ours.
    "rlaifv.runtime.ranks.os.system",
    "rlaifv.runtime.ranks.os",
    "rlaifv.runtime.console.Console",
    "rlaifv.store.atomic.Path",
    "rlaifv.observers.canaries.logging.shutdown",
    "lightning.pytorch.callbacks.model_checkpoint.os.remove",
    "lightning.pytorch.callbacks.model_checkpoint.Path",
    # A function of ours is no class.
    "rlaifv.models.loading.export_model",
    # Nor what is not there.
    "rlaifv.data.sources.Sources",
    "rlaifv.nowhere.Thing",
    "rlaifv.",
    "",
]


@pytest.mark.parametrize("target", FORBIDDEN)
def test_targets_that_are_refused(base: DictConfig, target: str) -> None:
    fault = fault_of(base, "data._target_", target)
    assert fault.startswith(f"data._target_={target} is not allowed; a target must be a class, and its name start with")
    assert ", ".join(checks.ALLOWED_TARGETS) in fault


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("callbacks.evil", {"_target_": "os.system"}, "callbacks.evil._target_"),
        ("callbacks.samples.num_pairs", {"_target_": "os.system"}, "callbacks.samples.num_pairs._target_"),
        ("logger.csv.name", [1, {"_target_": "os.system"}], "logger.csv.name[1]._target_"),
        ("data.path", {"a": [[{"b": {"_target_": "os.system"}}]]}, "data.path.a[0][0].b._target_"),
        ("extra", {"_target_": "os.system"}, "extra._target_"),
        ("seed", "${evil}", "evil._target_"),
    ],
)
def test_targets_are_found_wherever_they_hide(base: DictConfig, key: str, value: object, where: str) -> None:
    cfg = changed(base, **{key: value}, **({"evil": {"_target_": "os.system"}} if key == "seed" else {}))
    assert any(line.startswith(f"{where}=os.system is not allowed") for line in faults(cfg))


@pytest.mark.parametrize("name", ["_convert_", "_recursive_", "_partial_", "_args_"])
def test_other_keywords_of_instantiate_are_refused(base: DictConfig, name: str) -> None:
    assert fault_of(base, f"data.{name}", "all") == f"data.{name} is not allowed in a configuration of this project."


@pytest.mark.parametrize("name", bounds.RESERVED)
def test_trainer_keys_that_would_be_overruled(base: DictConfig, name: str) -> None:
    fault = fault_of(base, f"trainer.{name}", 7)
    assert fault == f"trainer.{name}=7 has no effect, since train.py sets it."


def test_the_reserved_keys_are_those_that_train_sets() -> None:
    tree = ast.parse((ROOT / "train.py").read_text(encoding="utf-8"))
    (call,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.args[0]) == "cfg.trainer"
    )
    assert sorted(keyword.arg for keyword in call.keywords if keyword.arg) == sorted(bounds.RESERVED)
