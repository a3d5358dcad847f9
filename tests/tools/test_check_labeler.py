"""The labeler's check: a good one passes, one with random weights does not, and wrong files are named."""

import json
from pathlib import Path

import pytest

from rlaifv.records import Prompt
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
