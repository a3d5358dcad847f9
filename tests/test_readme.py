"""What the README tells people to type exists."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from tools.launch import register_resolvers

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(program: str) -> list[str]:
    """Commands of a program in the indented blocks of all pages, continued lines joined and comments cut."""
    text = "\n".join(page.read_text() for page in PAGES).replace("\\\n", " ")
    lines = [line.split("  #")[0] for line in text.splitlines() if line.startswith("    ")]
    return [line.strip() for line in lines if program in line]


@pytest.mark.parametrize("command", commands("train.py"))
def test_train_commands_compose(command: str) -> None:
    words = shlex.split(re.split(r"\s{3,}", command.split("train.py", 1)[1].strip())[0])
    overrides = [word for word in words if "=" in word]
    if any(word.startswith("resume=") for word in words):
        overrides = []
    overrides = [re.sub(r"=([^,\[]+),.*", r"=\1", item) for item in overrides]  # of a sweep, its first value
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train", overrides)
    for item in overrides:
        assert item.split("=")[0].split(".")[0] in cfg or item.startswith("experiment=")


def test_there_are_train_commands() -> None:
    assert len(commands("train.py")) >= 7


@pytest.mark.parametrize("command", commands("make "))
def test_make_targets_exist(command: str) -> None:
    target = command.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_linked_files_exist() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_experiments_are_listed() -> None:
    readme = (ROOT / "README.md").read_text()
    for path in (ROOT / "configs" / "experiment").glob("*.yaml"):
        assert f"`{path.stem}`" in readme


def test_tests_named_behind_promises_exist() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    path, named = ROOT, 0
    for file, test in re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`", page):
        path = ROOT / file if file else path
        if file or test:
            named += 1
            assert path.is_file(), f"docs/reliability.md names {file}, which is not there"
            assert not test or f"def {test}(" in path.read_text(), (
                f"docs/reliability.md names {test}, which {path} lacks"
            )
    assert named > 50
