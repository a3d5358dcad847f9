"""`python train.py` from outside: what a run prints, leaves behind, repeats and resumes."""

import csv
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from rlaifv.store.manifest import Manifest
from rlaifv.worlds.shapes_model import WEIGHTS_DIR

TRAIN = Path(__file__).parents[1] / "train.py"
SMALL = (
    "iteration.num_prompts=16",
    "iteration.shard_prompts=8",
    "iteration.min_pairs=1",
    "iteration.decoding.max_new_tokens=60",
    "data.num_held_out=8",
)
TWO_ITERATIONS = (*SMALL, "iteration.num_iterations=2", "iteration.epochs=2")
RESULT = re.compile(
    r"result: response hallucination (0\.\d{3}|1\.000) -> (0\.\d{3}|1\.000), mention (0\.\d{3}|1\.000) -> (0\.\d{3}|1\.000), "
    r"coverage (0\.\d{3}|1\.000) -> (0\.\d{3}|1\.000), iterations (\d+), run (\S+)"
)
NAMES_OF_TRL = {
    "loss",
    *(f"rewards/{name}" for name in ("chosen", "rejected", "accuracies", "margins")),
    *(f"logps/{name}" for name in ("chosen", "rejected")),
}
WORK = {
    "config.yaml",
    "inputs.json",
    "seconds.json",
    "scenes",
    "iterations",
    "evaluations",
    "metrics.csv",
    "journal",
    "checkpoints",
    "export",
    "report",
}


class Terminal:
    """Starts train.py in a directory of its own, as a user without any key and without a network would.

    Whatever honours a proxy would knock at a local port, where `attempts` counts it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.trap = socket.create_server(("127.0.0.1", 0))
        self.trap.setblocking(False)
        proxy = f"http://127.0.0.1:{self.trap.getsockname()[1]}"
        mine = ("HF_", "WANDB_", "RLAIFV_", "PL_", "COV_")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
        self.environment |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), proxy)
        self.environment |= {"NO_PROXY": "", "no_proxy": "", "OMP_NUM_THREADS": "1", "HOME": str(directory)}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(TRAIN), *arguments],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A command of a background job would be deaf to Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Exit status and output."""
        process = self.start(*arguments)
        try:
            output, _ = process.communicate(timeout=1200)
        finally:
            process.kill()
        return process.returncode, output

    def attempts(self) -> int:
        num = 0
        while True:
            try:
                self.trap.accept()[0].close()
            except BlockingIOError:
                return num
            num += 1


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path_factory.mktemp("terminal"))
    yield terminal
    terminal.trap.close()


@pytest.fixture(scope="module")
def first(terminal: Terminal) -> tuple[Path, str]:
    """A run of two iterations and its output."""
    status, output = terminal.run("run_dir=first", *TWO_ITERATIONS)
    assert status == 0, output
    return terminal.directory / "first", output


def evaluation(run_dir: Path, num_iterations: int) -> dict[str, Any]:
    return json.loads((run_dir / "evaluations" / f"{num_iterations:03d}.json").read_text())


def statistics(run_dir: Path, iteration: int) -> dict[str, float]:
    found = json.loads((run_dir / "iterations" / f"{iteration:03d}" / "statistics.json").read_text())
    return {name: value for name, value in found.items() if not name.startswith("seconds/")}


