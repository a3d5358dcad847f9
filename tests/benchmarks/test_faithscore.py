"""FaithScore from files of answers and verdicts."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.faithscore import BENCHMARK
from rlaifv.benchmarks.protocol import Given, Item

ANSWERS = [{"answer": "A red dog. It is nice.", "image": "1.jpg"}, {"answer": "Nice.", "image": "2.jpg"}]
VERDICTS: list[dict[str, Any]] = [
    {
        "facts": [{"fact": "There is a dog.", "reply": "Yes, there is."}, {"fact": "The dog is red.", "reply": "No."}],
        "sentences": [[0, 1]],
    },
    {"facts": [], "sentences": []},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def files(folder: Path, answers: Any = ANSWERS, verdicts: Any = VERDICTS) -> Given:
    return Given(answers=write(folder / "answers.jsonl", answers), reviews=write(folder / "reviews.jsonl", verdicts))


def test_scores_by_hand(tmp_path: Path) -> None:
    result = BENCHMARK.score(files(tmp_path))
    assert result.metrics == {"faithscore": 0.25, "sentence": 0.5}
    assert result.counts == {"answers": 2, "without_facts": 1, "facts": 2, "verified": 1, "missing": 0}
    assert result.warnings == ("1 answers have no facts, and count as 0 by rule.",)


def test_ids_join_whatever_the_order(tmp_path: Path) -> None:
    answers = [row | {"id": one} for row, one in zip(ANSWERS, "ab", strict=True)]
    verdicts = [row | {"id": one} for row, one in zip(VERDICTS, "ab", strict=True)]
    assert BENCHMARK.score(files(tmp_path, answers, verdicts[::-1])).metrics["faithscore"] == 0.25
    with pytest.raises(ValueError, match=r"reviews.jsonl has no answer of the judge for b"):
        BENCHMARK.score(files(tmp_path, answers, verdicts[:1]))
    result = BENCHMARK.score(replace(files(tmp_path, answers, verdicts[:1]), allow_incomplete=True))
    assert (result.metrics["faithscore"], result.counts["missing"]) == (0.5, 1)


def test_sentences_may_be_left_out_of_all_verdicts_only(tmp_path: Path) -> None:
    bare = [{"facts": row["facts"]} for row in VERDICTS]
    assert BENCHMARK.score(files(tmp_path, verdicts=bare)).metrics == {"faithscore": 0.25}
    with pytest.raises(ValueError, match=r"has 'sentences' in 1 of 2 rows; all or none must"):
        BENCHMARK.score(files(tmp_path, verdicts=[VERDICTS[0], bare[1]]))


@pytest.mark.parametrize(
    ("answers", "verdicts", "message"),
    [
        ([], [], "has no answer, so nothing can be scored"),
        ([{"answer": "A dog."}], VERDICTS, "Row 1 of"),
        (ANSWERS, [{}, {}], "has no field 'facts'"),
        (ANSWERS, [{"facts": ["dog"]}, {"facts": []}], "Fact 0 in row 1 of"),
        (ANSWERS, [{"facts": [], "sentences": [[0]]}, VERDICTS[1]], "a list of numbers of its 0 facts"),
        (ANSWERS, [*VERDICTS, VERDICTS[1]], "has an answer of the judge for 2"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, answers: Any, verdicts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        BENCHMARK.score(files(tmp_path, answers, verdicts))


def test_items_and_answers_go_round(tmp_path: Path) -> None:
    questions = write(tmp_path / "questions.jsonl", [{"image": "1.jpg", "question": "Describe."}])
    given = Given(questions=questions)
    items = BENCHMARK.items(given)
    assert items == [Item("0", "Describe.", ("1.jpg",))]
    rows = BENCHMARK.answer_rows(given, items, ["A dog."])
    verdicts = [{"id": "0", "facts": [{"fact": "There is a dog.", "reply": "yes"}]}]
    assert BENCHMARK.score(files(tmp_path, rows, verdicts)).metrics == {"faithscore": 1.0}
