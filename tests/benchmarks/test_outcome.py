"""What is said beside a number."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlaifv.benchmarks.files import digest
from rlaifv.benchmarks.outcome import check_given, fingerprint, flat_metrics, outcome, without_nan
from rlaifv.benchmarks.protocol import Given
from rlaifv.records import Prompt
from tests.benchmarks.fakes import Exam, Judged, write_exam


@pytest.fixture
def given(prompts: list[Prompt], tmp_path: Path) -> Given:
    """Four questions, whose labels are yes, no, no, yes; three of the answers say yes."""
    place = write_exam(tmp_path, prompts[:2])
    rows = [(0, "Yes."), (10, "Yes."), (1, "No."), (11, "yes")]
    (place / "answers.json").write_text(json.dumps([{"id": one, "answer": text} for one, text in rows]))
    return Given(questions=place / "questions.jsonl", answers=place / "answers.json")


def test_metrics_are_found_in_both_places(given: Given) -> None:
    found = outcome(Exam(), given)
    assert found["metrics"] == {"accuracy": 75.0, "split": {"yes_ratio": 75.0, "none": None}}
    assert (found["accuracy"], found["split"]) == (75.0, {"yes_ratio": 75.0, "none": None})
    assert (found["benchmark"], found["version"], found["invalid_answers"]) == ("exam", "4 questions", 0)
    assert found["counts"] == {"questions": 4, "answers": 4}
    assert found["warnings"] == ["It is small."]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_metric_does_not_hide_what_stands_there_already(given: Given) -> None:
    class Counting(Exam):
        def score(self, given: Given) -> Any:
            result = super().score(given)
            result.metrics["counts"] = 7.0
            return result

    found = outcome(Counting(), given)
    assert found["metrics"]["counts"] == 7.0
    assert found["counts"] == {"questions": 4, "answers": 4}


def test_files_are_named_with_their_digests(given: Given, tmp_path: Path) -> None:
    assert given.questions is not None
    assert given.answers is not None
    files = outcome(Exam(), given)["files"]
    assert files == {
        "questions": {"path": "questions.jsonl", "sha256": digest(given.questions)},
        "answers": {"path": "answers.json", "sha256": digest(given.answers)},
    }


def test_a_directory_has_the_digest_of_its_files(given: Given, tmp_path: Path) -> None:
    class WithDirectory(Exam):
        uses = ("questions", "annotations")

    (tmp_path / "notes").mkdir()
    digests = []
    for text in ("a", "a", "b"):
        (tmp_path / "notes" / "one.json").write_text(text)
        files = outcome(WithDirectory(), Given(given.questions, given.answers, tmp_path / "notes"))["files"]
        digests.append(files["annotations"]["sha256"])
    assert digests[0] == digests[1] != digests[2]


def test_the_fingerprint_is_of_what_a_comparison_depends_on(given: Given) -> None:
    """Parser, rounding, prompt, decoding, and whether rows are missing; not the answers."""
    assert given.answers is not None
    first = outcome(Exam(), given)
    assert first["protocol"] == {
        "benchmark": "exam", "prompt": None, "decoding": None, "parser": "official", "rounding": "official",
        "incomplete": False,
    }  # fmt: skip
    rows = json.loads(given.answers.read_text())
    others = [
        outcome(Exam(), Given(given.questions, given.answers, parser="strict")),
        outcome(Exam(), Given(given.questions, given.answers, rounding="none")),
        outcome(Exam(), given, prompt={"suffix": "!"}),
        outcome(Exam(), given, decoding={"temperature": 0}),
    ]
    given.answers.write_text(json.dumps(rows[:3]))
    others.append(outcome(Exam(), Given(given.questions, given.answers, allow_incomplete=True)))
    given.answers.write_text(json.dumps([{**row, "answer": "no"} for row in rows]))
    assert outcome(Exam(), given)["fingerprint"] == first["fingerprint"]
    assert len({one["fingerprint"] for one in (first, *others)}) == 6
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})


@pytest.mark.parametrize(
    ("benchmark", "given", "message"),
    [
        (Exam(), {"nouns": Path("n")}, "nouns=… has no effect on benchmark=exam, which takes questions, answers, images, "
         "parser, rounding, allow_incomplete."),
        (Exam(), {"judge": "gpt"}, "judge=… has no effect on benchmark=exam"),
        (Exam(), {"parser": "lmms_eval"}, "parser=lmms_eval must be one of official, strict for benchmark=exam."),
        (Exam(), {"rounding": "up"}, "rounding=up must be one of official, none for benchmark=exam."),
        (Judged(), {"parser": "strict"}, "parser=… has no effect on benchmark=judged"),
        (Judged(), {"invalid_judge": "drop"}, "invalid_judge=drop must be one of official, skip, raise"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_refused(benchmark: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("…", ".")):
        check_given(benchmark, Given(**given))


def test_a_judged_benchmark_takes_reviews() -> None:
    check_given(Judged(), Given(reviews=Path("r"), judge="gpt", invalid_judge="skip"))


def test_values_become_json() -> None:
    assert without_nan({"a": (float("inf"), torch.tensor(2.5)), 1: np.float64("nan")}) == {"a": [None, 2.5], "1": None}
    assert dict(flat_metrics({"a": {"b": {"c": 1.0}, "d": "text"}, "e": None})) == {"a/b/c": 1.0, "e": None}