def metrics(run_dir: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv without times and empty cells."""
    with (run_dir / "metrics.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [{name: text for name, text in row.items() if text and not name.startswith("seconds/")} for row in rows]


def export_digest(run_dir: Path) -> str:
    return hashlib.sha256((run_dir / "export" / "model.safetensors").read_bytes()).hexdigest()


def assert_same_results(run_dir: Path, other: Path) -> None:
    for k in range(3):
        mine, theirs = evaluation(run_dir, k), evaluation(other, k)
        assert mine["metrics"] == theirs["metrics"]
        assert [e["response"] for e in mine["examples"]] == [e["response"] for e in theirs["examples"]]
    assert [statistics(run_dir, k) for k in range(2)] == [statistics(other, k) for k in range(2)]
    assert export_digest(run_dir) == export_digest(other)


def test_last_line_is_the_result(first: tuple[Path, str]) -> None:
    run_dir, output = first
    found = RESULT.fullmatch(output.rstrip().splitlines()[-1])
    assert found, output
    before, after = evaluation(run_dir, 0)["metrics"], evaluation(run_dir, 2)["metrics"]
    names = ("hallucination/response", "hallucination/mention", "coverage")
    assert found.groups() == (*(f"{m[name]:.3f}" for name in names for m in (before, after)), "2", "first")


def test_output_shows_costs_stages_and_iterations(first: tuple[Path, str], terminal: Terminal) -> None:
    _, output = first
    for text in ("language model", "one iteration", "run directory", "╭─ iteration 1 ", "╭─ iteration 2 "):
        assert text in output
    for stage in ("measure", "generate", "divide", "score", "reference", "train 2/2"):
        assert re.search(rf"iteration 2  {stage} +━", output) or re.search(rf"iteration 1  {stage} +━", output)
    assert not re.search("Traceback|Warning|WARNING|error", output)
    assert max(len(line) for line in output.splitlines() if not line.startswith("result:")) <= 100
    assert terminal.attempts() == 0


def test_run_directory_is_complete(first: tuple[Path, str]) -> None:
    run_dir, _ = first
    assert {path.name for path in run_dir.iterdir()} == WORK
    assert sorted(path.name for path in (run_dir / "iterations").iterdir()) == ["000", "001"]
    for iteration in range(2):
        manifest = Manifest(run_dir / "iterations" / f"{iteration:03d}").verified()
        assert manifest.committed
        assert manifest.stages | {"pairs": 0} == {
            "prompts": 1,
            "responses": 2,
            "claims": 2,
            "judgements": 2,
            "pairs": 0,
        }
        assert len(manifest.records("responses")) == 160
        assert len(manifest.records("pairs")) == statistics(run_dir, iteration)["pairs_kept"] > 0
    assert sorted(path.name for path in (run_dir / "evaluations").iterdir()) == ["000.json", "001.json", "002.json"]
    checkpoints = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert len(checkpoints) == 4
    assert all(re.fullmatch(r"step=\d{6}\.ckpt(\.json)?", name) for name in checkpoints)
    assert "</html>" in (run_dir / "report" / "index.html").read_text()
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["iteration"]["num_iterations"] == 2


def test_metrics_are_named_as_in_trl(first: tuple[Path, str]) -> None:
    steps = [row for row in metrics(first[0]) if "loss" in row]
    assert all(set(row) >= {*NAMES_OF_TRL, "step", "epoch", "iteration"} for row in steps)
    assert [int(row["step"]) for row in steps] == list(range(len(steps)))
    assert {(row["iteration"], row["epoch"]) for row in steps} == {
        ("1.0", "0"),
        ("1.0", "1"),
        ("2.0", "2"),
        ("2.0", "3"),
    }
    # At the first step the policy is its own reference.
    assert float(steps[0]["loss"]) == pytest.approx(0.693147, abs=1e-5)
    assert float(steps[0]["rewards/margins"]) == pytest.approx(0, abs=1e-5)
    logged = {name for row in metrics(first[0]) for name in row}
    assert logged >= {"hallucination/response", "labeler/accuracy", "pairs_kept", "rejection_rate"}


def test_export_is_a_trained_model_that_transformers_loads(first: tuple[Path, str]) -> None:
    run_dir, _ = first
    loaded: Any = AutoModelForImageTextToText.from_pretrained(run_dir / "export", output_loading_info=True)
    model, loading = loaded
    assert not any(loading.values())
    processor = AutoProcessor.from_pretrained(run_dir / "export")
    content = [{"type": "image"}, {"type": "text", "text": "Describe the image."}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    image = Image.open(next((run_dir / "scenes").glob("held-out-*.png"))).convert("RGB")
    inputs = processor(text=text, images=image, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=30, do_sample=False)[0, inputs.input_ids.shape[1] :]
    assert len(processor.decode(ids, skip_special_tokens=True).split()) >= 3
    exported, base = load_file(run_dir / "export" / "model.safetensors"), load_file(WEIGHTS_DIR / "model.safetensors")
    assert exported.keys() == base.keys()
    changed = {name for name in base if not exported[name].equal(base[name].to(exported[name].dtype))}
    assert any("language_model" in name for name in changed)
    assert any("projector" in name for name in changed)
    assert not any("vision" in name for name in changed)


def test_same_command_elsewhere_gives_the_same(first: tuple[Path, str], terminal: Terminal) -> None:
    status, output = terminal.run("run_dir=elsewhere/second", *TWO_ITERATIONS)
    assert status == 0, output
    second = terminal.directory / "elsewhere" / "second"
    assert_same_results(second, first[0])
    assert metrics(second) == metrics(first[0])


def test_finished_run_is_left_alone(first: tuple[Path, str], terminal: Terminal) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(first[0].rglob("*"))}
    status, output = terminal.run("resume=first")
    assert (status, output.strip()) == (0, f"{first[0]} is finished; there is nothing left to do.")
    assert {path: path.stat().st_mtime_ns for path in sorted(first[0].rglob("*"))} == before


def stop(process: subprocess.Popen[str], with_signal: signal.Signals, once: Callable[[], object]) -> str:
    """Signal a run as soon as something is so; returns what it printed."""
    deadline = time.monotonic() + 1000
    while not once() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert once()
    process.send_signal(with_signal)
    return process.communicate(timeout=800)[0]


def test_killed_and_stopped_run_ends_as_if_nothing_happened(first: tuple[Path, str], terminal: Terminal) -> None:
    """Killed in generation with a torn checkpoint, preempted there, interrupted in training, then left alone."""
    run_dir = terminal.directory / "killed"
    shard = run_dir / "iterations" / "001" / "responses-00000.parquet"
    process = terminal.start("run_dir=killed", *TWO_ITERATIONS)
    stop(process, signal.SIGKILL, shard.with_suffix(".json").exists)
    assert process.returncode == -signal.SIGKILL
    assert not (run_dir / "export").exists()
    kept = shard.stat().st_mtime_ns
    torn = max((run_dir / "checkpoints").glob("*.ckpt"))
    torn.write_bytes(torn.read_bytes()[:-1000])

    process = terminal.start("resume=killed")
    written = torn.stat().st_mtime_ns  # it is written anew, from the one before it
    output = stop(process, signal.SIGTERM, lambda: torn.stat().st_mtime_ns != written)
    assert process.returncode == 143, output
    assert f"{torn}isdamaged:itsSHA-256is" in "".join(output.split())  # the console breaks lines anywhere
    assert f"python train.py resume={run_dir} goes on from here." in output
    assert "Traceback" not in output
    assert {path.name for path in run_dir.iterdir()}.isdisjoint({".lock", "error.txt"})

    process = terminal.start("resume=killed")
    before = {*(run_dir / "checkpoints").glob("*.ckpt")}
    output = stop(process, signal.SIGINT, lambda: {*(run_dir / "checkpoints").glob("*.ckpt")} - before)
    assert process.returncode == 130, output

    status, output = terminal.run("resume=killed")
    assert status == 0, output
    assert RESULT.fullmatch(output.rstrip().splitlines()[-1])
    assert_same_results(run_dir, first[0])
    assert metrics(run_dir) == metrics(first[0])
    assert shard.stat().st_mtime_ns == kept
    assert {path.name for path in run_dir.iterdir()} == WORK


def test_sweep_makes_a_run_per_value_and_a_table(first: tuple[Path, str], terminal: Terminal) -> None:
    status, output = terminal.run("-m", "run_dir=sweep", "learner.beta=0.2,0.1", *TWO_ITERATIONS)
    assert status == 0, output
    directory = terminal.directory / "sweep"
    assert all({path.name for path in (directory / name).iterdir()} == WORK for name in "01")
    with (directory / "sweep.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["run"], row["overrides"], row["status"]) for row in rows] == [
        ("0", "learner.beta=0.2", "done"),
        ("1", "learner.beta=0.1", "done"),
    ]
    for row in rows:
        before, after = (evaluation(directory / row["run"], k)["metrics"]["hallucination/mention"] for k in (0, 2))
        assert row["hallucination/mention"] == f"{before:.3f} -> {after:.3f}"
    assert export_digest(directory / "0") != export_digest(directory / "1")
    # The second job shares its process with the first one, and yet equals the same run in a process of its own.
    assert_same_results(directory / "1", first[0])
    assert output.rstrip().splitlines()[-1] == "written to sweep/sweep.csv"


def photographs(directory: Path) -> None:
    """Twelve prompts on four large pictures: JPEG files that lie on their side, PNG files with transparency."""
    (directory / "photos").mkdir(parents=True)
    for k, colour in enumerate(("red", "blue")):
        image = Image.new("RGB", (2048, 1536), (180, 170, 160))
        draw = ImageDraw.Draw(image)
        draw.ellipse((300, 300, 900, 900), fill=colour)
        draw.rectangle((1300, 800, 1700, 1200), fill="green")
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter
        image.save(directory / "photos" / f"{k}.jpg", exif=exif)
        clear = Image.new("RGBA", (1500, 1500), (0, 0, 0, 0))
        ImageDraw.Draw(clear).rectangle((500, 500, 1000, 1000), fill=colour)
        clear.save(directory / "photos" / f"{k}.png")
    asked = ("Describe the image.", "What do you see in the picture?", "Décris l'image en détail : <image> ☂")
    names = ("0.jpg", "1.jpg", "0.png", "1.png")
    lines = [json.dumps({"image": f"photos/{name}", "question": question}) for name in names for question in asked]
    (directory / "prompts.jsonl").write_text("\n".join(lines) + "\n")


def test_own_pictures_and_own_model(terminal: Terminal) -> None:
    photographs(terminal.directory / "mine")
    (terminal.directory / "my model").symlink_to(WEIGHTS_DIR)
    own = ("data=files", "data.path=mine/prompts.jsonl", "model.path='my model'", "data.num_held_out=2")
    settings = ("iteration.num_iterations=1", "iteration.min_pairs=1", "iteration.decoding.max_new_tokens=60")
    status, output = terminal.run("run_dir=own", *own, *settings)
    assert status == 0, output
    run_dir = terminal.directory / "own"
    num_pairs = statistics(run_dir, 0)["pairs_kept"]
    assert output.rstrip().splitlines()[-1] == f"result: pairs trained {num_pairs:.0f}, iterations 1, run own"
    assert num_pairs >= 1
    assert statistics(run_dir, 0)["responses"] == 100
    assert "labeler/agreement" not in statistics(run_dir, 0)
    assert {"rejected/response", "rejected/mention"} <= evaluation(run_dir, 1)["metrics"].keys()
    assert not any(name.startswith("hallucination") for name in evaluation(run_dir, 1)["metrics"])
    assert {path.name for path in run_dir.iterdir()} == WORK - {"scenes"} | {"canaries"}
    assert export_digest(run_dir) != hashlib.sha256((WEIGHTS_DIR / "model.safetensors").read_bytes()).hexdigest()
    assert terminal.attempts() == 0


def test_wandb_without_a_key_stays_on_disk(first: tuple[Path, str], terminal: Terminal) -> None:
    settings = (*SMALL, "iteration.num_iterations=1", "iteration.epochs=1")
    status, output = terminal.run("run_dir=tracked", "seed=1", "logger=wandb", *settings)
    assert status == 0, output
    assert "Traceback" not in output
    run_dir = terminal.directory / "tracked"
    assert len(list((run_dir / "wandb").glob("offline-run-*/run-*.wandb"))) == 1
    assert list((run_dir / "wandb").glob("offline-run-*/files/media/table/samples/*.json"))
    assert {path.name for path in run_dir.iterdir()} == WORK | {"wandb"}
    assert {path.name for path in terminal.directory.iterdir()}.isdisjoint({"wandb", "outputs", "lightning_logs"})
    assert terminal.attempts() == 0

    # Another seed: other scenes to train on, the same to measure on.
    scenes, others = ({path.name: path.read_bytes() for path in (d / "scenes").iterdir()} for d in (first[0], run_dir))
    shared = scenes.keys() & others.keys()
    assert sum(scenes[name] != others[name] for name in shared if name.startswith("scene-000")) >= 15
    assert all(scenes[name] == others[name] for name in shared if name.startswith("held-out"))
    assert evaluation(run_dir, 0)["metrics"] == evaluation(first[0], 0)["metrics"]
