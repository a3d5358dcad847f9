"""Each module imports on its own, whatever was or was not imported before it: no cycle hides behind a lucky order."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def module_names() -> list[str]:
    paths = [*sorted((ROOT / "rlaifv").rglob("*.py")), *sorted((ROOT / "tools").glob("*.py")), ROOT / "train.py"]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]


def is_ours(name: str) -> bool:
    return name.partition(".")[0] in ("rlaifv", "tools", "train")


@pytest.fixture
def _nothing_imported() -> Iterator[None]:
    """Forget the project's modules, and afterwards what was imported instead of them."""
    known = {name: module for name, module in sys.modules.items() if is_ours(name)}
    for name in known:
        del sys.modules[name]
    yield
    for name in [name for name in sys.modules if is_ours(name)]:
        del sys.modules[name]
    sys.modules.update(known)


def test_all_modules_are_looked_at() -> None:
    assert {"rlaifv", "rlaifv.loop", "rlaifv.learners.dpo.module", "rlaifv.app.build", "train"} < set(module_names())


@pytest.mark.usefixtures("_nothing_imported")
@pytest.mark.parametrize("name", module_names())
def test_a_module_imports_alone(name: str) -> None:
    assert not [seen for seen in sys.modules if is_ours(seen)]
    assert importlib.import_module(name).__doc__
