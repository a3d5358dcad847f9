"""Which part of each table a shard is made from."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from rlaifv.records import Pair, Prompt, Response
from rlaifv.store.iteration import Iteration
from rlaifv.store.manifest import Manifest

PROMPTS = [Prompt(f"p{k}", "What?", ()) for k in range(5)]
RESPONSES = [Response(f"p{k}/0", f"p{k}", "Yes.", (1,), True, 0) for k in range(5)]


@pytest.fixture
def work(tmp_path: Path) -> Iteration:
    """Five prompts in shards of two, with a response each."""
    iteration = Iteration(0, Manifest.open(tmp_path, 0, {"seed": "0"}))
    for table, num_shards in (("prompts", 1), ("responses", 3)):
        iteration.manifest.plan(table, num_shards)
    iteration.manifest.put("prompts", 0, PROMPTS, {"incomplete": 2})
    for k in range(3):
        iteration.manifest.put("responses", k, RESPONSES[2 * k : 2 * k + 2], {"lost": k})
    iteration.units |= {"prompts": "iteration", "responses": "prompts"}
    return iteration


def pair(prompt_id: str) -> Pair:
    return Pair(f"{prompt_id}/+", prompt_id, "a", "b", "A.", "B.", (), (), 0.0, -1.0)


def test_a_table_is_cut_into_shards_of_at_most_so_many(work: Iteration) -> None:
    assert [len(shard) for shard in work.shards_of("prompts", 2)] == [2, 2, 1]
    work.keep("preferences", SimpleNamespace(records=[], drops={}))
    assert work.shards_of("preferences", 2) == [[]]


def test_a_shard_gets_its_slice_and_what_was_made_of_it(work: Iteration) -> None:
    """Responses were made of the same slices of prompts, so a shard has its own; preferences were not, and come whole."""
    preferences = [pair("p4"), pair("p0")]
    work.keep("preferences", SimpleNamespace(records=preferences, drops={}))
    shards = work.shards_of("prompts", 2)
    found = work.inputs(("prompts", "responses", "preferences"), "prompts", 1, shards[1])
    assert found == [PROMPTS[2:4], RESPONSES[2:4], preferences]


def test_prompts_of_another_unit_are_those_that_it_belongs_to(work: Iteration) -> None:
    work.keep("preferences", SimpleNamespace(records=[pair("p4"), pair("p0"), pair("p4")], drops={}))
    (shard,) = work.shards_of("preferences", 9)
    prompts, units = work.inputs(("prompts", "preferences"), "preferences", 0, shard)
    assert ([prompt.id for prompt in prompts], units) == (["p4", "p0"], shard)


def test_drops_are_counted_over_all_shards_and_those_in_memory_once(work: Iteration) -> None:
    assert (work.drops("prompts"), work.drops("responses")) == ({"incomplete": 2}, {"lost": 3})
    work.keep("preferences", SimpleNamespace(records=[], drops={"tie": 4}))
    assert work.drops("preferences") == {"tie": 4}
    assert [work.unstored_drops("preferences", k) for k in (0, 1)] == [{"tie": 4}, {}]
    assert work.unstored_drops("prompts", 0) == {}


def test_a_whole_table_is_read_from_disk_once(work: Iteration, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairing and the statistics read the same large tables."""
    read: list[str] = []
    records = Manifest.records
    monkeypatch.setattr(Manifest, "records", lambda self, table: read.append(table) or records(self, table))
    assert work.records("responses") == work.records("responses") == RESPONSES
    assert read == ["responses"]


def test_the_iteration_is_one_shard(work: Iteration) -> None:
    assert (work.size_of("prompts"), work.size_of("iteration")) == (5, 1)
    assert work.plan("pairs", "iteration", 2) == [[]]
    assert work.manifest.missing("pairs") == [0]
