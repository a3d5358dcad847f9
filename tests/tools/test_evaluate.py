"""The command on a small model: what it writes, what it does not do twice, and what it refuses."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlaifv.engines.chat import Conversation, LocalChat, NoReply, ServerChat
from rlaifv.engines.local import LocalEngine
from rlaifv.evaluation.benchmarks.outcome import outcome
from rlaifv.evaluation.benchmarks.protocol import Given
from rlaifv.evaluation.mme import TASKS
from rlaifv.records import Prompt
from tests.evaluation.benchmarks.fakes import Exam, register, write_exam
from tools.evaluate import Options, _chat, main


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture
def words(prompts: list[Prompt], model_dir: Path, tmp_path: Path) -> list[str]:
    for name in ("exam", "judged"):
        write_exam(tmp_path / "data", prompts[:3], name)
    return [f"model={model_dir}", f"data_root={tmp_path / 'data'}", f"out={tmp_path / 'out'}", "shard_items=2"]


def test_it_answers_scores_and_writes(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "benchmark=[exam, judged]", "suffix= Now."]) == 0
    output = capsys.readouterr().out
    out = tmp_path / "out"
    exam, judged = json.loads((out / "results.json").read_text())
    assert (exam["model"], exam["benchmark"], exam["counts"]) == (words[0][6:], "exam", {"questions": 6, "answers": 6})
    assert len(exam["model_sha256"]) == 64
    assert exam["protocol"]["prompt"]["suffix"] == " Now."
    # The same as of the files that it leaves behind.
    given = Given(questions=tmp_path / "data" / "exam" / "questions.jsonl", answers=out / "exam" / "answers.jsonl")
    assert outcome(Exam(), given)["metrics"] == exam["metrics"]
    assert len([*(out / "exam").glob("answers-*.jsonl")]) == 3
    assert (judged["metrics"], judged["counts"]) == ({}, {"answers": 6})
    text = (out / "results.md").read_text()
    assert f"| exam | accuracy | {exam['accuracy']:.2f} |" in text
    assert f"Protocol `{exam['fingerprint']}`" in text
    assert "- warning: benchmark=judged is scored from reviews of its answers" in text
    assert "exam (6 questions)" in output
    assert output.rstrip().endswith(f"results: {out / 'results.json'}")


def test_a_second_run_asks_nothing_and_another_kind_is_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main([*words, "benchmark=exam"])
    before = (tmp_path / "out" / "results.json").read_bytes()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LocalEngine, "sample_questions", lambda *_, **__: pytest.fail("it asked again"))
        main([*words, "benchmark=exam"])
    assert (tmp_path / "out" / "results.json").read_bytes() == before
    with pytest.raises(SystemExit):
        main([*words, "benchmark=exam", "suffix=?"])
    assert "the answers there were made with suffix '', but now it is '?'" in capsys.readouterr().out


def test_own_paths_and_a_part(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "data" / "exam" / "questions.jsonl").rename(tmp_path / "own.jsonl")
    main([*words, "benchmark=exam", f"exam.questions={tmp_path / 'own.jsonl'}", "num_items=3", "max_new_tokens=4"])
    (found,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["counts"] == {"questions": 6, "answers": 4}
    assert found["protocol"]["decoding"]["deviations"] == ["Answers end after 4 tokens, not after 12."]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["benchmark=[exam,exam]"], "benchmark=[exam,exam] names one twice."),
        (["benchmark=exams"], "benchmark=exams is not one of amber"),
        (["benchmark=exam", "judged.questions=q"], "judged.questions=q has no effect on benchmark=exam."),
        (["benchmark=exam", "exam.question=q"], "exam.question=… is not one of questions, answers"),
        (["benchmark=exam", "exam.nouns=n"], "nouns=… has no effect on benchmark=exam"),
        (["benchmark=exam", "exam.questions=q"], "questions=q does not exist."),
        (["benchmark=exam", "judge=somebody"], "judge=somebody has no effect on benchmark=exam."),
        (["benchmark=judged", "judge_model=m"], "judge_model=m has no effect without judge=…."),
        (["benchmark=judged", "judge=http://h/v1"], "judge=http://h/v1 needs judge_model=…, the model's name on"),
        (["benchmark=exam", "num_items=0"], "num_items=0 must be at least 1."),
        (["benchmark=exam", "dtype=int8"], "dtype=int8 must be one of auto, float32, bfloat16, float16."),
        (["benchmark=exam", "parser=mine"], "parser=mine must be one of official, strict"),
    ],
)
def test_what_cannot_be_done_is_said_before_weights_are_loaded(
    more: list[str], said: str, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.evaluate.load_model", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(SystemExit) as ended:
        main([*words, *more])
    assert ended.value.code == 2
    assert f"error: {said}" in capsys.readouterr().out


def test_a_data_root_without_the_benchmark(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words[1] = f"data_root={tmp_path}"
    with pytest.raises(SystemExit):
        main([*words, "benchmark=exam"])
    assert f"data_root={tmp_path} holds no directory exam" in capsys.readouterr().out


class Judge:
    """Gives every answer but the first a 4."""

    asked = 0

    def reply_all(self, conversations: Sequence[Conversation]) -> list[str | NoReply]:
        first = 0 if self.asked else 1
        self.asked += len(conversations)
        return [NoReply("busy")] * first + ["It is 4"] * (len(conversations) - first)


def test_a_judge_reads_the_answers(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge()
    monkeypatch.setattr("tools.evaluate._chat", lambda options: judge)
    main([*words, "benchmark=judged", "judge=http://host/v1", "judge_model=wise"])
    (found,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (found["score"], found["counts"], found["protocol"]["judge"]) == (4.0, {"reviews": 5}, "wise")
    assert "1 answers to judged have no review, 0 among them: busy." in capsys.readouterr().out
    assert judge.asked == 6
    main([*words, "benchmark=judged", "judge=http://host/v1", "judge_model=wise"])
    assert judge.asked == 7  # the one that it did not reply to
    (found,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["counts"] == {"reviews": 6}


def test_a_judge_is_a_server_or_a_model_of_this_machine() -> None:
    server = _chat(Options(judge="https://host/v1/", judge_model="wise"))
    assert isinstance(server, ServerChat)
    assert (server.url, server.model, server.key_variable) == ("https://host/v1", "wise", "RLAIFV_JUDGE_KEY")
    local = _chat(Options(judge="owner/name"))
    assert isinstance(local, LocalChat)
    assert (local.path, local.dtype) == ("owner/name", "auto")


def test_official_files_of_pope_and_mme(words: list[str], prompts: list[Prompt], tmp_path: Path) -> None:
    """Whole, and in part, from where the official archives put them; scored as their own files are."""
    pope, mme = tmp_path / "data" / "pope", tmp_path / "data" / "mme"
    (pope / "output" / "coco").mkdir(parents=True)
    (pope / "val2014").mkdir()
    for k, prompt in enumerate(prompts[:4]):
        shutil.copy(prompt.image_paths[0], pope / "val2014" / f"{k}.png")
        for task in TASKS:
            (mme / "images" / task).mkdir(parents=True, exist_ok=True)
            shutil.copy(prompt.image_paths[0], mme / "images" / task / f"{k}.png")
    for split in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": 2 * k + half + 1, "image": f"{k}.png", "text": text, "label": label}
            for k in range(4)
            for half, (text, label) in enumerate((("Is there a star?", "yes"), ("Is there a ring?", "no")))
        ]
        path = pope / "output" / "coco" / f"coco_pope_{split}.json"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for task in TASKS:
        lines = [
            f"{k}.png\tIs it {word}?\t{truth}" for k in range(4) for word, truth in (("red", "Yes"), ("blue", "No"))
        ]
        (mme / f"{task}.txt").write_text("\n".join(lines) + "\n")
    assert main([*words, "benchmark=[pope,mme]"]) == 0
    whole = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [one["counts"]["missing"] for one in whole] == [0, 0]
    answers = [json.loads(line) for line in (tmp_path / "out" / "pope" / "answers.jsonl").read_text().splitlines()]
    yes = [not {"No", "no", "not"} & {*row["answer"].split(".")[0].replace(",", "").split(" ")} for row in answers]
    right = sum(said == (k % 2 == 0) for k, said in enumerate(yes))
    assert len(answers) == 24
    assert whole[0]["metrics"]["mean"]["accuracy"] in (pytest.approx(right / 24), pytest.approx(100 * right / 24))
    words[2] = f"out={tmp_path / 'part'}"
    assert main([*words, "benchmark=[pope,mme]", "num_items=8"]) == 0
    pope_part, mme_part = json.loads((tmp_path / "part" / "results.json").read_text())
    assert pope_part["counts"]["missing"] == 12
    assert (mme_part["counts"]["left_out"], mme_part["protocol"]["complete"]) == (24, False)
