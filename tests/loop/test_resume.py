"""The loop interrupted wherever it can be: the next run ends with the same bytes."""

import errno
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlaifv import loop as loop_module
from rlaifv.observers import canaries, held_out
from rlaifv.observers.held_out import evaluation_path
from rlaifv.observers.statistics import FeedbackStatistics
from rlaifv.runtime import ranks
from rlaifv.runtime.stopping import Stopped, stoppable
from rlaifv.store.manifest import Manifest
from tests.loop.world import Interrupted, World


def test_a_damaged_shard_is_noticed(world: World) -> None:
    world.loop().prepare(0)
    shard = world.run_dir / "iterations/000/claims-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"claims-00001\.parquet was changed or damaged"):
        world.loop().prepare(0)


NUM_PUTS = 1 + 3 + 3 + 3 + 2  # prompts, responses, claims, judgements, pairs


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("number", range(NUM_PUTS))
def test_a_run_resumes_after_every_shard(
    world: World, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, number: int, is_written: bool
) -> None:
    """Stopped before or after any shard is put, and so at and between all stages, it ends byte for byte the same.

    No finished shard is made again: each prompt is sampled, labeled and so on once, but for the shard that was lost.
    """
    put, puts = Manifest.put, []

    def put_or_stop(self: Manifest, *arguments: Any) -> None:
        puts.append(arguments[0])
        if len(puts) == number + 1 and not is_written:
            raise Interrupted
        put(self, *arguments)
        if len(puts) == number + 1:
            raise Interrupted

    monkeypatch.setattr(Manifest, "put", put_or_stop)
    with pytest.raises(Interrupted):
        world.loop().prepare(0)
    monkeypatch.setattr(Manifest, "put", put)
    assert world.content() != whole
    world.loop().prepare(0)
    assert world.content() == whole
    again = Counter(world.events[3:])  # the first three measure
    twice = [event for event, count in again.items() if count > 1]
    assert max(again.values()) <= 2
    assert len(twice) == (0 if is_written or puts[-1] in ("prompts", "claims") else 1)
    assert world.events.count("answer h-0 h-1") == 1


@pytest.mark.parametrize(
    ("call", "number"),
    [("answer", 0), ("label", 0), ("label", 1), ("sample", 0), ("sample", 2), ("label", 3), ("reference", 1)],
)
def test_a_run_resumes_after_a_model_failed(world: World, whole: dict[str, Any], call: str, number: int) -> None:
    loop = world.loop()

    class Failing(list[str]):
        def append(self, event: str) -> None:
            super().append(event)
            if [other.split()[0] for other in self].count(call) == number + 1:
                raise Interrupted(event)

    world.policy.events = world.labeler.events = Failing()
    with pytest.raises(Interrupted, match=call):
        loop.prepare(0)
    world.loop().prepare(0)
    assert world.content() == whole


@pytest.mark.parametrize("stage", ["responses", "claims", "judgements", "pairs"])
def test_a_signal_is_honoured_between_two_shards_of_any_stage(
    world: World, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """The shard in work is finished and kept, none is begun after it, and the next run ends with the same bytes."""
    put = Manifest.put

    def put_and_signal(self: Manifest, name: str, shard: int, *others: Any) -> None:
        if name == stage:
            os.kill(os.getpid(), signal.SIGTERM)
        put(self, name, shard, *others)

    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "put", put_and_signal)
        with stoppable(), pytest.raises(Stopped):
            world.loop().prepare(0)
    shards = Manifest(world.run_dir / "iterations/000").shards(stage)
    assert [shard is not None for shard in shards] == [True] + [False] * (len(shards) - 1)
    world.events.clear()
    world.loop().prepare(0)
    assert world.content() == whole


def test_a_signal_is_honoured_while_the_policy_is_measured(world: World, whole: dict[str, Any]) -> None:
    loop = world.loop()
    sample = world.policy.sample

    def sample_and_signal(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)
        return sample(*arguments)

    world.policy.sample = sample_and_signal
    with stoppable(), pytest.raises(Stopped):
        loop.prepare(0)
    assert not evaluation_path(loop.run_dir, 0).exists()
    world.loop().prepare(0)
    assert world.content() == whole


