"""Every benchmark through the command, from files in the official forms: whole, and broken in every way one can think of."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.registry import MODULES
from tests.tools.official_files import WRITERS, Words, mmhal, refomb, write
from tools.score import main

SCORE = Path(__file__).parents[2] / "tools" / "score.py"
# By hand. AMBER: bird is 1 of 4 nouns, and stands for gull, 1 of 3 targets; "No." is no answer, so 3 of 4 are right. CHAIR and
# Object HalBench: boat is 1 of 3.
METRICS = {
    "amber": {"chair": 25.0, "cover": 100.0, "hal": 50.0, "cog": 33.3, "accuracy": 75.0},
    "pope": {"accuracy": 0.5, "precision": 0.5, "recall": 1.0, "yes_ratio": 1.0},
    "mme": {"existence": 50.0, "count": 50.0, "position": 50.0, "color": 50.0, "total": 200.0},
    "chair": {"chair_s": 50.0, "chair_i": 33.3, "recall": 100.0},
    "object_halbench": {"resp": 50.0, "ment": 33.33, "recall": 100.0},
    "mmhal": {"score": 2.0, "hallucination_rate": 0.5, "informativeness": 16.67},
    "refomb": {"trust": 0.5, "win": 1.0},
    "llava_bench": {"all": 75.0, "conv": 80.0, "detail": 100.0, "complex": 50.0},
    "hallusionbench": {"a_acc": 50.0, "f_acc": 0.0, "q_acc": 50.0},
    "mmstar": {"accuracy": 1 / 1500, "math": 1 / 250},
    "faithscore": {"faithscore": 1.0, "sentence": 1.0},
    "mhumaneval": {"object": 100.0, "position": 0.0, "all": 100.0},
}
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in `tmp_path`: exit status and output."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str]:
        try:
            status = main(words)
        except SystemExit as ended:
            status = int(str(ended.code))
        return status, capsys.readouterr().out

    return call


def result(output: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def files_of(words: Words) -> Iterator[tuple[str, Path]]:
    for word in words:
        name, _, path = word.partition("=")
        yield from ((name, file) for file in (Path(path).iterdir() if Path(path).is_dir() else [Path(path)]))


def of_every_benchmark(function: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.parametrize("make", WRITERS, ids=lambda make: make.__name__)(function)


def test_no_benchmark_is_left_out() -> None:
    assert {make.__name__ for make in WRITERS} == {*METRICS} == {*MODULES}


@of_every_benchmark
def test_official_rows_give_the_numbers(make: Callable[[Path], Words], run: Run, tmp_path: Path) -> None:
    words = [f"benchmark={make.__name__}", *make(tmp_path)]
    status, output = run(*words)
    assert status == 0, output
    found = result(output)
    for name, value in METRICS[make.__name__].items():
        assert found[name] == found["metrics"][name] == pytest.approx(value), name
    assert found["protocol"]["benchmark"] == make.__name__
    status, output = run(*words, "rounding=none")
    assert status == 0, output
    exact = result(output)
    assert exact["protocol"]["rounding"] == "none"
    assert exact["fingerprint"] != found["fingerprint"]
    for name, value in METRICS[make.__name__].items():
        assert exact["metrics"][name] == pytest.approx(value, abs=0.06), name


@of_every_benchmark
def test_windows_line_ends_and_a_byte_order_mark_change_nothing(
    make: Callable[[Path], Words], run: Run, tmp_path: Path
) -> None:
    words = make(tmp_path)
    before = result(run(f"benchmark={make.__name__}", *words)[1])
    for _, path in files_of(words):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    status, output = run(f"benchmark={make.__name__}", *words)
    assert status == 0, output
    assert result(output)["metrics"] == before["metrics"]


@of_every_benchmark
def test_what_is_no_such_file_is_said_by_its_name(make: Callable[[Path], Words], run: Run, tmp_path: Path) -> None:
    words = make(tmp_path)
    for _, path in files_of(words):
        content = path.read_bytes()
        broken = [b"[" * 100_000, content + b"\xff", b"\xff\xfe[]", content[: len(content) * 2 // 3] + b"\0"]
        for garbage in broken if "json" in path.suffix else broken[1:3]:
            path.write_bytes(garbage)
            status, output = run(f"benchmark={make.__name__}", *words)
            assert (status, output[:6]) == (2, "error:"), output
            assert str(path) in output
        path.write_bytes(content)
    for word in words:
        status, output = run(f"benchmark={make.__name__}", *(one for one in words if one != word), f"{word}/nowhere")
        assert (status, output[:6]) == (2, "error:"), output
    status, output = run(f"benchmark={make.__name__}", *(one for one in words if "answers=" not in one), "answers=.")
    assert (status, output[:6]) == (2, "error:"), output


@of_every_benchmark
def test_fields_of_any_kind_end_in_a_number_or_a_sentence(
    make: Callable[[Path], Words], run: Run, tmp_path: Path
) -> None:
    """Every field of the last row is left out, and replaced by values of each type of JSON."""
    words = make(tmp_path)
    for _, path in files_of(words):
        if path.suffix not in (".json", ".jsonl"):
            continue
        before = path.read_text()
        is_lines = path.suffix == ".jsonl" or "\n{" in before
        *others, last = before.splitlines() if is_lines else [before]
        for changed in changes(json.loads(last)):
            path.write_text("\n".join([*others, json.dumps(changed)]))
            status, output = run(f"benchmark={make.__name__}", *words, "allow_incomplete=true")
            assert (status, output[:6]) == (2, "error:") or result(output)["metrics"], output
        path.write_text(before)


def changes(value: Any, depth: int = 3) -> Iterator[Any]:
    """A value with one part of it left out, or of another kind."""
    yield from (None, 10**30, "\ud800 ä", [], {}, [1], True)
    if depth and isinstance(value, dict):
        for name in value:
            yield {other: inner for other, inner in value.items() if other != name}
            yield from ({**value, name: inner} for inner in changes(value[name], depth - 1))
    elif depth and isinstance(value, list) and value:
        yield value[:-1]
        yield [*value, value[-1]]
        yield from ([*value[:-1], inner] for inner in changes(value[-1], depth - 1))


@of_every_benchmark
def test_rows_that_are_missing_doubled_or_unknown_are_told_by_their_ids(
    make: Callable[[Path], Words], run: Run, tmp_path: Path
) -> None:
    """In whatever says what an answer is worth: the reviews, where there are some, else the answers."""
    words = make(tmp_path)
    paths = {name: path for name, path in files_of(words)}
    path = paths.get("reviews", paths["answers"])
    if (
        path.suffix not in (".json", ".jsonl") or make.__name__ == "chair"
    ):  # whose captions say themselves what there is
        return
    rows = (
        [json.loads(line) for line in path.read_text().splitlines()]
        if path.suffix == ".jsonl"
        else json.loads(path.read_text())
    )
    for changed in ([*rows, rows[-1]], rows[:-1]):
        write(path, changed)
        status, output = run(f"benchmark={make.__name__}", *words)
        assert status == 2, output
        assert str(path) in output
        assert any(character.isdigit() for character in output.replace(str(path), "")), output
    status, output = run(f"benchmark={make.__name__}", *words, "allow_incomplete=true")
    if make.__name__ == "amber":  # without its last question there is still one of that dimension
        assert result(output)["counts"]["missing"] == 1
    assert status == 0, output
    protocol = result(output)["protocol"]
    assert protocol.get("incomplete", not protocol.get("complete", True)) is True


def test_reviews_alone_do_not_hide_that_some_are_missing(run: Run, tmp_path: Path) -> None:
    mmhal(tmp_path)
    reviews = tmp_path / "reviews.json"
    write(reviews, [{"id": one, "reply": "Rating: 4"} for one in (0, 2)])
    status, output = run("benchmark=mmhal", "reviews=reviews.json")
    assert (status, "has no review for 1; allow_incomplete=true scores what is there" in output) == (2, True)
    assert result(run("benchmark=mmhal", "reviews=reviews.json", "allow_incomplete=true")[1])["counts"]["missing"] == 1
    write(reviews, [{"id": 10**12, "reply": "Rating: 4"}])
    status, output = run("benchmark=mmhal", "reviews=reviews.json", "allow_incomplete=true")
    assert (status, "has a review of question 1000000000000; MMHal-Bench has 96, from 0." in output) == (2, True)


def test_a_terminal_without_unicode_shows_the_result(tmp_path: Path) -> None:
    """From a real shell, with a type of question that no encoding can write."""
    words = refomb(tmp_path)
    questions = tmp_path / "RefoMB_dev.jsonl"
    questions.write_text(questions.read_text().replace('"OCR"', '"\\u00e4 \\ud800"'))
    done = subprocess.run(
        [sys.executable, SCORE, "benchmark=refomb", *words],
        cwd=tmp_path,
        env={"PYTHONIOENCODING": "ascii", "PATH": ""},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert result(done.stdout.decode("ascii"))["types"] == {"ä \ud800": {"trust": 0.5, "win": 1.0}}


def test_two_lists_of_one_image_are_refused(run: Run, tmp_path: Path) -> None:
    words = next(make for make in WRITERS if make.__name__ == "object_halbench")(tmp_path)
    write(tmp_path / "objects.json", {"11": ["dog"], "000011": ["boat"], "12": []})
    status, output = run("benchmark=object_halbench", *words)
    assert (status, "objects.json has two lists of phrases for image 11." in output) == (2, True)
