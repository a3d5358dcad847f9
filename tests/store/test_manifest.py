"""The manifest: work is found again after any failure, and final, under its digest, after the commit."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlaifv.records import Claim
from rlaifv.store.manifest import STAGE_RECORDS, Manifest, TooFewPairs
from rlaifv.store.shards import read_shard
from tests.store.iterations import NUM_SHARDS, PRODUCER, ROOT, contents, damage, put, records_of, run_iteration

WRITER = """
import sys, time
from pathlib import Path
from rlaifv.records import Pair, Prompt
from rlaifv.store.manifest import Manifest
run_dir, rank, num_shards = Path(sys.argv[1]), int(sys.argv[2]), 6
manifest = Manifest.open(run_dir, 0, {"seed": "7"})
manifest.plan("prompts", num_shards)
manifest.plan("pairs", num_shards)
for shard in range(rank, num_shards, 2):
    manifest.put("prompts", shard, [Prompt(f"p{shard}", "What is shown?", ())])
    manifest.put("pairs", shard, [Pair(f"p{shard}", "p", "0", "1", "a", "b", (1,), (2,), 0.0, -1.0)], {"tie": shard})
deadline = time.monotonic() + 60
while manifest.missing("prompts") or manifest.missing("pairs"):
    assert time.monotonic() < deadline
    time.sleep(0.01)
