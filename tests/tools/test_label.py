"""Responses in, judged responses out; stopped anywhere, the rest follows and what is there stays."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from rlaifv.records import Prompt
from tools import label
from tools.label import main


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    GlobalHydra.instance().clear()


@pytest.fixture
def listed(prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Rows of responses.jsonl, of which the fourth has a damaged picture and the last two responses."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.png").write_bytes(Path(prompts[0].image_paths[0]).read_bytes()[:60])
    said = "There is a red circle at the top left. There is a blue star in the center."
    for prompt in prompts:
        shutil.copy(prompt.image_paths[0], tmp_path)
    rows: list[dict[str, Any]] = [
        {"id": prompt.id, "image": Path(prompt.image_paths[0]).name, "question": prompt.question, "response": said}
        for prompt in prompts
    ]
    rows[3]["image"] = "damaged.png"
    rows[5]["responses"] = [rows[5].pop("response"), "What a picture!"]
    write(rows)
    return rows


def write(rows: list[dict[str, Any]]) -> None:
    Path("responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def labelled() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("labelled.jsonl").read_text().splitlines()]


COMMAND = ("input=responses.jsonl", "output=labelled.jsonl")


def test_responses_are_judged_and_the_rest_follows(
    listed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(label, "ROWS_PER_WRITE", 2)
    assert main(COMMAND) == 0
    assert capsys.readouterr().out.endswith("6 rows labelled in labelled.jsonl, 0 of them before\n")
    found = labelled()
    assert [row["id"] for row in found] == [row["id"] for row in listed]
    assert "responses" not in found[3]
    assert "damaged.png" in found[3]["error"]
    (response,) = found[0]["responses"]
    assert [claim["question"] for claim in response["claims"]] == [
        "Is there a red circle at the top left?",
        "Is there a blue star in the center?",
    ]
    assert response["score"] == -sum(claim["verdict"] == "rejected" for claim in response["claims"])
    assert all(claim["p_yes"] + claim["p_no"] > 0.9 for claim in response["claims"])  # it was trained to say either
    assert [len(row["claims"]) for row in found[5]["responses"]] == [2, 0]
    assert found[5]["responses"][1]["score"] is None

    whole = Path("labelled.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    Path("labelled.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
    assert main(COMMAND) == 0
    assert capsys.readouterr().out.endswith("6 rows labelled in labelled.jsonl, 2 of them before\n")
    assert Path("labelled.jsonl").read_bytes() == whole
    monkeypatch.setattr(label, "build_labeler", None)  # a third time nothing is loaded
    assert main(COMMAND) == 0


def test_an_output_of_something_else_is_left_alone(
    listed: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    for line in ({"id": "other"}, []):
        Path("labelled.jsonl").write_text(json.dumps(line) + "\n")
        assert main(COMMAND) == 2
        assert "labelled.jsonl was not made of these rows by labeler" in capsys.readouterr().out
        assert Path("labelled.jsonl").read_text() == json.dumps(line) + "\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"response": None}, "Field 'response' in line 2 of responses.jsonl has to be a text, or texts, that are not empty."),
        ({"response": ["a"]}, "Field 'response' in line 2"),
        ({"responses": []}, "Field 'responses' in line 2"),
        ({"responses": ["a", " "]}, "Field 'responses' in line 2"),
        ({"image": "nowhere.png"}, "which is not an existing file."),
    ],
)  # fmt: skip
def test_wrong_rows_are_named(
    listed: list[dict[str, Any]], change: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write([listed[0], listed[1] | change])
    assert main(COMMAND) == 2
    assert message in capsys.readouterr().out
    assert not Path("labelled.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["input=responses.jsonl"], "output must be given, as in output=…."),
        ([*COMMAND, "labeler=model"], "labeler.path has no default and must be given"),
        ([*COMMAND, "labeler.pith=a"], "labeler.pith"),
        ([*COMMAND, "engine.batch_tokens=0"], "engine.batch_tokens=0 must be at least 1."),
    ],
)
@pytest.mark.usefixtures("listed")
def test_settings_are_those_of_training(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().out
