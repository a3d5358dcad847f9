"""What is counted and measured, and that the truth stays with the measuring."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.loop.world import SENTENCES, FakeSource, FakeTruth, World, measure


def test_statistics_are_counted_from_the_records(world: World) -> None:
    manifest = world.loop().prepare(0)
    statistics = json.loads((world.run_dir / "iterations/000/statistics.json").read_text())
    responses, claims, judgements, pairs = (
        manifest.records(stage) for stage in ("responses", "claims", "judgements", "pairs")
    )
    verdicts = Counter(judgement.verdict for judgement in judgements)
    assert min(verdicts[verdict] for verdict in ("accepted", "rejected", "unknown")) > 0
    true = [claim.text in SENTENCES[:2] for claim in claims]
    agreeing = sum(
        (j.verdict == "accepted") == holds for j, holds in zip(judgements, true, strict=True) if j.verdict != "unknown"
    )
    expected = {
        "responses": 24,
        "claims": len(claims),
        "claims_per_response": len(claims) / 24,
        "rejection_rate": verdicts["rejected"] / len(claims),
        "unknown_rate": verdicts["unknown"] / len(claims),
        "claims_repeated": 0,
        "questions_asked": len({(claim.prompt_id, claim.question) for claim in claims}),
        "labeler/agreement": agreeing / (len(claims) - verdicts["unknown"]),
        "pairs_kept": len(pairs),
        "length/chosen_words": sum(len(pair.chosen.split()) for pair in pairs) / len(pairs),
        "length/rejected_words": sum(len(pair.rejected.split()) for pair in pairs) / len(pairs),
        "dropped/truncated": sum(not response.finished for response in responses),
        "dropped/empty_response": 0,
        "dropped/no_claims": 0,
        "dropped/length_balance": 0,
    }
    assert {name: statistics[name] for name in expected} == pytest.approx(expected)
    assert statistics["pairs_possible"] == statistics["pairs_kept"] + statistics["dropped/over_cap"]
    others = {"dropped/unknown", "dropped/identical", "dropped/tie", "dropped/over_cap", "pairs_possible"}
    seconds = {f"seconds/{stage}" for stage in ("generate", "divide", "score", "reference")}
    assert {*statistics} == {*expected, *others, *seconds}
    assert all(statistics[name] >= 0 for name in seconds)
    assert statistics["questions_asked"] < statistics["claims"]


def test_without_truth_there_is_no_agreement(world: World) -> None:
    world.truth = None
    world.loop().prepare(0)
    assert "labeler/agreement" not in json.loads((world.run_dir / "iterations/000/statistics.json").read_text())
    evaluation = json.loads((world.run_dir / "evaluations/000.json").read_text())
    assert {*evaluation["metrics"]} == {"rejected/response", "rejected/mention", "length/words", "claims_per_response"}


def test_measuring_is_done_once(world: World) -> None:
    loop = world.loop()
    measure(loop, 3)
    content = world.content()
    assert [*content] == ["evaluations/003.json"]
    evaluation = json.loads(content["evaluations/003.json"])
    assert {*evaluation} == {"num_iterations", "metrics", "examples"}
    assert evaluation["num_iterations"] == 3
    assert [example["prompt_id"] for example in evaluation["examples"]] == ["h-0", "h-1"]
    assert 0 <= evaluation["metrics"]["coverage"] <= 1
    events = list(world.events)
    measure(loop, 3)
    measure(world.loop(), 3)
    assert (world.content(), world.events) == (content, events)


def test_nothing_is_measured_without_held_out_prompts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSource, "held_out", lambda self: [])
    world.loop().prepare(0)
    assert not (world.run_dir / "evaluations").exists()


def test_the_truth_reaches_no_labeler_and_no_pair(tmp_path: Path, whole: dict[str, Any]) -> None:
    """With the truth turned around or absent, the labeler sees the same, and the same pairs come out."""
    seen = []
    for name, truth in (("honest", FakeTruth()), ("turned", FakeTruth(is_turned_around=True)), ("absent", None)):
        world = World(tmp_path / name, truth=truth)
        world.loop().prepare(0)
        content = world.content()
        parquet = {path: data for path, data in content.items() if path.endswith(".parquet")}
        assert parquet == {path: data for path, data in whole.items() if path.endswith(".parquet")}
        exams = [("h-0", FakeTruth().exam("")[0][0]), ("h-1", FakeTruth().exam("")[0][0])]
        asked = [(prompt.id, question) for prompt, questions in world.labeler.seen for question in questions]
        seen.append(sorted(asked if truth else [*asked, *((k, f"{q} Please answer yes or no.") for k, q in exams)]))
    assert seen[0] == seen[1] == seen[2]
