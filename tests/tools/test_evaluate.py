"""The command on a small model: what it writes, what it does not do twice, and what it refuses."""

import json
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from rlaifv.benchmarks.outcome import outcome
from rlaifv.benchmarks.protocol import Given
from rlaifv.engines.chat import Conversation, LocalChat, NoReply, ServerChat
from rlaifv.engines.local import LocalEngine
from rlaifv.metrics.mme import TASKS
from rlaifv.records import Prompt
from tests.benchmarks.fakes import Exam, Judged, register, write_exam
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
    header, row = (out / "metrics.csv").read_text().splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True))["benchmark/exam/accuracy"] == str(exam["accuracy"])


def test_numbers_are_logged_once_or_nowhere(words: list[str], tmp_path: Path) -> None:
    log = tmp_path / "out" / "metrics.csv"
    main([*words, "benchmark=exam", "logger=none"])
    assert not log.exists()
    for _ in range(2):
        main([*words, "benchmark=exam"])
        assert len(log.read_text().splitlines()) == 2
    with pytest.raises(SystemExit):
        main([*words, "benchmark=exam", "logger=paper"])


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
        (["benchmark=exam", "invalid_judge=skip"], "invalid_judge=skip has no effect on benchmark=exam."),
        (["benchmark=judged", "invalid_judge=mend"], "invalid_judge=mend must be one of official, skip, raise"),
        (["benchmark=judged", "judge_model=m"], "judge_model=m has no effect without judge=…."),
        (["benchmark=judged", "judge=http://h/v1"], "judge=http://h/v1 needs judge_model=…, the model's name on"),
        (["benchmark=exam", "num_items=0"], "num_items=0 must be at least 1."),
        (["benchmark=exam", "dtype=int8"], "dtype=int8 must be one of auto, float32, bfloat16, float16."),
        (["benchmark=[exam,judged]", "parser=strict"], "parser=… has no effect on benchmark=judged"),
        (["benchmark=exam", "exam.parser=mine"], "parser=mine must be one of official, strict"),
        (
            ["benchmark=exam", "judge_template=t"],
            "judge_template=t has no effect on benchmark=exam, whose answers no judge",
        ),
        (["benchmark=judged", "judge_template=t"], "judge_template=t has no effect without judge=…."),
        (["benchmark=judged", "judge=j", "judge_template=t"], "judge_template=t does not exist."),
        (
            ["benchmark=judged", "judge=j", "judge_template=[t,u]"],
            "judge_template=[t,u] names 2 files; judged asks in 1 stages.",
        ),
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
    assert (found["counts"], found["protocol"]["invalid_judge"]) == ({"reviews": 6}, "official")
    main([*words, "benchmark=judged", "judge=http://host/v1", "judge_model=wise", "invalid_judge=skip"])
    (found,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["protocol"]["invalid_judge"] == "skip"


def write_mmhal(words: list[str], prompts: Sequence[Prompt], tmp_path: Path) -> None:
    """Two questions in the official form, and a judge of one's own words."""
    place = tmp_path / "data" / "mmhal"
    (place / "images").mkdir(parents=True)
    rows = []
    for k, prompt in enumerate(prompts[:2]):
        shutil.copy(prompt.image_paths[0], place / "images" / f"{k}.png")
        about = {"question_type": "attribute", "question_topic": "outdoor", "image_id": f"x{k}"}
        asked = {"question": "Which colour is the kettle?", "gt_answer": "It is red.", "model_answer": ""}
        rows.append({**about, "image_src": f"https://host/{k}.png", "image_content": ["Kettle"], **asked})
    (place / "response_template.json").write_text(json.dumps(rows))
    words += ["benchmark=mmhal", "max_new_tokens=4", "judge=http://host/v1", "judge_model=wise"]


class Rater:
    """Rates everything 4, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def reply_all(self, conversations: Sequence[Conversation]) -> list[str | NoReply]:
        self.asked += [one[0] for one in conversations]
        return ["Fine. Rating: 4"] * len(conversations)


def test_an_official_question_to_the_judge(
    words: list[str], prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the place of this project's own, and the protocol tells the two apart."""
    write_mmhal(words, prompts, tmp_path)
    rater = Rater()
    monkeypatch.setattr("tools.evaluate._chat", lambda options: rater)
    assert main(words) == 0
    (own,) = json.loads((tmp_path / "out" / "results.json").read_text())
    template = tmp_path / "official.txt"
    template.write_text("\ufeffJudge {contents}; {question}; {human_answer}: {answer}", encoding="utf-8")
    assert main([*words, f"judge_template={template}"]) == 0
    (found,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (found["score"], len(rater.asked)) == (4.0, 4)
    assert rater.asked[2].startswith("Judge Kettle; Which colour is the kettle?; It is red.: ")
    assert found["protocol"]["template"] == sha256(template.read_text("utf-8-sig").encode()).hexdigest()[:16]
    assert found["protocol"]["template"] != own["protocol"]["template"]
    assert found["fingerprint"] != own["fingerprint"]
    main([*words, f"judge_template=[{template}]"])
    assert len(rater.asked) == 4  # nothing anew


def test_a_question_to_the_judge_without_a_place_is_refused_at_once(
    words: list[str],
    prompts: list[Prompt],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_mmhal(words, prompts, tmp_path)
    monkeypatch.setattr("tools.evaluate.load_model", lambda *_: pytest.fail("weights were loaded"))
    (tmp_path / "official.txt").write_text("Judge {contents}; {question}; {answer}")
    with pytest.raises(SystemExit):
        main([*words, f"judge_template={tmp_path / 'official.txt'}"])
    said = f"judge_template={tmp_path / 'official.txt'}: The judge's template has no {{human_answer}}; it needs {{contents}},"
    assert said in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*words[:-4], *words[-3:], "benchmark=[mmhal,judged]", "judge_template=official.txt"])
    assert "is for one judged benchmark, but benchmark=[mmhal,judged] has mmhal, judged." in capsys.readouterr().out


def test_one_that_cannot_be_scored_does_not_take_the_others_along(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def undefined(*_: object) -> None:
        raise ValueError("precision is undefined.")

    monkeypatch.setattr(Judged, "score", undefined)
    monkeypatch.setattr("tools.evaluate._chat", lambda options: Rater())
    assert main([*words, "benchmark=[judged,exam]", "judge=somebody"]) == 2
    output = capsys.readouterr().out
    assert "error: benchmark=judged has no result: precision is undefined." in output
    assert [one["benchmark"] for one in json.loads((tmp_path / "out" / "results.json").read_text())] == ["exam"]
    assert (tmp_path / "out" / "judged" / "answers.jsonl").exists()
    (tmp_path / "out" / "results.json").unlink()
    assert main([*words, "benchmark=judged", "judge=somebody"]) == 2
    assert "results:" not in capsys.readouterr().out


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
