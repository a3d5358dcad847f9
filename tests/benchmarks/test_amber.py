"""AMBER's files: read, scored by dimension, and refused with the row that is wrong."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.amber import BENCHMARK
from rlaifv.benchmarks.protocol import Given

ANNOTATIONS: list[dict[str, Any]] = [
    {"id": 1, "type": "generative", "truth": ["harbor", "boat"], "hallu": ["gull"]},
    {"id": 2, "type": "generative", "truth": ["boat"], "hallu": ["gull", "harbor"]},
    {"id": 3, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 4, "type": "discriminative-attribute-state", "truth": "yes"},
    {"id": 5, "type": "discriminative-relation", "truth": "yes"},
    {"id": 6, "type": "relation", "truth": "no"},
]
RELATIONS = {"harbor": ["pier"], "boat": ["ship"], "gull": ["bird"]}
DESCRIPTIONS = [
    {"id": 1, "response": "A boat lies at the pier. There are two ships."},
    {"id": 2, "response": "A bird and a boat."},
]
REPLIES = [
    {"id": 3, "response": "No"},
    {"id": 4, "response": "Yes"},
    {"id": 5, "response": "No"},
    {"id": 6, "response": "No."},
]
# Five nouns, one made up: 1 / 5.001. Three truths, all covered: 3 / 3.001. One of two responses; one of three thought of.
GENERATIVE = {"chair": 20.0, "cover": 100.0, "hal": 50.0, "cog": 33.3}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def given(tmp_path: Path) -> Given:
    write(tmp_path / "annotations.json", ANNOTATIONS)
    write(tmp_path / "relation.json", RELATIONS)
    (tmp_path / "safe_words.txt").write_text("light\nsign\n", encoding="utf-8")
    return Given(annotations=tmp_path, answers=write(tmp_path / "answers.json", DESCRIPTIONS + REPLIES))


def refused(given: Given, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        BENCHMARK.score(given)


def test_both_halves_and_the_score(given: Given) -> None:
    result = BENCHMARK.score(given)
    assert {name: result.metrics[name] for name in GENERATIVE} == GENERATIVE
    # Two of four are right; of the two read as "No" one is truly no, as are two of all.
    assert [result.metrics[name] for name in ("accuracy", "precision", "recall", "f1")] == [50.0, 50.0, 50.0, 50.0]
    assert result.metrics["amber_score"] == 65.0
    assert result.metrics["existence"]["accuracy"] == 99.9
    assert result.metrics["attribute"]["state"]["recall"] == 0.0
    assert result.metrics["relation"]["accuracy"] == 0.0
    assert result.num_invalid == 1
    assert result.version == "unknown"
    assert result.protocol == {
        "parser": "official",
        "nouns": "built in (approximate)",
        "similarity": "same word (approximate)",
        "rounding": "official",
        "complete": True,
    }
    assert (result.counts["descriptions"], result.counts["questions"], result.counts["missing"]) == (2, 4, 0)
    assert (result.counts["nouns"], result.counts["hallucinated"]) == (5, 1)
    assert "AMBER has 1004 descriptions and 14216 questions" in result.warnings[0]
    assert "1 of 4 answers are neither 'Yes' nor 'No' to parser=official and count as wrong" in result.warnings[1]


def test_contains_yes_reads_what_the_script_does_not(given: Given) -> None:
    result = BENCHMARK.score(replace(given, parser="contains_yes"))
    assert (result.metrics["accuracy"], result.num_invalid) == (75.0, 0)
    assert BENCHMARK.score(replace(given, parser="strict")).num_invalid == 0  # "No." is no to all but the script
    refused(
        replace(given, parser="first"), "AMBER has the parsers official, contains_yes, lmms_eval, vlmevalkit, strict"
    )


def test_descriptions_only_and_questions_only(given: Given, tmp_path: Path) -> None:
    some = replace(given, answers=write(tmp_path / "some.json", DESCRIPTIONS))
    assert BENCHMARK.score(some).metrics == GENERATIVE
    some = replace(given, answers=write(tmp_path / "some.json", REPLIES))
    result = BENCHMARK.score(some)
    assert {"accuracy", "existence", "attribute", "relation"} < result.metrics.keys()
    assert result.metrics.keys().isdisjoint({*GENERATIVE, "amber_score"})
    assert "nouns" not in result.protocol
    refused(replace(some, nouns=tmp_path / "nouns.json"), "are about descriptions, but")
    some = replace(given, answers=write(tmp_path / "some.json", REPLIES[2:]))
    assert BENCHMARK.score(some).metrics.keys() == {"relation"}


def test_without_rounding(given: Given) -> None:
    metrics = BENCHMARK.score(replace(given, rounding="none")).metrics
    assert metrics["chair"] == pytest.approx(100 / 5.001)
    assert metrics["accuracy"] == pytest.approx(200 / 4.001)


def test_a7_silence_is_told(given: Given, tmp_path: Path) -> None:
    rows = [DESCRIPTIONS[0], {"id": 2, "response": ""}]
    result = BENCHMARK.score(replace(given, answers=write(tmp_path / "silent.json", rows)))
    assert result.counts["without_nouns"] == 1
    assert any("1 of 2 descriptions have no noun" in warning for warning in result.warnings)


def test_nouns_from_a_file_replace_the_built_in_ones(given: Given, tmp_path: Path) -> None:
    nouns = write(tmp_path / "nouns.json", {"1": ["boat", "Pier", "table"], "2": ["gull"]})
    result = BENCHMARK.score(replace(given, nouns=nouns))
    # "Pier" has a capital (A2) and "table" is no word of AMBER: one made up of two.
    assert (result.metrics["chair"], result.metrics["cover"]) == (50.0, 33.3)
    assert result.protocol["nouns"] == "file"
    given = replace(given, nouns=nouns)
    write(nouns, {"1": ["boat"]})
    refused(given, "has no nouns for 1 of the answers, the first of which is 2")
    write(nouns, {"1": [], "2": [], "3": []})
    refused(given, "has an entry for 3, which the benchmark does not ask about")
    write(nouns, {"1": "boat", "2": []})
    refused(given, "Entry '1' of")


def test_a12_similarity_from_a_file_is_part_of_the_protocol(given: Given, tmp_path: Path) -> None:
    table = write(tmp_path / "similarity.json", {"ship|bird": 0.81})
    given = replace(given, similarity=table)
    result = BENCHMARK.score(given)
    # "bird" is now like "ship", and so like "boat": safe, and still thought of (A6).
    assert [result.metrics[name] for name in ("chair", "hal", "cog")] == [0.0, 0.0, 33.3]
    assert re.fullmatch("file, sha256 [0-9a-f]{64}", result.protocol["similarity"])
    assert BENCHMARK.score(replace(given, similarity=write(table, {"bird|ship": 0.8}))).metrics["chair"] == 20.0
    write(table, {"ship bird": 0.9})
    refused(given, "The key 'ship bird' of")
    write(table, {"ship|bird": "high"})
    refused(given, "The similarity of 'ship|bird' in")
    write(table, {"ship|bird": 0.9, "bird|ship": 0.8})
    refused(given, "has two similarities of 'bird' and 'ship': 0.9 and 0.8")


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([*DESCRIPTIONS, DESCRIPTIONS[0]], "Row 3 of"),
        (DESCRIPTIONS[:1], "has no answer for 2"),
        ([*DESCRIPTIONS, *REPLIES[:3]], "has no answer for 6"),
        ([*DESCRIPTIONS, {"id": 99, "response": "No"}], "has an answer for 99, which the benchmark does not ask about"),
        ([{"id": 99, "response": "No"}], "has an answer for 99"),
        ([{"id": 1, "text": "A boat."}], "Row 1 of"),
        ([{"id": 1, "response": None}], "Field 'response' in row 1 of"),
    ],
)
def test_a11_answers_that_do_not_fit_are_refused(
    given: Given, tmp_path: Path, answers: list[dict[str, Any]], message: str
) -> None:
    refused(replace(given, answers=write(tmp_path / "broken.json", answers)), message)


def test_missing_answers_are_told_where_they_are_allowed(given: Given, tmp_path: Path) -> None:
    answers = write(tmp_path / "some.json", [*DESCRIPTIONS[:1], *REPLIES])
    result = BENCHMARK.score(replace(given, answers=answers, allow_incomplete=True))
    assert (result.counts["descriptions"], result.counts["missing"], result.protocol["complete"]) == (1, 1, False)


def test_queries_choose_what_is_expected(given: Given, tmp_path: Path) -> None:
    queries = [{"id": 2, "image": "AMBER_2.jpg", "query": "Describe it."}]
    given = replace(given, questions=write(tmp_path / "queries.json", queries))
    items = BENCHMARK.items(given)
    assert [(item.id, item.question, item.images) for item in items] == [("2", "Describe it.", ("AMBER_2.jpg",))]
    rows = BENCHMARK.answer_rows(given, items, ["A boat."])
    assert rows == [{"id": 2, "response": "A boat."}]
    given = replace(given, answers=write(tmp_path / "one.json", rows))
    assert BENCHMARK.score(given).counts["descriptions"] == 1
    refused(replace(given, answers=write(tmp_path / "two.json", DESCRIPTIONS)), "has an answer for 1")
    write(tmp_path / "queries.json", [*queries, {"id": 7, "image": "AMBER_7.jpg", "query": "Describe it."}])
    refused(given, "has the id 7, which the annotations do not have")
    write(tmp_path / "queries.json", queries * 2)
    refused(given, "has more than one query for 2")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("annotations.json", [*ANNOTATIONS, ANNOTATIONS[0]], "Row 7 of"),
        (
            "annotations.json",
            [{"id": 1, "type": "generative", "truth": "boat", "hallu": []}],
            "Field 'truth' in row 1 of",
        ),
        (
            "annotations.json",
            [{"id": 1, "type": "generative", "truth": ["kiln"], "hallu": []}],
            "has 'kiln', which is no key",
        ),
        (
            "annotations.json",
            [{"id": 1, "type": "relation", "truth": "Yes"}],
            "has to be 'yes' or 'no', but it is 'Yes'",
        ),
        ("annotations.json", [{"id": 1, "type": "colour", "truth": "yes"}], "Row 1 of"),
        ("relation.json", {"boat": "ship"}, "Entry 'boat' of"),
        ("relation.json", ["boat"], "has to be a JSON object of lists of words by word"),
    ],
)
def test_broken_annotations_are_refused(given: Given, name: str, content: Any, message: str) -> None:
    assert given.annotations is not None
    write(given.annotations / name, content)
    refused(given, message)


def test_files_that_are_not_there(given: Given) -> None:
    assert given.annotations is not None
    (given.annotations / "safe_words.txt").unlink()
    refused(given, "but it has no safe_words.txt")
    refused(replace(given, annotations=None), "annotations=… must be given for benchmark=amber.")
    with pytest.raises(ValueError, match="questions=… must be given"):
        BENCHMARK.items(given)
