"""Numbers of other questions, images or word lists have another fingerprint, so that no table puts them together."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.outcome import outcome
from rlaifv.benchmarks.protocol import Benchmark, Given
from rlaifv.benchmarks.registry import benchmark


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def fingerprint(one: Benchmark, given: Given) -> str:
    found: str = outcome(one, given)["fingerprint"]
    return found


def test_hallusionbench_with_and_without_questions_on_nothing(tmp_path: Path) -> None:
    rows = [
        {
            **dict.fromkeys(("sample_note", "question", "gt_answer_details"), "?"),
            **{"category": "VS", "subcategory": "chart", "visual_input": visual, "set_id": "0", "figure_id": visual},
            **{"question_id": "0", "gt_answer": "1", "filename": None, "model_prediction": "Yes"},
        }
        for visual in "01"
    ]
    one = benchmark("hallusionbench")
    all_rows, with_image = (
        Given(
            answers=write(tmp_path / f"{len(some)}.json", some), questions=write(tmp_path / f"q{len(some)}.json", some)
        )
        for some in (rows, rows[1:])
    )
    assert fingerprint(one, all_rows) == fingerprint(one, all_rows)
    assert fingerprint(one, all_rows) != fingerprint(one, with_image)


def test_amber_on_a_part_of_its_questions(tmp_path: Path) -> None:
    annotations = [{"id": k, "type": "generative", "truth": ["boat"], "hallu": ["gull"]} for k in (1, 2)]
    write(tmp_path / "annotations.json", annotations)
    write(tmp_path / "relation.json", {"boat": [], "gull": []})
    write(tmp_path / "safe_words.txt", "sign\n")
    answers = [{"id": k, "response": "A boat."} for k in (1, 2)]
    whole = Given(annotations=tmp_path, answers=write(tmp_path / "answers.json", answers))
    queries = [{"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."}]
    part = replace(
        whole, questions=write(tmp_path / "query.json", queries), answers=write(tmp_path / "one.json", answers[:1])
    )
    one = benchmark("amber")
    assert outcome(one, part)["counts"]["descriptions"] == 1
    assert fingerprint(one, part) != fingerprint(one, whole)


@pytest.mark.parametrize("name", ["chair", "object_halbench"])
def test_another_list_of_synonyms(name: str, tmp_path: Path) -> None:
    instances = {
        "images": [{"id": 11}],
        "categories": [{"id": 1, "name": "boat"}],
        "annotations": [{"id": 1, "image_id": 11, "category_id": 1}],
    }
    caption = {"chair": "caption", "object_halbench": "text"}[name]
    row = {"question_id": 0, "image_id": 11, "prompt": "?", caption: "Two ships lie on the water."}
    given = Given(
        annotations=write(tmp_path / "instances_val2014.json", instances),
        answers=write(tmp_path / "answers.jsonl", json.dumps(row) + "\n"),
    )
    if name == "object_halbench":
        question = {"image_id": 11, "question": "?", "image": ""}
        given = replace(given, questions=write(tmp_path / "questions.jsonl", json.dumps(question) + "\n"))
    one = benchmark(name)
    lists = [write(tmp_path / f"{k}.txt", text) for k, text in enumerate(("boat, ship\n", "boat, ship, ferry\n"))]
    first, second = (fingerprint(one, replace(given, synonyms=path)) for path in lists)
    assert len({first, second, fingerprint(one, given)}) == 3