manifest.commit(num_shards)
"""


def test_iteration_is_planned_put_and_committed(tmp_path: Path) -> None:
    manifest, other = (Manifest.open(tmp_path, 3, PRODUCER) for _ in range(2))
    assert manifest.directory == tmp_path / "iterations" / "003"
    assert manifest.stages == {}
    manifest.plan("responses", 2)
    manifest.plan("pairs", 1)
    assert manifest.missing("responses") == [0, 1]
    put(manifest, "responses", 1)
    assert manifest.missing("responses") == [0]
    assert manifest.read("responses", 1) == records_of("responses", 1)
    with pytest.raises(ValueError, match=r"003: of stage 'responses', shards \[0\] are not done yet"):
        manifest.records("responses")
    with pytest.raises(ValueError, match=r"shards \[0\] are not done yet"):
        manifest.commit(1)
    put(other, "responses", 0)
    put(other, "pairs", 0)
    assert not manifest.committed
    assert manifest.commit(2) is manifest
    assert manifest.committed
    assert other.committed
    assert manifest.missing("responses") == []
    assert manifest.records("responses") == records_of("responses", 0) + records_of("responses", 1)
    assert manifest.drops == {"tie": 3, "truncated": 3}
    assert list(manifest.drops) == ["tie", "truncated"]


def test_every_stage_keeps_its_records(tmp_path: Path) -> None:
    manifest = run_iteration(tmp_path)
    assert list(manifest.stages.items()) == list(NUM_SHARDS.items())
    for stage, num_shards in NUM_SHARDS.items():
        expected = [record for shard in range(num_shards) for record in records_of(stage, shard)]
        assert manifest.records(stage) == expected
        assert {type(record) for record in expected} == {STAGE_RECORDS[stage]}


def test_committed_manifest_is_enough_to_read_and_check_the_shards(tmp_path: Path) -> None:
    manifest = run_iteration(tmp_path)
    stored = json.loads(manifest.path.read_text())
    assert list(stored.values())[:4] == [0, PRODUCER, True, NUM_SHARDS]
    assert list(stored["shards"])[:2] == ["prompts-00000.parquet", "responses-00000.parquet"]
    entry = stored["shards"]["claims-00001.parquet"]
    assert entry["drops"] == {"no_claims": 1}
    assert len(read_shard(manifest.directory / "claims-00001.parquet", Claim, entry["sha256"])) == entry["num_records"]
    for path in manifest.directory.glob("*-*.json"):
        path.unlink()
    assert Manifest.open(tmp_path, 0, PRODUCER).verified().records("pairs") == records_of("pairs", 0)


def test_second_run_of_a_committed_iteration_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(run_iteration(tmp_path).directory)

    def refuse(source: Path, target: Path) -> None:
        raise AssertionError("nothing is to be written")

    monkeypatch.setattr(os, "replace", refuse)
    assert run_iteration(tmp_path).commit(1).committed
    assert contents(tmp_path / "iterations" / "000") == before


@pytest.mark.parametrize(
    ("producer", "message"),
    [
        ({"policy": "sha256:cd", "seed": "7"}, "policy 'sha256:ab', but now it is 'sha256:cd'"),
        ({"policy": "sha256:ab"}, "seed '7', but now it is None"),
        ({**PRODUCER, "config": "x"}, "config None, but now it is 'x'"),
    ],
)
@pytest.mark.parametrize("committed", [False, True])
def test_other_producer_is_refused(tmp_path: Path, producer: dict[str, str], message: str, committed: bool) -> None:
    if committed:
        run_iteration(tmp_path)
    Manifest.open(tmp_path, 0, PRODUCER)
    with pytest.raises(ValueError, match=f"manifest.json: .* {message}"):
        Manifest.open(tmp_path, 0, producer)
    assert Manifest.open(tmp_path, 0, dict(reversed(PRODUCER.items()))).committed is committed
    assert not Manifest.open(tmp_path, 1, producer).committed


def test_plan_is_fixed(tmp_path: Path) -> None:
    manifest = Manifest.open(tmp_path, 0, PRODUCER)
    manifest.plan("claims", 2)
    manifest.plan("claims", 2)
    with pytest.raises(ValueError, match="stage 'claims' has 2 shards planned, not 3"):
        Manifest.open(tmp_path, 0, PRODUCER).plan("claims", 3)
    with pytest.raises(ValueError, match="'answers' is not a stage; there are prompts, routes, responses"):
        manifest.plan("answers", 1)
    with pytest.raises(ValueError, match="'pairs' needs at least one shard, not 0"):
        manifest.plan("pairs", 0)
    assert manifest.stages == {"claims": 2}
    with pytest.raises(ValueError, match="stage 'pairs' is not planned"):
        manifest.missing("pairs")
    manifest.plan("pairs", 1)
    for stage, shard in (("claims", 0), ("claims", 1), ("pairs", 0)):
        put(manifest, stage, shard)
    before = contents(manifest.commit(1).directory)
    with pytest.raises(ValueError, match="stage 'prompts' has 0 shards planned, not 1"):
        manifest.plan("prompts", 1)
    assert contents(manifest.directory) == before


def test_put_refuses_what_is_not_planned_done_or_of_another_class(tmp_path: Path) -> None:
    manifest = Manifest.open(tmp_path, 0, PRODUCER)
    manifest.plan("claims", 2)
    for stage, shard in (("claims", 2), ("claims", -1), ("pairs", 0)):
        with pytest.raises(ValueError, match=rf"{stage}-.*\.parquet is not planned"):
            put(manifest, stage, shard)
    with pytest.raises(ValueError, match=r"claims-00000\.parquet: record 0 is a Prompt, not a Claim"):
        manifest.put("claims", 0, records_of("prompts", 0))
    with pytest.raises(ValueError, match=r"claims-00000\.parquet is not done yet"):
        manifest.read("claims", 0)
    put(manifest, "claims", 0)
    with pytest.raises(ValueError, match=r"claims-00000\.parquet is already done"):
        put(manifest, "claims", 0)
    committed = run_iteration(tmp_path, 1)
    committed.shard_path("claims", 0).unlink()
    with pytest.raises(ValueError, match=r"claims-00000\.parquet is already done"):
        put(committed, "claims", 0)


def test_too_few_pairs_are_refused_with_reasons_and_nothing_is_lost(tmp_path: Path) -> None:
    manifest = Manifest.open(tmp_path, 0, PRODUCER)
    manifest.plan("pairs", 2)
    manifest.put("pairs", 0, records_of("pairs", 0), {"tie": 2, "identical": 4})
    manifest.put("pairs", 1, [], {"tie": 3})
    with pytest.raises(TooFewPairs, match="000 has 2 pairs, fewer than min_pairs=3; dropped: 5 tie, 4 identical"):
        manifest.commit(3)
    assert not manifest.committed
    assert manifest.commit(2).committed
    with pytest.raises(TooFewPairs):
        manifest.commit(3)


def test_iteration_without_pairs_is_never_committed(tmp_path: Path) -> None:
    manifest = Manifest.open(tmp_path, 0, PRODUCER)
    with pytest.raises(TooFewPairs, match="has 0 pairs, fewer than min_pairs=1; dropped: none"):
        manifest.commit(1)
    with pytest.raises(ValueError, match="min_pairs is 0"):
        manifest.commit(0)
    assert not manifest.committed


def test_commit_and_read_refuse_a_damaged_shard(tmp_path: Path) -> None:
    manifest = Manifest.open(tmp_path, 0, PRODUCER)
    manifest.plan("pairs", 1)
    put(manifest, "pairs", 0)
    damage(manifest.shard_path("pairs", 0))
    for use in (lambda: manifest.commit(1), lambda: manifest.read("pairs", 0), lambda: manifest.records("pairs")):
        with pytest.raises(ValueError, match=r"pairs-00000\.parquet was changed or damaged"):
            use()
    assert not manifest.committed


@pytest.mark.parametrize("lost", [False, True])
def test_damaged_shard_is_named_and_made_again_as_it_was(tmp_path: Path, lost: bool) -> None:
    directory = run_iteration(tmp_path).directory
    before = contents(directory)
    path = directory / "claims-00001.parquet"
    if lost:
        path.unlink()
    else:
        damage(path)
    with pytest.raises(ValueError, match=rf"{path} .* Delete claims-00001\.parquet and manifest\.json"):
        run_iteration(tmp_path)
    path.unlink(missing_ok=True)
    (directory / "manifest.json").unlink()
    assert Manifest.open(tmp_path, 0, PRODUCER).missing("responses") == []
    assert Manifest.open(tmp_path, 0, PRODUCER).missing("claims") == [1]
    run_iteration(tmp_path)
    assert contents(directory) == before


@pytest.mark.parametrize("name", ["manifest.json", "plan-claims.json", "claims-00000.json"])
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"unknown": 1}', "null"])
def test_damaged_index_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    manifest = Manifest.open(tmp_path, 0, PRODUCER)
    manifest.plan("claims", 1)
    put(manifest, "claims", 0)
    (manifest.directory / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} is damaged, or not a file of this kind"):
        manifest.missing("claims")


def test_failure_of_any_sync_or_rename_loses_at_most_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = contents(run_iteration(tmp_path / "whole").directory)
    steps: list[str] = []
    failing_step = 0

    def counted(function: Callable[..., Any]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            steps.append(function.__name__)
            if len(steps) == failing_step:
                raise OSError(28, "No space left on device")
            function(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", counted(os.fstat))  # which takes less time
    monkeypatch.setattr(os, "replace", counted(os.replace))
    run_iteration(tmp_path / "counted")
    # Three for every file (manifest.json twice, plans, shards, sidecars), and one for every new directory.
    assert len(steps) == 3 * (2 + 5 + 8 + 8) + 3
    for failing_step in range(1, len(steps) + 1):
        run_dir = tmp_path / str(failing_step)
        steps.clear()
        with pytest.raises(OSError, match=f"Cannot write {run_dir}.*: No space left on device"):
            run_iteration(run_dir)
        found = {path: path.stat().st_ino for path in run_dir.glob("iterations/000/*.parquet")}
        assert not list(run_dir.glob("iterations/000/.*"))
        assert contents(run_iteration(run_dir).directory) == expected
        assert sum(path.stat().st_ino != inode for path, inode in found.items()) <= 1


def test_sidecar_that_outlived_its_shard_does_not_vouch_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest.open(tmp_path, 0, PRODUCER)
    manifest.plan("claims", 1)
    put(manifest, "claims", 0)
    manifest.shard_path("claims", 0).unlink()

    def refuse(path: Path, value: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlaifv.store.manifest.write_json", refuse)
    with pytest.raises(KeyboardInterrupt):
        manifest.put("claims", 0, records_of("claims", 5))
    assert manifest.shard_path("claims", 0).exists()
    assert manifest.missing("claims") == [0]


def test_commit_removes_what_killed_writers_left(tmp_path: Path) -> None:
    manifest = Manifest.open(tmp_path, 0, PRODUCER)
    (manifest.directory / ".pairs-00000.parquet.123-00ff.tmp").write_bytes(b"PAR1")
    run_iteration(tmp_path)
    assert not list(manifest.directory.glob(".*"))


def test_two_processes_share_an_iteration(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", WRITER, str(tmp_path), rank] for rank in ("0", "1")]
    writers = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for command in commands]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    manifest = Manifest.open(tmp_path, 0, {"seed": "7"})
    assert manifest.committed
    for stage in ("prompts", "pairs"):
        assert [record.id for record in manifest.verified().records(stage)] == ["p0", "p1", "p2", "p3", "p4", "p5"]
    assert manifest.drops == {"tie": 15}
    assert len(contents(manifest.directory)) == 1 + 2 + 12 + 12
