"""Stored scores: their forms, what is refused, and what keeps two of them apart."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.results import check_comparable, check_distinct, flat, read_results

ROW: dict[str, Any] = {
    "benchmark": "pope",
    "model": "base",
    "metrics": {"mean": {"accuracy": 84.0, "f1": None}, "random": {"f1": 80.5}},
    "protocol": {"parser": "official"},
    "fingerprint": "11aa",
    "version": "9000 questions",
    "files": {"questions": {"random": "q"}, "answers": "x"},
}


def written(tmp_path: Path, text: str, name: str = "a.json") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROW),
        json.dumps(ROW, indent=2),
        json.dumps([ROW]),
        json.dumps(ROW) + "\n",
        "\ufeff" + json.dumps(ROW),
    ],
)
def test_one_result_in_any_form(tmp_path: Path, text: str) -> None:
    (result,) = read_results(written(tmp_path, text))
    assert result.metrics == {"mean/accuracy": 84.0, "mean/f1": None, "random/f1": 80.5}
    assert result.protocol == {"parser": "official", "version": "9000 questions"}
    assert result.files == {"questions/random": "q", "answers": "x"}
    assert (result.model, result.benchmark, result.fingerprint) == ("base", "pope", "11aa")


def test_many_results_as_list_or_lines(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"model": "aligned"}]
    for text in (json.dumps(rows), "\n".join(map(json.dumps, rows))):
        assert [result.model for result in read_results(written(tmp_path, text))] == ["base", "aligned"]


def test_a_model_without_a_name_is_called_by_its_file(tmp_path: Path) -> None:
    row = ROW | {"model": None}
    (result,) = read_results(written(tmp_path, json.dumps(row), "llava7b.json"))
    assert result.model == "llava7b"


def test_undefined_numbers_are_absent(tmp_path: Path) -> None:
    (result,) = read_results(written(tmp_path, json.dumps(ROW | {"metrics": {"f1": float("nan"), "n": 1}})))
    assert result.metrics == {"f1": None, "n": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.json holds no result"),
        ("[]", "a.json holds no result"),
        ("[3]", "Row 1 of .*a.json has to be a JSON object"),
        ("{", "a.json is not valid JSON"),
        (json.dumps(ROW | {"metrics": {}}), "Field 'metrics' in row 1 of .*a.json holds no number"),
        (
            json.dumps(ROW | {"metrics": {"f1": "x"}}),
            "Metric 'f1' in row 1 of .*a.json has to be a number, but it is 'x'",
        ),
        (json.dumps(ROW | {"metrics": {"f1": [1]}}), r"Metric 'f1' in row 1 of .*a.json .* but it is \[1\]"),
        (json.dumps(ROW | {"fingerprint": 3}), "Field 'fingerprint' in row 1 of .*a.json has to be str"),
        (json.dumps({"benchmark": "pope"}), "Row 1 of .*a.json has no field 'metrics'"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_results(written(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.json does not exist"):
        read_results(tmp_path / "gone.json")


def results_of(tmp_path: Path, **change: Any) -> list[Any]:
    first = read_results(written(tmp_path, json.dumps(ROW), "a.json"))
    return first + read_results(written(tmp_path, json.dumps(ROW | {"model": "aligned"} | change), "b.json"))


def test_equal_protocols_may_stand_together_whatever_the_answers(tmp_path: Path) -> None:
    check_comparable(results_of(tmp_path, files={"questions": {"random": "q"}, "answers": "y"}))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"protocol": {"parser": "lmms_eval"}}, "parser is 'official' in the first and 'lmms_eval' in the second"),
        (
            {"protocol": {"parser": "official", "judge": "gpt-4"}},
            "judge is not given in the first and 'gpt-4' in the second",
        ),
        ({"version": "8910 questions"}, "version is '9000 questions' in the first and '8910 questions' in the second"),
        ({"files": {"questions": {"random": "p"}, "answers": "y"}}, "their files of questions/random are not the same"),
        ({}, "what they depend on reads the same, so they come from different versions of this project"),
    ],
)
def test_different_protocols_are_refused_by_name(tmp_path: Path, change: dict[str, Any], difference: str) -> None:
    with pytest.raises(ValueError, match="under different protocols") as caught:
        check_comparable(results_of(tmp_path, fingerprint="22bb", **change))
    message = str(caught.value)
    assert "a.json (base) and " in message
    assert "b.json (aligned) were scored on pope under different protocols (11aa and 22bb): " in message
    assert difference in message
    assert message.endswith("split=true gives each protocol columns of its own.")


def test_other_benchmarks_have_other_fingerprints(tmp_path: Path) -> None:
    check_comparable(results_of(tmp_path, benchmark="mme", fingerprint="22bb"))


def test_two_results_for_one_cell_are_refused(tmp_path: Path) -> None:
    message = "a.json and .*b.json both hold a result of 'base' on pope under the protocol 11aa"
    with pytest.raises(ValueError, match=message):
        check_distinct(results_of(tmp_path, model="base"))
    check_distinct(results_of(tmp_path, model="base", fingerprint="22bb"))


def test_tables_are_flattened() -> None:
    assert flat({"a": {"b": {"c": 1}}, "d": [2]}) == {"a/b/c": 1, "d": [2]}
