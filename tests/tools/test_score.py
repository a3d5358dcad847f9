"""The command: its last line, its table, and what it refuses."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.protocol import Given
from rlaifv.records import Prompt
from tests.benchmarks.fakes import register, write_exam
from tools.score import Options, main


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture
def place(prompts: list[Prompt], tmp_path: Path) -> Path:
    place = write_exam(tmp_path, prompts[:2])
    rows = [(0, "Yes."), (10, "Yes."), (1, "No."), (11, "yes")]
    (place / "answers.json").write_text(json.dumps([{"id": one, "answer": text} for one, text in rows]))
    return place


def test_every_field_of_given_is_a_key() -> None:
    own = {field.name: field.default for field in fields(Options)}
    assert {field.name: field.default for field in fields(Given)} == {
        name: value for name, value in own.items() if name not in ("benchmark", "out")
    }


def test_the_last_line_is_the_result(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [f"questions={place / 'questions.jsonl'}", f"answers={place / 'answers.json'}"]
    assert main(["benchmark=exam", *files, f"out={tmp_path / 'result.json'}"]) == 0
    output = capsys.readouterr().out
    found = json.loads(output.splitlines()[-1])
    assert output.endswith("}\n")
    assert (found["accuracy"], found["metrics"]["split"]["yes_ratio"]) == (75.0, 75.0)
    assert len(found["fingerprint"]) == 12
    assert json.loads((tmp_path / "result.json").read_text()) == found
    table = output.rpartition('{"benchmark')[0]
    for words in ("exam (4 questions)", "accuracy", "75.00", "split/none", "–", "answers", "warning: It is small."):
        assert words in table


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["benchmark=exam"], "answers=… must be given for benchmark=exam."),
        (["benchmark=exam", "nouns=n.json"], "nouns=… has no effect on benchmark=exam, which takes questions, answers"),
        (["benchmark=exam", "noun=n.json"], "noun=n.json is not one of benchmark=…, questions=…"),
        (["benchmark=exams"], "benchmark=exams is not one of amber, pope"),
        (["questions=q"], "benchmark must be given, as in benchmark=…."),
        (["benchmark=exam", "answers=nowhere"], "answers=nowhere does not exist."),
        (["benchmark=exam", "parser=mine"], "parser=mine must be one of official, strict for benchmark=exam."),
        (
            ["benchmark=exam", "allow_incomplete=perhaps"],
            "allow_incomplete=perhaps: Value 'perhaps' is not a valid bool",
        ),
    ],
)
def test_what_cannot_be_scored_is_said(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    output = capsys.readouterr().out
    assert output.startswith(f"error: {said}"), output


def test_incomplete_answers_are_refused_or_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Any] = json.loads((place / "answers.json").read_text())
    (place / "answers.json").write_text(json.dumps(rows[:3]))
    words = ["benchmark=exam", f"questions={place / 'questions.jsonl'}", f"answers={place / 'answers.json'}"]
    with pytest.raises(SystemExit):
        main(words)
    assert "has no answer for 11; allow_incomplete=true scores what is there" in capsys.readouterr().out
    main([*words, "allow_incomplete=true"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["counts"], found["protocol"]["incomplete"]) == ({"questions": 4, "answers": 3}, True)