@pytest.mark.parametrize("stage", ["responses", "claims", "judgements", "pairs"])
def test_a_disk_that_is_nearly_full_stops_the_run_before_the_next_shard(
    world: World, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """With room again, the run ends with the same bytes; without the floor it would have written on."""
    full, put = [False], Manifest.put

    def put_and_fill(self: Manifest, name: str, shard: int, *others: Any) -> None:
        assert not full[0], "a shard was begun without room for it"
        put(self, name, shard, *others)
        full[0] = name == stage

    loop = world.loop()
    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "put", put_and_fill)
        patched.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10 if full[0] else 10**9))
        loop.min_free_bytes = 10**6
        with pytest.raises(OSError, match="has 10 bytes left, fewer than min_free_bytes=1,000,000"):
            loop.prepare(0)
        loop.min_free_bytes = 0
        with pytest.raises(AssertionError, match="without room"):
            loop.prepare(0)
    world.loop().prepare(0)
    assert world.content() == whole


@pytest.mark.parametrize("stage", ["responses", "claims", "judgements", "pairs"])
def test_a_full_disk_costs_the_shard_in_work(
    world: World, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def no_space(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        put = Manifest.put

        def put_without_space(self: Manifest, name: str, shard: int, *others: Any) -> None:
            if (name, shard) == (stage, 1):
                patched.setattr(Path, "write_bytes", no_space)
            put(self, name, shard, *others)

        patched.setattr(Manifest, "put", put_without_space)
        with pytest.raises(OSError, match=rf"Cannot write .*{stage}-00001.parquet: No space left on device"):
            world.loop().prepare(0)
    assert not Manifest(world.run_dir / "iterations/000").committed
    assert not list(world.run_dir.rglob("*.tmp"))
    world.loop().prepare(0)
    assert world.content() == whole


@pytest.mark.parametrize("where", ["statistics", "commit", "after_commit"])
def test_a_run_resumes_around_the_commit(
    world: World, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Also a run that stops right after its commit has left its statistics."""
    commit = Manifest.commit

    def stop(*arguments: Any) -> None:
        if where == "after_commit":
            commit(*arguments)
        raise Interrupted

    with monkeypatch.context() as patched:
        owner = FeedbackStatistics if where == "statistics" else Manifest
        patched.setattr(owner, "commit" if where == "after_commit" else where, stop)
        with pytest.raises(Interrupted):
            world.loop().prepare(0)
    world.loop().prepare(0)
    assert world.content() == whole


@pytest.mark.parametrize(
    "lost",
    [
        ("responses-00001",),
        ("claims-00000", "claims-00002"),
        ("judgements-00002",),
        ("pairs-00000",),
        ("prompts-00000",),
        ("responses-00000", "claims-00001", "judgements-00002", "pairs-00001"),
    ],
)
def test_lost_shards_are_made_again_as_they_were(world: World, whole: dict[str, Any], lost: Sequence[str]) -> None:
    """As the manifest's documentation says: delete what is damaged and the manifest, and the next run makes it again."""
    world.loop().prepare(0)
    directory = world.run_dir / "iterations/000"
    for name in (*(f"{shard}.parquet" for shard in lost), "manifest.json"):
        (directory / name).unlink()
    world.events.clear()
    world.loop().prepare(0)
    assert world.content() == whole
    models = {"responses": "sample", "judgements": "label", "pairs": "reference"}
    called = Counter(event.split()[0] for event in world.events)
    assert called == Counter(models[name[:-6]] for name in lost if name[:-6] in models)


def test_two_ranks_write_what_one_does(world: World, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks as threads: each does its share of the shards, and what is on disk does not tell how many there were."""
    local = threading.local()
    for module in (loop_module, ranks, held_out, canaries):
        monkeypatch.setattr(module, "rank", lambda: local.rank)
    for module in (loop_module, ranks):
        monkeypatch.setattr(module, "world_size", lambda: 2)
    worlds = [World(world.run_dir) for _ in range(2)]
    errors: list[BaseException] = []

    def work(rank: int) -> None:
        local.rank = rank
        try:
            worlds[rank].loop().prepare(0)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert world.content() == whole
    sampled = [[event for event in one.events if event.startswith("sample")] for one in worlds]
    assert sampled == [["sample 0-0 0-1", "sample 0-4 0-5"], ["sample 0-2 0-3"]]


def test_another_policy_does_not_go_on_with_what_was_begun(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "commit", lambda *arguments: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            world.loop().prepare(0)
    loop = world.loop()
    torch.nn.init.constant_(world.policy.model.weight, 2.0)
    with pytest.raises(ValueError, match="the iteration was begun with policy"):
        loop.prepare(0)
