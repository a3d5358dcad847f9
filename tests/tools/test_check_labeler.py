"""The labeler's check: a good one passes, one with random weights does not, and wrong files are named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaifv.engines.local import LocalEngine
from rlaifv.models.loading import load_model
from rlaifv.records import Prompt
from rlaifv.stages.score import WORDING
from rlaifv.worlds.shapes_model import WEIGHTS_DIR
from tools.check_labeler import main, read_exam


def test_the_embedded_model_knows_its_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"labeler={WEIGHTS_DIR}", "num_scenes=6", "dtype=float32", f"out={tmp_path / 'found.json'}"]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["accuracy"] > 0.9
    assert abs(found["says_yes"]) < 0.1
    assert found["seconds_per_1000"] > 0
    assert f"{found['num_questions']:,} about 6 images" in capsys.readouterr().out


def test_random_weights_do_not(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"labeler={model_dir}", "num_scenes=20"]) == 1
    assert "feedback of this labeler would be noise" in capsys.readouterr().out


def test_further_wordings_are_asked_too(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each question in all of them, and each once in the count."""
    asked: list[str] = []
    answer = LocalEngine.answer_probabilities

    def noted(self: LocalEngine, some: Any, advance: Any) -> Any:
        asked.extend(question for _, questions in some for question in questions)
        return answer(self, some, advance)

    monkeypatch.setattr(LocalEngine, "answer_probabilities", noted)
    found = tmp_path / "found.json"
    main([f"labeler={model_dir}", "num_scenes=2", 'other_forms=["No or yes: {question}"]', f"out={found}"])
    num_questions = json.loads(found.read_text())["num_questions"]
    assert len(asked) == 2 * num_questions
    assert sum(question.startswith("No or yes: ") for question in asked) == num_questions
    assert sum(question.endswith(WORDING.suffix) for question in asked) == num_questions


def test_models_are_loaded_as_told(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And moved to a GPU where there is one."""
    moves: list[Any] = []
    loaded: list[Any] = []

    def load(*given: Any) -> Any:
        loaded.append(given)
        model, processor = load_model(*given)
        monkeypatch.setattr(model, "to", moves.append)
        return model, processor

    monkeypatch.setattr("tools.check_labeler.load_model", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    main([f"labeler={model_dir}", "num_scenes=1", "trust_remote_code=true", "dtype=float32"])
    assert loaded == [(str(model_dir), None, "float32", "sdpa", True)]
    assert moves == ["cuda"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ('other_forms=["Is it so?"]', "other_forms: 'Is it so?' must hold {question}."),
        ("other_forms=[", "other_forms=[: "),
        ("other_forms=one", "other_forms=one: "),
    ],
)
def test_wrong_wordings_are_refused(model_dir: Path, word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([f"labeler={model_dir}", "num_scenes=1", word])
    assert ended.value.code == 2
    assert said in capsys.readouterr().out


def test_own_questions_share_their_images(prompts: list[Prompt], tmp_path: Path) -> None:
    image, other = (Path(prompt.image_paths[0]) for prompt in prompts[:2])
    rows = [
        {"image": str(image), "question": "Is it red?", "answer": "Yes."},
        {"image": [str(other)], "question": "Is it blue?", "answer": "no"},
        {"image": str(image), "question": "Is it green?", "answer": "no"},
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    first, second = read_exam(path)
    assert first[0].image_paths == (str(image),)
    assert first[1] == [("Is it red?", True), ("Is it green?", False)]
    assert second[1] == [("Is it blue?", False)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1 of .* is not JSON"),
        ("[]", "line 1 of .* must be an object with image, question and answer"),
        ('{"image": "a.png", "question": "x", "answer": "maybe"}', "Field 'answer' in line 1 of .* must be yes or no"),
        ('{"image": [], "question": "x", "answer": "no"}', "must be texts that are not empty"),
        ('{"image": "gone.png", "question": "x", "answer": "no"}', "gone.png"),
        ("", "has no questions"),
    ],
)
def test_a_wrong_line_is_named(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(line)
    with pytest.raises(ValueError, match=said):
        read_exam(tmp_path / "q.jsonl")


def test_what_is_wrong_ends_with_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([f"labeler={tmp_path}", f"questions={tmp_path / 'none.jsonl'}"])
    assert ended.value.code == 2
    assert "none.jsonl cannot be read" in capsys.readouterr().out
