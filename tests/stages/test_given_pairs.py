"""Given pairs become iterations that training cannot tell from the loop's own."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaifv.data.datamodule import IterationDataModule
from rlaifv.data.rows_source import RowsSource
from rlaifv.engines.local import LocalEngine
from rlaifv.learners.dpo.batch import PreferenceCollator
from rlaifv.loop import FeedbackLoop
from rlaifv.models.prompting import Prompter
from rlaifv.observers.statistics import GivenPairStatistics
from rlaifv.stages.given_pairs import GivenPairs
from rlaifv.stages.prompts import TakePrompts
from rlaifv.stages.reference import ReferenceLogps
from rlaifv.stages.stage import Task
from rlaifv.store.iteration import statistics_path
from rlaifv.store.manifest import Manifest, TooFewPairs, audit
from tests.data.preferences import CHOSEN, REJECTED, cell, picture, rlaifv_rows, write_parquet


def rows(num: int = 8) -> list[dict[str, Any]]:
    """Prompts with a picture of their own each, the first of which has two pairs."""
    made = [
        rlaifv_rows()[k % 3]
        | {"idx": f"p{k}", "question": f"What is {k}?", "image": cell(picture(f"rgb(9, {9 * k}, 9)"))}
        for k in range(num)
    ]
    return [*made, made[0] | {"idx": "again", "chosen": "Another answer.", "rejected": "A third one."}]


class World:
    """Loops over the same data and model, each in a run directory of its own."""

    def __init__(self, tmp_path: Path, model: Any, prompter: Prompter) -> None:
        self.tmp_path, self.engine = tmp_path, LocalEngine(model, prompter)

    def loop(self, run: str = "run", data: list[dict[str, Any]] | None = None, **options: Any) -> FeedbackLoop:
        path = write_parquet(self.tmp_path / run / "pairs.parquet", data or rows())
        shared: dict[str, Any] = {"num_iterations": 2, "seed": 0, "directory": self.tmp_path / run / "images"}
        source = RowsSource(form="rlaifv", path=str(path), **{**shared, **options})
        stages = [TakePrompts(source, self.engine, 3, 0.5), GivenPairs(source), ReferenceLogps(self.engine)]
        return FeedbackLoop(self.tmp_path / run, stages, 0, 1, 1, [GivenPairStatistics(self.engine)])


@pytest.fixture
def world(tmp_path: Path, model: Any, prompter: Prompter) -> World:
    return World(tmp_path, model, prompter)


def test_pairs_are_the_datas_with_the_policys_own_log_probs(world: World) -> None:
    loop = world.loop()
    manifests = [loop.prepare(k) for k in range(2)]
    taken = [prompt.id for manifest in manifests for prompt in manifest.records("prompts")]
    assert len(taken) == len(set(taken)) == 6
    expected = {row["idx"]: (row["question"], row["chosen"], row["rejected"]) for row in rows()}
    for manifest in manifests:
        prompts = {prompt.id: prompt for prompt in manifest.records("prompts")}
        pairs = manifest.records("pairs")
        own = [row["idx"] for row in rows() if row["question"] in {prompt.question for prompt in prompts.values()}]
        assert sorted(pair.id.partition("/")[2] for pair in pairs) == sorted(own)
        for pair in pairs:
            prompt = prompts[pair.prompt_id]
            assert (prompt.question, pair.chosen, pair.rejected) == expected[pair.id.partition("/")[2]]
            assert pair.chosen_token_ids == world.engine.prompter.completion_ids(prompt, pair.chosen)
            answers = (pair.chosen_token_ids, pair.rejected_token_ids)
            ((chosen, rejected),) = world.engine.completion_logps([(prompt, answers)])
            assert pair.chosen_reference_logps == pytest.approx(chosen, rel=1e-5)
            assert pair.rejected_reference_logps == pytest.approx(rejected, rel=1e-5)
            assert pair.prompt_tokens == world.engine.num_tokens(prompt)
    line, problems = audit(manifests[0].directory, last=False)
    assert (line.startswith("committed"), problems) == (True, [])


def test_the_data_module_serves_them(world: World, prompter: Prompter) -> None:
    loop = world.loop(num_rows=3, num_iterations=1)
    data = IterationDataModule(
        loop.prepare, PreferenceCollator(world.engine), batch_size=2, num_iterations=1, epochs=1, seed=0
    )
    ids = [pair_id for batch in data.train_dataloader() for pair_id in batch.record_ids]
    assert sorted(ids) == ["p0/p0", "p1/p1", "p2/p2"]


def test_interrupted_and_resumed_it_ends_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = world.loop("whole").prepare(0)
    put = Manifest.put
    loop = world.loop("resumed")

    def stop(self: Manifest, stage: str, shard: int, *others: Any) -> None:
        if (stage, shard) == ("pairs", 1):
            raise KeyboardInterrupt
        put(self, stage, shard, *others)

    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "put", stop)
        with pytest.raises(KeyboardInterrupt):
            loop.prepare(0)
    first = Manifest(loop.run_dir / "iterations" / "000").shard_path("pairs", 0)
    written = first.stat().st_mtime_ns
    resumed = world.loop("resumed").prepare(0)
    assert first.stat().st_mtime_ns == written
    assert resumed.records("pairs") == whole.records("pairs")
    assert world.loop("resumed").prepare(0).path.stat().st_mtime_ns == resumed.path.stat().st_mtime_ns


def test_other_data_are_another_iteration(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "commit", lambda self, *arguments: self)
        world.loop().prepare(0)
    changed = rows()
    changed[5]["chosen"] = "Something else."
    with pytest.raises(ValueError, match="the iteration was begun with data '"):
        world.loop(data=changed).prepare(0)


def test_equal_answers_teach_nothing_and_are_counted(world: World) -> None:
    data = rows(3)[:3]
    data[1]["rejected"] = f" {data[1]['chosen']}\n"
    loop = world.loop(data=data, num_iterations=1)
    manifest = loop.prepare(0)
    assert len(manifest.records("pairs")) == 2
    statistics = json.loads(statistics_path(loop.run_dir, 0).read_text())
    assert statistics.pop("seconds/reference") > 0
    words = [sum(len(texts[k % 3].split()) for k in (0, 2)) / 2 for texts in (CHOSEN, REJECTED)]
    assert statistics == {
        "pairs_kept": 2.0,
        "length/chosen_words": words[0],
        "length/rejected_words": words[1],
        "dropped/identical": 1.0,
    }
    loop.min_pairs = 3
    loop.run_dir = world.tmp_path / "strict"
    with pytest.raises(TooFewPairs, match=r"has 2 pairs, fewer than min_pairs=3; dropped: 1 identical\."):
        loop.prepare(0)


def test_conversations_that_the_template_does_not_take_are_dropped(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given: Any = world.loop(num_iterations=1).stages[1]
    first, other, *_ = given.source.prompts(0, 2)
    turns = [replace(first, history=("Who?", "A cat.")), other]
    preferences = [next(pair for pair in given(Task(), [prompt]).records) for prompt in (first, other)]
    stage = ReferenceLogps(world.engine)
    assert len(stage(Task(), turns, preferences).records) == 2
    monkeypatch.setattr(world.engine.prompter.template, "has_history", False)
    made = stage(Task(), turns, preferences)
    assert ([pair.prompt_id for pair in made.records], made.drops) == ([other.id], {"no_history": 1})
    GivenPairStatistics(world.engine)._report(0, 1, Counter(made.drops))
    assert caplog.messages[-1].startswith(
        "Dropped from iteration 0: 1 pair of several turns, which the model's chat template"
    )


def test_pairs_beyond_the_models_positions_are_dropped(world: World, caplog: pytest.LogCaptureFixture) -> None:
    data = rows(3)[:3]
    data[2]["rejected"] = "a ring " * 3000
    data[1]["question"] = "a ring " * 3000
    loop = world.loop(data=data, num_iterations=1)
    manifest = loop.prepare(0)
    assert [pair.id for pair in manifest.records("pairs")] == ["p0/p0"]
    assert json.loads(statistics_path(loop.run_dir, 0).read_text())["dropped/too_long"] == 2
    limit = world.engine.max_positions
    assert [one.getMessage() for one in caplog.records if one.name == "rlaifv.observers.statistics"] == [
        f"Dropped from iteration 0: 2 pairs too long for the model's {limit} positions with the images; shorten the texts, or "
        "give fewer or smaller images."
    ]
    with pytest.raises(
        TooFewPairs, match=rf"^No pair of iteration 0 can be trained on: 3 pairs too long for .*{limit} pos"
    ):
        world.loop("none", data=data[1:], num_iterations=1, reuse_prompts=True).prepare(0)
