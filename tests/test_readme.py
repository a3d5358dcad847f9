"""What the README tells people to type exists."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from rlaifv.app.checks import ConfigError, check_config
from rlaifv.app.launch import register_resolvers, without_groups

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Faults of places that are the reader's own.
NOT_HERE = r"_?path=\S+ is (not a file\.$|not a directory, nor|no file or directory, nor)"


def commands(program: str) -> list[str]:
    """Commands of a program in the indented blocks of all pages, continued lines joined and comments cut."""
    text = re.sub(r"\\\n\s*", " ", "\n".join(page.read_text() for page in PAGES))
    lines = [line.split("  #")[0] for line in text.splitlines() if line.startswith("    ")]
    return [line.strip() for line in lines if program in line]


def faults_of(cfg: DictConfig) -> list[str]:
    try:
        check_config(cfg)
    except ConfigError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize("command", commands("train.py"))
def test_train_commands_compose_and_pass_the_checks(command: str) -> None:
    words = shlex.split(re.split(r"\s{3,}", command.split("train.py", 1)[1].strip())[0])
    overrides = [word for word in words if "=" in word]
    if any(word.startswith("resume=") for word in words):
        overrides = []
    overrides = [re.sub(r"=([^,\[]+),.*", r"=\1", item) for item in overrides]  # of a sweep, its first value
    overrides = without_groups(overrides)
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train", overrides)
    for item in overrides:
        assert item.split("=")[0].split(".")[0] in cfg or item.startswith(("experiment=", "pairing=", "~"))
    assert [fault for fault in faults_of(cfg) if not re.search(NOT_HERE, fault)] == []


def test_a_continued_command_is_one() -> None:
    assert any(
        "data.path=exports/trl" in command and "run_dir=runs/offline" in command for command in commands("train")
    )


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
