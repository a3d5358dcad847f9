"""The audit of a run directory: what is there, and what contradicts itself."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaifv.store.manifest import STAGE_RECORDS, Manifest, audit, audit_run, main
from rlaifv.store.shards import write_shard
from tests.store.iterations import PRODUCER, ROOT, damage, put, records_of, run_iteration


def test_audit_of_a_sound_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for iteration in (0, 1):
        run_iteration(tmp_path, iteration)
    unfinished = Manifest.open(tmp_path, 2, PRODUCER)
    unfinished.plan("prompts", 1)
    unfinished.plan("responses", 3)
    put(unfinished, "prompts", 0)
    put(unfinished, "responses", 1)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "000  committed, 8 of 8 shards, 2 pairs, dropped: 3 tie, 3 truncated, 1 no_claims",
        "001  committed, 8 of 8 shards, 2 pairs, dropped: 3 tie, 3 truncated, 1 no_claims",
        "002  unfinished, 2 of 4 shards, 0 pairs, dropped: 1 truncated",
    ]


def edit(directory: Path, *keys: str, value: Any) -> None:
    """Change one entry of manifest.json."""
    path = directory / "manifest.json"
    index = entry = json.loads(path.read_text())
    for key in keys[:-1]:
        entry = entry[key]
    entry[keys[-1]] = value
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda it: damage(it / "claims-00001.parquet"), "claims-00001.parquet was changed or damaged"),
        (lambda it: (it / "pairs-00000.parquet").unlink(), "pairs-00000.parquet is missing"),
        (lambda it: (it / "claims-00007.parquet").touch(), "claims-00007.parquet is no planned shard"),
        (lambda it: (it / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda it: (it / "manifest.json").unlink(), "manifest.json"),
        (lambda it: edit(it, "committed", value=False), "not committed, though a later iteration"),
        (lambda it: edit(it, "iteration", value=4), "manifest.json belongs to iteration 4"),
        (lambda it: edit(it, "shards", value={}), "committed without claims-00000.parquet"),
        (lambda it: edit(it, "shards", "pairs-00000.parquet", "num_records", value=9), "does not hold 9 records"),
    ],
)
def test_audit_tells_what_is_wrong_with_an_iteration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], Any], message: str
) -> None:
    for iteration in (0, 1):
        run_iteration(tmp_path, iteration)
    harm(tmp_path / "iterations" / "000")
    assert main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("000  ")
    assert any(line.startswith("     wrong: ") and message in line for line in lines[1:-1])
    assert lines[-1].startswith("001  committed")


def put_instead(directory: Path, stage: str, shard: int, records: list[Any]) -> None:
    """Replace a committed shard by other records, as if they had been committed."""
    name = f"{stage}-{shard:05d}.parquet"
    digest = write_shard(directory / name, records, STAGE_RECORDS[stage])
    edit(directory, "shards", name, "sha256", value=digest)
    edit(directory, "shards", name, "num_records", value=len(records))


@pytest.mark.parametrize(
    ("stage", "shard", "records", "message"),
    [
        ("responses", 1, records_of("responses", 0), "'r0' is there more than once among the responses"),
        ("judgements", 1, records_of("judgements", 0), "'r0/0' is there more than once among the judgements"),
        ("prompts", 0, records_of("prompts", 0)[:1], "responses are to prompts that are not there, 'p1' for one"),
        ("responses", 1, [], "claims are of responses that are not there, 'r2' for one"),
        ("judgements", 1, [], "claims were not judged, 'r2/0' for one"),
        ("claims", 1, [], "judgements are of claims that are not there, 'r2/0' for one"),
        ("pairs", 0, [replace(records_of("pairs", 0)[0], rejected_response_id="r1")], "pair 'p0' is not made of two"),
        ("pairs", 0, [replace(records_of("pairs", 0)[0], chosen_response_id="r9")], "pair 'p0' is not made of two"),
    ],
)
def test_audit_tells_which_records_contradict_each_other(
    tmp_path: Path, stage: str, shard: int, records: list[Any], message: str
) -> None:
    """As after a shard is put twice, lost, or brought from another iteration, with a digest that vouches for it."""
    directory = run_iteration(tmp_path).directory
    assert audit(directory)[1] == []
    put_instead(directory, stage, shard, records)
    problems = audit(directory)[1]
    assert any(problem.startswith(f"{directory}: ") and message in problem for problem in problems)


@pytest.mark.parametrize("stage", ["claims", "responses"])
def test_shard_in_the_place_of_another_is_refused(tmp_path: Path, stage: str) -> None:
    directory = run_iteration(tmp_path).directory
    (directory / f"{stage}-00000.parquet").write_bytes((directory / f"{stage}-00001.parquet").read_bytes())
    with pytest.raises(ValueError, match=f"{stage}-00000.parquet was changed or damaged"):
        Manifest(directory).records(stage)
    assert "was changed or damaged" in audit(directory)[1][0]


def test_audit_follows_the_policy_from_one_iteration_to_the_next(tmp_path: Path) -> None:
    for iteration in (0, 1):
        run_iteration(tmp_path, iteration)
    assert [problems for _, _, problems in audit_run(tmp_path)] == [[], []]
    second = tmp_path / "iterations" / "001"
    edit(second, "producer", "policy", value=PRODUCER["policy"])
    edit(second, "producer", "seed", value="8")
    assert [problems for _, _, problems in audit_run(tmp_path)][1] == [
        f"{second / 'manifest.json'} names the policy of the iteration before: nothing was trained between.",
        f"{second / 'manifest.json'} has another seed than the iteration before.",
    ]


def test_audit_of_a_run_with_a_gap_or_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "holds no iterations" in capsys.readouterr().out
    run_iteration(tmp_path, 1)
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[:2] == ["000  missing", "     wrong: A later iteration exists."]


def test_audit_as_a_command(tmp_path: Path) -> None:
    run_iteration(tmp_path)
    command = [sys.executable, "-W", "error", "-m", "rlaifv.store.manifest", str(tmp_path)]
    audited = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (audited.returncode, audited.stderr) == (0, "")
    assert audited.stdout.startswith("000  committed, 8 of 8 shards")
