import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from rlaifv.worlds.shapes_pretrain import PretrainSettings
from tools.dev import pretrain_shapes

COMMAND = Path(__file__).parents[3] / "tools/dev/pretrain_shapes.py"


def test_writes_a_model_that_transformers_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = functools.partial(PretrainSettings, num_scenes=6, batch_size=2, autocast=False)
    monkeypatch.setattr(pretrain_shapes, "PretrainSettings", small)
    threads = str(torch.get_num_threads())
    monkeypatch.setattr(sys, "argv", ["x", "--output", str(tmp_path / "made"), "--steps", "2", "--threads", threads])
    pretrain_shapes.main()
    printed = capsys.readouterr().out
    assert re.search(r"pretrain .* 2/2 ", printed)
    assert re.search(r"caption \d+\.\d{3}  yes/no accuracy [01]\.\d\d", printed)
    assert printed.endswith(f"written to {tmp_path / 'made'}\n")
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "made")
    assert model.dtype == torch.bfloat16
    assert AutoProcessor.from_pretrained(tmp_path / "made").chat_template


def test_runs_as_a_command_from_anywhere(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(COMMAND), "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=True
    )
    assert "--output" in result.stdout
    assert "--steps" in result.stdout
    assert not list(tmp_path.iterdir())
