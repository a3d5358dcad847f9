"""Answers of a model to a benchmark: in shards, once each, and scored."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks.answering import answer, run_benchmark
from rlaifv.benchmarks.protocol import Given
from rlaifv.benchmarks.questions import Asking, questions_of
from rlaifv.engines.local import LocalEngine
from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding, Sampled
from rlaifv.records import Prompt
from tests.benchmarks.fakes import Exam, Judged, write_exam

HOW = Asking(shard_items=4, suffix=" Please.")


class Knowing:
    """Says yes about every second question that it is asked, and remembers what that was."""

    def __init__(self, most: int = 99) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.most = most

    def sample_questions(
        self,
        asked: Sequence[tuple[Prompt, Sequence[str]]],
        seeds: Sequence[Sequence[int]],
        decoding: Decoding,
        advance: Advance = ignore_progress,
    ) -> list[list[Sampled]]:
        if len(self.asked) == self.most:
            raise KeyError("stopped")
        self.asked.append(tuple(question for _, some in asked for question in some))
        self.seeds = seeds
        advance(len(self.asked[-1]))
        return [[Sampled((1 - k % 2,), True) for k in range(len(some))] for _, some in asked]

    def decode(self, token_ids: Sequence[int]) -> str:
        return ("No", "Yes")[token_ids[0]]


@pytest.fixture
def given(prompts: list[Prompt], tmp_path: Path) -> Given:
    place = write_exam(tmp_path, prompts[:5])
    return Given(questions=place / "questions.jsonl", images=place / "images")


def run(given: Given, engine: Any, out: Path, how: Asking = HOW, model: str = "m", **options: Any) -> dict[str, Any]:
    questions = questions_of(Exam(), given, how, out / "pictures")
    return run_benchmark(options.pop("benchmark", Exam()), given, questions, engine, model, out, how, **options)


def test_answers_come_in_the_order_of_the_file_and_are_scored(given: Given, tmp_path: Path) -> None:
    """Five images, two to a shard. Yes to each first question, no to each second, which is right for every other image."""
    engine, finished = Knowing(), []
    found = run(given, engine, tmp_path / "out", advance=finished.append)
    assert [len(some) for some in engine.asked] == [4, 4, 2]
    assert all(
        question.endswith("? Please.") or question.endswith("no. Please.") for some in engine.asked for question in some
    )
    assert sum(finished) == 10
    rows = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [(row["id"], row["answer"]) for row in rows[:2]] == [("0", "Yes"), ("10", "Yes")]
    assert [(row["id"], row["answer"]) for row in rows[5:7]] == [("1", "No"), ("11", "No")]
    assert found["accuracy"] == 60.0  # labels of the images are yes/no, no/yes, yes/no, no/yes, yes/no
    shard = [json.loads(line) for line in (tmp_path / "out" / "answers-00000.jsonl").read_text().splitlines()]
    assert shard[1] == {
        "id": "1",
        "question": "Is it at the top left? Say yes or no. Please.",
        "answer": "No",
        "finished": True,
    }


def test_the_protocol_says_how(given: Given, tmp_path: Path) -> None:
    protocol = run(given, Knowing(), tmp_path / "out", replace(HOW, max_new_tokens=3))["protocol"]
    assert protocol["prompt"] == {
        "suffix": " Please.", "questions": protocol["prompt"]["questions"], "num_items": 10
    }  # fmt: skip
    assert protocol["decoding"]["max_new_tokens"] == 3
    assert protocol["decoding"]["num_beams"] == 1
    assert protocol["decoding"]["deviations"] == ["Answers end after 3 tokens, not after 12."]
    assert run(given, Knowing(), tmp_path / "other")["protocol"]["decoding"]["deviations"] == []


def test_beams_of_published_numbers_are_a_deviation(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exam, "name", "object_halbench")
    deviations = run(given, Knowing(), tmp_path / "out")["protocol"]["decoding"]["deviations"]
    assert deviations == ["Published numbers were decoded with 3 beams, these greedily."]


def test_an_interrupted_run_goes_on_with_the_missing_shards(given: Given, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        run(given, Knowing(most=1), tmp_path / "out")
    before = (tmp_path / "out" / "answers-00000.jsonl").stat().st_mtime_ns
    engine, finished = Knowing(), []
    found = run(given, engine, tmp_path / "out", advance=finished.append)
    assert [len(some) for some in engine.asked] == [4, 2]
    assert sum(finished) == 10
    assert (tmp_path / "out" / "answers-00000.jsonl").stat().st_mtime_ns == before
    again = Knowing()
    assert run(given, again, tmp_path / "out") == found == run(given, Knowing(), tmp_path / "fresh")
    assert again.asked == []


@pytest.mark.parametrize(
    ("how", "model", "said"),
    [
        (HOW, "other", "model 'm', but now it is 'other'"),
        (replace(HOW, suffix="!"), "m", "suffix ' Please.', but now it is '!'"),
        (
            replace(HOW, max_new_tokens=3),
            "m",
            "decoding {.*'max_new_tokens': 12.*}, but now it is {.*'max_new_tokens': 3",
        ),
        (replace(HOW, num_items=4), "m", "questions '.*', but now it is '.*'; give another out=…, or delete"),
        (replace(HOW, shard_items=5), "m", "shard_items 4, but now it is 5"),
        (replace(HOW, seed=5), "m", "seed 0, but now it is 5"),
    ],
)
def test_answers_of_another_kind_are_not_mixed(
    given: Given, how: Asking, model: str, said: str, tmp_path: Path
) -> None:
    run(given, Knowing(), tmp_path / "out")
    with pytest.raises(ValueError, match=f"the answers there were made with {said}"):
        run(given, Knowing(), tmp_path / "out", how, model)


def test_a_shard_that_was_tampered_with_is_named(given: Given, tmp_path: Path) -> None:
    run(given, Knowing(), tmp_path / "out")
    path = tmp_path / "out" / "answers-00001.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(
        ValueError, match=r"answers-00001\.jsonl does not hold the answers to its 4 questions; delete it"
    ):
        run(given, Knowing(), tmp_path / "out")


def test_a_part_is_scored_as_one(given: Given, tmp_path: Path) -> None:
    found = run(given, Knowing(), tmp_path / "out", replace(HOW, num_items=4))
    assert found["counts"] == {"questions": 10, "answers": 4}
    assert found["protocol"]["incomplete"] is True


def test_a_judged_benchmark_is_scored_once_there_are_reviews(given: Given, tmp_path: Path) -> None:
    found = run(given, Knowing(), tmp_path / "out", benchmark=Judged())
    assert found["metrics"] == {}
    assert found["counts"] == {"answers": 10}
    assert found["warnings"] == [
        "benchmark=judged is scored from reviews of its answers, and there are none: give judge=…, or score "
        f"{tmp_path / 'out' / 'answers.jsonl'} with reviews=…."
    ]

    def review(given: Given) -> Given:
        assert given.answers == tmp_path / "out" / "answers.jsonl"
        path = tmp_path / "reviews.jsonl"
        path.write_text('{"reply": "It is 4"}\n{"reply": "It is 1"}\n')
        return replace(given, reviews=path, judge="me")

    found = run(given, Knowing(), tmp_path / "out", benchmark=Judged(), review=review)
    assert (found["score"], found["protocol"]["judge"]) == (2.5, "me")


def test_each_question_has_a_seed_of_its_own(given: Given, tmp_path: Path) -> None:
    seeds = []
    for seed in (0, 0, 1):
        engine = Knowing()
        how = replace(HOW, seed=seed)
        questions = questions_of(Exam(), given, how, tmp_path / "pictures")
        answer(questions, engine, "m", tmp_path / f"{len(seeds)}", how, Exam.decoding)
        seeds.append([one for some in engine.seeds for one in some])
    assert seeds[0] == seeds[1] != seeds[2]
    assert len({*seeds[0]}) == len(seeds[0])


def test_a_real_model_answers(given: Given, model: Any, prompter: Prompter, tmp_path: Path) -> None:
    """Question by question, as the engine does to each alone."""
    engine = LocalEngine(model, prompter)
    run(given, engine, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "answers-00000.jsonl").read_text().splitlines()]
    images = {f"{10 * k + half}": k for k in range(5) for half in range(2)}
    paths = [*(str(tmp_path / "exam" / "images" / f"{k}.png") for k in range(4))]
    for row in rows[:4]:
        prompt = Prompt("", row["question"], (paths[images[row["id"]]],))
        ((alone,),) = engine.sample([prompt], [[0]], Exam.decoding)
        assert row["answer"] == engine.decode(alone.token_ids)
