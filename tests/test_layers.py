"""The house rules that a reader of one file cannot see: who may import whom, who may touch what, and how long things are."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [*sorted((ROOT / "rlaifv").rglob("*.py")), *sorted((ROOT / "tools").rglob("*.py")), ROOT / "train.py"]
# The longest name that fits decides. Imports point down only, or stay within a layer.
LAYERS = {
    "train": 6,
    "tools": 6,
    "rlaifv.app": 6,
    "rlaifv.callbacks": 5,
    "rlaifv.report": 5,
    "rlaifv.data.datamodule": 4,
    "rlaifv.engines.labeler": 4,
    "rlaifv.learners": 4,
    "rlaifv.loop": 4,
    "rlaifv.benchmarks": 3,
    "rlaifv.metrics": 3,
    "rlaifv.observers": 3,
    "rlaifv.stages": 3,
    "rlaifv.worlds": 3,
    "rlaifv.data": 2,
    "rlaifv.engines": 2,
    "rlaifv.models": 2,
    "rlaifv.data.drops": 1,
    "rlaifv.data.formats": 1,
    "rlaifv.data.image_root": 1,
    "rlaifv.data.rows": 1,
    "rlaifv.learners.dpo.losses": 1,
    "rlaifv.learners.dpo.token_weights": 1,
    "rlaifv.learners.kto.losses": 1,
    "rlaifv.learners.optimizer": 1,
    "rlaifv.learners.policy_gradient.losses": 1,
    "rlaifv.runtime": 1,
    "rlaifv.store": 1,
    "rlaifv.records": 0,
}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def layer_of(module: str) -> int | None:
    """The layer of a module, None for one that has none: packages as such, and third parties."""
    while module and module not in LAYERS:
        module = module.rpartition(".")[0]
    return LAYERS.get(module)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Every imported module, also inside functions; `from package import name` may mean the module package.name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            assert node.module is not None
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                is_module = (ROOT / deeper.replace(".", "/")).with_suffix(".py").exists()
                yield deeper if is_module else node.module


def attributes(tree: ast.AST) -> set[str]:
    """What is reached through names, imported by name or given as a keyword: os.replace, replace from os, ..."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)  # also keys of a dictionary of keywords
    return found


def users_of(*names: str) -> set[str]:
    """The modules in which one of these attributes, keywords or strings occurs."""
    return {name_of(path) for path in FILES if not attributes(parse(path)).isdisjoint(names)}


def importers_of(*packages: str) -> set[str]:
    return {
        name_of(path)
        for path in FILES
        if any(module.partition(".")[0] in packages for module in imported_modules(parse(path)))
    }


def is_package(path: Path) -> bool:
    return path.name == "__init__.py"


@pytest.mark.parametrize("path", [path for path in FILES if not is_package(path)], ids=name_of)
def test_imports_point_down(path: Path) -> None:
    own = layer_of(name_of(path))
    assert own is not None, f"{name_of(path)} has no layer; give it one in LAYERS"
    above = [module for module in imported_modules(parse(path)) if (layer_of(module) or 0) > own]
    assert above == [], f"{name_of(path)} is in layer {own}"


def test_every_entry_of_the_table_exists() -> None:
    names = {name_of(path) for path in FILES}
    assert {module for module in LAYERS if module not in names} == set()


def test_packages_import_nothing() -> None:
    """Importing one module of a package must not pull in all the others."""
    for path in filter(is_package, FILES):
        imported = {name.partition(".")[0] for name in imported_modules(parse(path))}
        assert imported <= sys.stdlib_module_names, path


def test_a_step_upwards_would_be_seen(tmp_path: Path) -> None:
    tree = ast.parse("def f():\n    from rlaifv import loop\n    import rlaifv.learners.dpo.module as dpo\n")
    assert [layer_of(module) for module in imported_modules(tree)] == [4, 4]


def test_configuration_stops_at_the_door() -> None:
    users = importers_of("hydra", "omegaconf")
    assert "train" in users
    assert {name for name in users if layer_of(name) != 6} == set()


def test_wandb_is_reached_through_lightning_only() -> None:
    assert importers_of("wandb") == set()


def test_the_stages_know_neither_trainer_nor_configuration() -> None:
    below = {name for name in importers_of("lightning") if (layer_of(name) or 0) < 4}
    assert below == set()


def test_files_are_renamed_and_synced_in_one_place() -> None:
    names = [f"os.{name}" for name in ("replace", "rename", "renames", "fsync", "fdatasync", "sync")]
    assert users_of(*names, "shutil.move") == {"rlaifv.store.atomic"}


def test_nobody_asks_for_a_loader_before_the_run_is_restored() -> None:
    """Lightning's estimate of the steps would: it builds a loader while counters and weights are still the first ones."""
    assert not any("estimated_stepping_batches" in path.read_text(encoding="utf-8") for path in FILES)


def test_nothing_loads_code_or_pickles() -> None:
    """Weights are loaded in models/loading.py, a model's own code only if the user says so; of pickles only tensors are read.

    The converter of foreign checkpoints loads some too.
    """
    assert users_of("trust_remote_code", "torch.load") <= {"rlaifv.models.loading"}
    # Lightning would build what a checkpoint's hyper-parameters name.
    assert [path for path in FILES if "load_from_checkpoint" in path.read_text(encoding="utf-8")] == []
    assert users_of("pickle.load", "pickle.loads", "cloudpickle.load", "joblib.load") == set()
    loaders = {name_of(path) for path in FILES if loads_weights(parse(path))}
    assert loaders == {"rlaifv.models.loading", "tools.convert_llava"}


def loads_weights(tree: ast.AST) -> bool:
    """Whether a model is made from files; configurations and tokenizers are no weights."""
    reached = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    by_transformers = any(name.endswith(".from_pretrained") and "Model" in name for name in reached)
    return by_transformers or not attributes(tree).isdisjoint(("safetensors.torch.load_file", "safetensors.safe_open"))


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=name_of)
def test_no_file_of_tests_is_too_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_too_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES
    long = [
        f"{node.name} has {length} lines"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert long == []


@pytest.mark.parametrize("name", ["train.py", "rlaifv/loop.py"])
def test_what_is_read_first_fits_on_a_page(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 120


def test_train_needs_the_package_alone() -> None:
    assert {module for module in imported_modules(parse(ROOT / "train.py")) if module.startswith("tools")} == set()


def test_no_method_is_a_loop_of_its_own() -> None:
    """A method is a list of stages."""
    bases = {
        ast.unparse(base)
        for path in FILES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    }
    assert not any("FeedbackLoop" in base for base in bases)


@pytest.mark.parametrize("path", sorted((ROOT / "tools").glob("*.py")), ids=name_of)
def test_tools_are_commands(path: Path) -> None:
    assert is_package(path) or 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")


def test_no_drawers_for_odds_and_ends() -> None:
    assert not {path.stem for path in FILES} & {"utils", "util", "helpers", "common", "misc"}
