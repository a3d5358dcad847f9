"""Twins made once a session, and what types their commands."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.data.preferences import cell, write_parquet
from tests.twins.experiments import NUM_PROMPTS, ROOT
from tests.twins.images_only import images_only
from tests.twins.signal import QUESTIONS, WRONG_COLOURS, make_twin, sentence, write_prompts

MakeTwin = Callable[[str], Path]


@dataclass(frozen=True)
class Terminal:
    """Types commands in a directory of its own."""

    directory: Path

    def start(self, script: str, *arguments: str) -> "subprocess.Popen[str]":
        """As `python SCRIPT ARGUMENTS`; what it prints goes to a file."""
        mine = ("HF_", "WANDB_", "RLAIFV_", "PL_", "COV_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
        environment |= {
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.directory),
        }
        qwen = any("qwen" in argument for argument in arguments)
        # `resume` names no model; the settings that it reads do.
        name = next((item.partition("=")[2] for item in arguments if item.startswith("resume=")), None)
        qwen = qwen or (name is not None and "/qwen" in (self.directory / name / "config.yaml").read_text())
        with (self.directory / "output.txt").open("a") as output:
            return subprocess.Popen(
                [sys.executable, *(["-m", "tests.twins.images_only"] if qwen else []), str(ROOT / script), *arguments],
                cwd=self.directory,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def wait(self, process: "subprocess.Popen[str]") -> None:
        """Until it has ended well."""
        try:
            status = process.wait(timeout=900)
        finally:
            process.kill()
        assert status == 0, (self.directory / "output.txt").read_text()[-6000:]

    def run(self, script: str, *arguments: str) -> None:
        self.wait(self.start(script, *arguments))


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> MakeTwin:
    """Directory of a twin by its name, made when it is first asked for."""
    directory = tmp_path_factory.mktemp("twins")

    def of(name: str) -> Path:
        if not (directory / name).exists():
            with images_only():
                assert make_twin(name, directory / name) > 0.8, f"the twin {name} has not learned to check"
        return directory / name

    return of


@pytest.fixture(scope="session")
def prompt_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts"), NUM_PROMPTS)


@pytest.fixture(scope="session")
def corrections(tmp_path_factory: pytest.TempPathFactory, prompt_file: Path) -> Path:
    """Pairs as RLHF-V has them: an answer with a wrong colour, and the same with the right one."""
    rng, rows = random.Random(0), []
    for k, line in enumerate(prompt_file.read_text().splitlines()):
        image = prompt_file.parent / json.loads(line)["image"]
        right = image.stem.partition("-")[2]
        wrong = rng.choice(WRONG_COLOURS)
        chosen, rejected = (f"{sentence(c, 'circle')} {sentence(right, 'star')}" for c in (right, wrong))
        text = {"question": rng.choice(QUESTIONS), "chosen": chosen, "rejected": rejected}
        about = {"ds_name": "RLHF-V", "origin_dataset": "drawn", "origin_split": "{}", "image_path": image.name}
        rows.append({"idx": k, "image": cell(image.read_bytes()), "text": json.dumps(text)} | about)
    return write_parquet(tmp_path_factory.mktemp("corrections") / "pairs.parquet", rows)
