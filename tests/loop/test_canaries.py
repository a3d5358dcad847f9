"""The canaries beside every shard of judgements."""

import json
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from rlaifv.observers.canaries import Canary, CanarySet
from rlaifv.records import Prompt
from rlaifv.stages.dividers.rules import RulesDivider
from rlaifv.store.iteration import statistics_path
from rlaifv.store.manifest import Manifest, TooFewPairs
from tests.loop.world import SETTINGS, Interrupted, World


def canary_set(least_accuracy: float) -> CanarySet:
    """One picture, four questions, of which the labeler of these tests answers some right."""
    questions = tuple((f"Is it {k}?", k % 2 == 0) for k in range(4))
    return CanarySet([Canary(Prompt("canary", "?", ()), questions)], least_accuracy)


def interrupt(*_: Any) -> None:
    raise Interrupted


def test_a_shard_whose_canaries_fail_is_flagged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.always_yes = True
    world.canaries, world.settings = canary_set(0.75), replace(SETTINGS, min_pairs=1)
    loop = world.loop()
    with pytest.raises(TooFewPairs):  # all claims are accepted
        loop.prepare(0)
    assert [event for event in world.events if "canary" in event] == ["label canary"] * 4
    warnings = [record.getMessage() for record in caplog.records if "canaries" in record.getMessage()]
    assert len(warnings) == 4
    assert "The labeler answers only 0.50 of the canaries right beside" in warnings[1]
    assert "iterations/000/judgements-00000.parquet (labeler.min_canary_accuracy=0.75)" in warnings[1]
    statistics = json.loads(statistics_path(loop.run_dir, 0).read_text())
    assert statistics["labeler/canary_accuracy"] == 0.5
    assert statistics["labeler/flagged_shards"] == 3


def test_canaries_that_pass_change_nothing(
    world: World, whole: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    world.canaries = canary_set(0.0)
    loop = world.loop()
    loop.prepare(0)
    content = world.content()
    statistics = content["iterations/000/statistics.json"]
    assert statistics.pop("labeler/flagged_shards") == 0
    assert 0 <= statistics.pop("labeler/canary_accuracy") <= 1
    assert {name: content.pop(name) for name in [*content] if "canaries" in name}.keys() == {
        "iterations/000/canaries.json",
        *(f"iterations/000/canaries-{k:05d}.json" for k in range(3)),
    }
    assert content == whole
    assert "canaries" not in caplog.text


def test_a_labeler_is_asked_before_anything_is_sampled(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while it samples, an iteration does not ask again; nor does one whose answers are all there."""
    world.always_yes = True

    def put_or_stop(self: Manifest, stage: str, shard: int, *others: Any) -> None:
        put(self, stage, shard, *others)
        if (stage, shard) in (("responses", 0), ("responses", 2)):
            raise Interrupted

    put = Manifest.put
    monkeypatch.setattr(Manifest, "put", put_or_stop)
    for _ in range(2):
        world.canaries = canary_set(0.75)
        loop = world.loop()
        with pytest.raises(Interrupted):
            loop.prepare(0)
    (world.run_dir / "iterations" / "000" / "canaries.json").unlink()
    monkeypatch.setattr(Manifest, "put", put)
    loop = world.loop()
    monkeypatch.setattr(RulesDivider, "divide", interrupt)
    with pytest.raises(Interrupted):
        loop.prepare(0)
    events = [event for event in world.events if not event.startswith("answer")]
    first = events.index("label canary")
    assert all(event.startswith("label h-") for event in events[:first])
    assert any(event.startswith("sample") for event in events[first:])
    assert world.events.count("label canary") == 1
    (warning,) = [record.getMessage() for record in caplog.records if "canaries" in record.getMessage()]
    assert "only 0.50 of the canaries right before the answers of" in warning
    assert "iterations/000 are sampled (labeler.min_canary_accuracy=0.75)" in warning


def test_a_resumed_iteration_knows_what_its_canaries_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shard's are asked once, before its judgements are stored."""
    put = Manifest.put

    def put_or_stop(self: Manifest, stage: str, shard: int, *others: Any) -> None:
        put(self, stage, shard, *others)
        if (stage, shard) == ("judgements", 1):
            raise Interrupted

    monkeypatch.setattr(Manifest, "put", put_or_stop)
    for end in (pytest.raises(Interrupted), nullcontext()):
        world.canaries = canary_set(1.0)
        loop = world.loop()
        with end:
            loop.prepare(0)
        monkeypatch.setattr(Manifest, "put", put)
    assert world.events.count("label canary") == 4
    assert json.loads(statistics_path(loop.run_dir, 0).read_text())["labeler/flagged_shards"] == 3
