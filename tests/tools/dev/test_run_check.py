"""The check of a run against an uninterrupted one: equal runs pass, and every difference has its sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlaifv.records import Claim, Judgement, Pair, Prompt, Response
from rlaifv.store.manifest import Manifest
from tools.dev.run_check import check_pairs, check_run


def make_run(run_dir: Path, policy: str = "b", text: str = "A ball.") -> Path:
    """What a finished run leaves, as far as it is checked: two iterations of two responses, a tie and a truncated one."""
    for iteration, digest in enumerate(("a", policy)):
        manifest = Manifest.open(run_dir, iteration, {"policy": digest, "seed": "0"})
        records: dict[str, list[Any]] = {
            "prompts": [Prompt("p", "What is shown?", (str(run_dir / "scenes" / "p.png"),))],
            "responses": [Response(f"p/{k}", "p", f"{text} {k}", (5, k, 2), k < 3, k) for k in range(4)],
            "claims": [Claim(f"p/{k}/0", f"p/{k}", "p", text, "Is there a ball?") for k in range(3)],
            "judgements": [
                Judgement(f"p/{k}/0", f"p/{k}", "p", 0.5, 0.5, "rejected" if k else "accepted") for k in range(3)
            ],
            "pairs": [
                Pair(f"0>{k}", "p", "p/0", f"p/{k}", text, text, (5, 0, 2), (5, k, 2), 0.0, -1.0) for k in (1, 2)
            ],
        }
        for stage, some in records.items():
            manifest.plan(stage, 1)
            manifest.put(stage, 0, some, {"tie": 1, "truncated": 1} if stage == "pairs" else {})
        manifest.commit(1)
    for name, content in {
        "journal/rank-000.jsonl": '{"step": 0, "pairs": ["0>1"]}\n{"step": 1, "pairs": ["0>2"]}\n',
        "export/model.safetensors": "weights",
        "metrics.csv": "step,loss,coverage\n0,0.69,\n0,,0.5\n1,0.61,\n",
        "report/index.html": "<html></html>",
    }.items():
        (run_dir / name).parent.mkdir(exist_ok=True)
        (run_dir / name).write_text(content)
    return run_dir


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("oracle") / "run")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "another" / "run")


def test_equal_runs_in_different_places_are_equal(run_dir: Path, oracle: Path) -> None:
    assert check_run(run_dir, oracle) == []
    assert check_pairs(run_dir, oracle) == []


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def count_more(run_dir: Path, reason: str) -> None:
    path = run_dir / "iterations" / "000" / "manifest.json"
    index = json.loads(path.read_text())
    index["shards"]["pairs-00000.parquet"]["drops"][reason] += 1
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda run: edit(run / "journal" / "rank-000.jsonl", '"0>1"', '"0>2"'), "journal/rank-000.jsonl is another"),
        (lambda run: (run / "journal" / "rank-000.jsonl").unlink(), "journal/rank-000.jsonl is another"),
        (lambda run: edit(run / "export" / "model.safetensors", "w", "W"), "export/model.safetensors is another"),
        (lambda run: edit(run / "metrics.csv", "1,0.61,\n", "1,0.61,\n1,0.61,\n"), "metrics.csv does not hold"),
        (lambda run: (run / "report" / "index.html").unlink(), "The report is missing"),
        (lambda run: (run / "iterations" / "000" / ".a.json.1-00.tmp").touch(), "1 unfinished files were left behind"),
        (lambda run: shutil.rmtree(run / "iterations" / "001"), "has other iterations than 000, 001"),
        (lambda run: (run / "iterations" / "000" / "claims-00000.parquet").write_text("?"), "was changed or damaged"),
        (lambda run: count_more(run, "tie"), "2 kept and 2 dropped pairs are not 3"),
        (lambda run: count_more(run, "truncated"), "3 usable and 2 dropped responses are not 4"),
    ],
)
def test_every_difference_is_told(run_dir: Path, oracle: Path, harm: Callable[[Path], Any], message: str) -> None:
    harm(run_dir)
    problems = check_run(run_dir, oracle)
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize("difference", [{"policy": "c"}, {"text": "A cat."}])
def test_other_producers_and_other_records_are_told(tmp_path: Path, oracle: Path, difference: dict[str, str]) -> None:
    problems = check_run(make_run(tmp_path / "run", **difference), oracle)
    assert "iterations/001 holds other shards, or drops, or was made by another producer." in problems
    first = ["iterations/000 holds other shards, or drops, or was made by another producer."]
    assert check_pairs(tmp_path / "run", oracle) == (first if "text" in difference else [])
