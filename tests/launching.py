"""train.py in the process of the tests: as a command from outside, without the seconds that its imports take."""

import logging
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from rlaifv.app.launch import START_VARIABLE

TRAIN = Path(__file__).parents[1] / "train.py"
Launch = Callable[..., tuple[int, str]]


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Launch]:
    """Runs `python train.py …` in `tmp_path`; gives exit status and output. What it changes in the process is undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(START_VARIABLE, "2024-02-29/12-00-00")

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [str(TRAIN), *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(TRAIN), run_name="__main__")
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out + captured.err  # type: ignore[return-value]

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    environment = os.environ.copy()
    yield call
    root.handlers[:], root.level = handlers, level
    GlobalHydra.instance().clear()
    torch.use_deterministic_algorithms(False)
    os.environ.clear()
    os.environ.update(environment)
