"""The targets of coverage-guided fuzzing on a few inputs, and a short run of it where atheris is installed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from rlaifv.data.sources import read_prompts
from tools.dev import fuzz

ROOT = Path(__file__).parents[3]
INPUTS = (
    b"",
    b"\xff\xfe\x00",
    b'{"image": "a.png", "question": "Is it \xc3\xa9?"}',
    b"PAR1PAR1",
    b"There is a dog. \x80",
)


@pytest.mark.parametrize("target", fuzz.TARGETS)
@pytest.mark.parametrize("content", INPUTS, ids=range(len(INPUTS)))
def test_targets_take_any_bytes(tmp_path: Path, target: str, content: bytes) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    fuzz.TARGETS[target](tmp_path, content)


def test_an_error_that_is_not_documented_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (UnicodeDecodeError("utf-8", b"prompts.jsonl", 0, 1, "odd"), ValueError("No file is named here.")):

        def fail(path: Path, error: ValueError = error) -> None:
            raise error

        monkeypatch.setattr(fuzz, read_prompts.__name__, fail)
        with pytest.raises(AssertionError, match="is not what the reader documents"):
            fuzz.fuzz_prompts(tmp_path, b"")


def run(*arguments: str, directory: Path) -> tuple[int, str]:
    process = subprocess.run(
        [sys.executable, str(ROOT / "tools/dev/fuzz.py"), *arguments],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=200,
    )
    return process.returncode, process.stdout + process.stderr


def test_a_target_has_to_be_named(tmp_path: Path) -> None:
    assert run("everything", directory=tmp_path) == (
        1,
        "usage: python tools/dev/fuzz.py {prompts,image,shard,answer} [options of libFuzzer]\n",
    )


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_a_short_run_finds_nothing(tmp_path: Path) -> None:
    status, output = run("prompts", "-runs=2000", directory=tmp_path)
    assert status == 0, output
    assert "Done 2000 runs" in output
    assert list(tmp_path.iterdir()) == []
