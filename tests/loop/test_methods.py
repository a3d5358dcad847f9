"""Methods other than RLAIF-V: the loop runs any list of stages."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlaifv.loop import FeedbackLoop
from rlaifv.observers.observer import Observer
from rlaifv.records import Prompt
from rlaifv.stages.generate import Generate
from rlaifv.stages.prompts import TakePrompts
from rlaifv.stages.stage import Made, Stage, Task
from rlaifv.store.iteration import Iteration
from rlaifv.store.manifest import Manifest, TooFewPairs
from tests.loop.world import DECODING, FakePolicy, FakeSource, Interrupted


class Longest(Stage):
    """Keeps the longest response to each prompt, as a method without pairs might."""

    name = "choose"
    reads = ("prompts", "responses")
    writes = "demonstrations"

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def __call__(self, task: Task, prompts: Sequence[Prompt], responses: Sequence[Any]) -> Made:
        self.tasks.append(task)
        task.advance(len(prompts))
        own = [[one for one in responses if one.prompt_id == prompt.id] for prompt in prompts]
        assert sum(map(len, own)) == len(responses)
        return Made([max(some, key=lambda one: len(one.text)) for some in own], {"shorter": len(responses) - len(own)})


class BestOfAll(Stage):
    """Keeps the longest response of the whole iteration: a stored stage that is called once."""

    name = "best"
    reads = ("responses",)
    writes = "demonstrations"
    unit = "iteration"

    def __init__(self) -> None:
        self.drops: dict[str, int] = {}

    def __call__(self, task: Task, responses: Sequence[Any]) -> Made:
        self.drops = dict(task.drops)
        return Made([max(responses, key=lambda one: len(one.text))])


class Notes(Observer):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_start(self, work: Iteration) -> None:
        self.seen.append(len(work.records("prompts")))

    def on_shard(self, work: Iteration, stage: Stage, shard: int) -> None:
        self.seen.append((stage.name, shard))

    def statistics(self, work: Iteration) -> dict[str, float]:
        return {"kept": len(work.records("demonstrations")), **work.drops("demonstrations")}


@pytest.fixture
def with_demonstrations(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlaifv.records import Response
    from rlaifv.store import manifest

    tables = {"prompts": Prompt, "responses": Response, "demonstrations": Response}
    monkeypatch.setattr(manifest, "STAGE_RECORDS", tables)


def make(run_dir: Path, min_records: int = 1) -> tuple[FeedbackLoop, Longest, Notes]:
    policy: Any = FakePolicy([])
    chosen, notes = Longest(), Notes()
    stages = [TakePrompts(FakeSource(), policy, 5, 0.0), Generate(policy, 3, DECODING), chosen]
    return FeedbackLoop(run_dir, stages, 7, 2, min_records, [notes]), chosen, notes


@pytest.mark.usefixtures("with_demonstrations")
def test_a_method_without_pairs_is_run_stored_and_committed(tmp_path: Path) -> None:
    loop, chosen, notes = make(tmp_path)
    manifest = loop.prepare(0)
    assert manifest.stages == {"prompts": 1, "responses": 3, "demonstrations": 3}
    kept = manifest.records("demonstrations")
    assert [one.prompt_id for one in kept] == [f"0-{k}" for k in range(5)]
    by_prompt = {one.prompt_id: one for one in kept}
    assert all(len(one.text) <= len(by_prompt[one.prompt_id].text) for one in manifest.records("responses"))
    assert notes.seen == [("prompts", 0), 5, *(("generate", k) for k in range(3)), *(("choose", k) for k in range(3))]
    statistics = json.loads((tmp_path / "iterations/000/statistics.json").read_text())
    assert (statistics["kept"], statistics["shorter"]) == (5, 10)
    assert len({task.seed for task in chosen.tasks}) == 1
    loop.prepare(1)
    assert len({task.seed for task in chosen.tasks}) == 2


@pytest.mark.usefixtures("with_demonstrations")
def test_what_is_trained_on_is_counted_before_the_commit(tmp_path: Path) -> None:
    with pytest.raises(TooFewPairs, match="has 5 demonstrations, fewer than min_pairs=6; dropped: 10 shorter"):
        make(tmp_path, 6)[0].prepare(0)


@pytest.mark.usefixtures("with_demonstrations")
def test_an_unfinished_iteration_is_refused_when_a_stage_depends_on_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "commit", stop)
        with pytest.raises(Interrupted):
            make(tmp_path)[0].prepare(0)
    loop, chosen, _ = make(tmp_path)
    monkeypatch.setattr(Longest, "producer", lambda self: {"choice": "shortest"})
    with pytest.raises(ValueError, match="the iteration was begun with choice None, but now it is 'shortest'"):
        loop.prepare(0)
    assert chosen.tasks == []


@pytest.mark.usefixtures("with_demonstrations")
def test_a_stage_over_the_whole_iteration_sees_all_records_and_what_was_dropped(tmp_path: Path) -> None:
    loop, _, _ = make(tmp_path)
    best = BestOfAll()
    loop.stages = [*loop.stages[:-1], best]
    manifest = loop.prepare(0)
    assert manifest.stages == {"prompts": 1, "responses": 3, "demonstrations": 1}
    (kept,) = manifest.records("demonstrations")
    assert len(kept.text) == max(len(one.text) for one in manifest.records("responses"))
    assert best.drops == manifest.drops


def test_a_method_whose_last_stage_stores_nothing_is_refused(tmp_path: Path) -> None:
    class Unstored(Longest):
        unit = "iteration"
        is_stored = False

    with pytest.raises(ValueError, match="The last stage, 'choose', makes what is trained on and has to be stored"):
        FeedbackLoop(tmp_path, [TakePrompts(FakeSource(), FakePolicy([]), 5, 0.0), Unstored()], 7, 2, 1)


def test_a_stage_that_stores_nothing_is_called_once_per_iteration() -> None:
    with pytest.raises(TypeError, match="Hasty stores nothing, so its unit has to be the iteration, not 'prompts'"):
        type("Hasty", (Longest,), {"is_stored": False})


def test_stages_and_their_tables_fit_together() -> None:
    """What the published methods read is made before, by the stages that are listed."""
    from rlaifv.app.checks import _is_own_class
    from rlaifv.store.manifest import STAGE_RECORDS
    from tests.settings import ROOT, composed

    paths = sorted((ROOT / "configs/method").glob("*.yaml"))
    assert len(paths) >= 4
    for path in paths:
        made: set[str] = set()
        nodes: Any = composed(f"method={path.stem}").method.stages
        for node in nodes.values():
            assert _is_own_class(node._target_)
            module, _, name = node._target_.rpartition(".")
            stage = getattr(__import__(module, fromlist=[name]), name)
            assert {*stage.reads} <= made, (path.name, stage.name)
            assert stage.unit in {"iteration", *made}
            assert not stage.is_stored or stage.writes in STAGE_RECORDS
            made.add(stage.writes)
