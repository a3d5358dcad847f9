"""Judging with a judge that follows a script, and with a server on this machine."""

import json
import re
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks import judges, mmhal, refomb
from rlaifv.benchmarks.judges import KEY_VARIABLE, judge_all, judge_answers, write_reviews
from rlaifv.benchmarks.protocol import Given, Stage
from rlaifv.engines.chat import Conversation, LocalChat, NoReply, ServerChat

ONE = [Stage("reply", "Is {answer} good?", lambda reply: reply in ("yes", "no"))]
TWO = [*ONE, Stage("second", "Sum up {review}", lambda reply: reply.startswith("so"))]
ASKED = [("a", "Is a good?"), ("b", "Is b good?"), ("c", "Is c good?")]


class Script:
    """Replies by a table from what is asked to its replies, the last of which repeats; remembers what was asked."""

    def __init__(self, replies: dict[str, list[str | NoReply]], fallback: str | NoReply = "yes") -> None:
        self.replies, self.fallback = {text: list(some) for text, some in replies.items()}, fallback
        self.asked: list[str] = []

    def reply_all(self, conversations: Sequence[Conversation]) -> list[str | NoReply]:
        for told in conversations:  # once more with what was said, and a reminder
            assert len(told) == 1 or (len(told), told[2]) == (3, judges.REMINDER)
        self.told = [list(told) for told in conversations]
        return [self._reply(told[0]) for told in conversations]

    def _reply(self, text: str) -> str | NoReply:
        self.asked.append(text)
        some = self.replies.get(text, [self.fallback])
        return some.pop(0) if len(some) > 1 else some[0]


def test_replies_are_stored_and_never_asked_for_again(tmp_path: Path) -> None:
    chat, journal = Script({"Is b good?": ["no"]}), tmp_path / "new" / "journal.jsonl"
    first = judge_all(chat, "j", ONE, ASKED, journal)
    assert [row["reply"] for row in first.reviews] == ["yes", "no", "yes"]
    assert [row["id"] for row in first.reviews] == ["a", "b", "c"]
    assert (first.num_invalid, first.silent) == (0, {})
    stored = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    assert stored[1] == {
        "id": "b", "stage": "reply", "reply": "no", "judge": "j", "template": stored[0]["template"],
        "conversation": stored[1]["conversation"],
    }  # fmt: skip
    again = Script({})
    assert judge_all(again, "j", ONE, ASKED, journal) == first
    assert again.asked == []


@pytest.mark.parametrize("change", ["judge", "template", "conversation", "id", "stage"])
def test_a_reply_to_something_else_is_not_taken(tmp_path: Path, change: str) -> None:
    journal = tmp_path / "journal.jsonl"
    judge_all(Script({}), "j", ONE, ASKED[:1], journal)
    stages, asked = ONE, ASKED[:1]
    if change == "template":
        stages = [Stage("reply", "Other {answer}?", ONE[0].is_valid)]
    elif change == "stage":
        stages = [Stage("other", ONE[0].template, ONE[0].is_valid)]
    elif change == "conversation":
        asked = [("a", "Is a great?")]
    elif change == "id":
        asked = [("x", "Is a good?")]
    chat = Script({})
    judge_all(chat, "k" if change == "judge" else "j", stages, asked, journal)
    assert len(chat.asked) == 1


def test_what_cannot_be_read_is_asked_for_once_more_and_then_counted(tmp_path: Path) -> None:
    chat = Script({"Is a good?": ["hm", "no"], "Is b good?": ["hm", "well", "yes"]})
    judged = judge_all(chat, "j", ONE, ASKED, tmp_path / "journal.jsonl")
    assert [row["reply"] for row in judged.reviews] == ["no", "well", "yes"]
    assert judged.num_invalid == 1
    assert chat.told == [["Is a good?", "hm", judges.REMINDER], ["Is b good?", "hm", judges.REMINDER]]
    assert sorted(chat.asked) == sorted([text for _, text in ASKED] + ["Is a good?", "Is b good?"])
    again = Script({})
    assert judge_all(again, "j", ONE, ASKED, tmp_path / "journal.jsonl") == judged
    assert again.asked == []


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "CHUNK", 1)
    journal, chat = tmp_path / "journal.jsonl", Script({})
    reply = chat._reply

    def stop_at_c(text: str) -> str | NoReply:
        if "c" in text.split():
            raise KeyboardInterrupt
        return reply(text)

    monkeypatch.setattr(chat, "_reply", stop_at_c)
    with pytest.raises(KeyboardInterrupt):
        judge_all(chat, "j", ONE, ASKED, journal)
    with journal.open("a", encoding="utf-8") as file:
        file.write('{"id": "c", "rep')  # a crash within a line
    seen: list[int] = []
    after = Script({})
    judged = judge_all(after, "j", ONE, ASKED, journal, seen.append)
    assert after.asked == ["Is c good?"]
    assert [row["reply"] for row in judged.reviews] == ["yes"] * 3
    assert sum(seen) == 3
    assert len([json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]) == 3


def test_no_reply_is_not_stored_but_told_and_asked_for_next_time(tmp_path: Path) -> None:
    journal, seen = tmp_path / "journal.jsonl", list[int]()
    chat = Script({"Is b good?": [NoReply("too long")]})
    judged = judge_all(chat, "j", TWO, ASKED, journal, seen.append)
    assert judged.silent == {"b": "too long"}
    assert [row["id"] for row in judged.reviews] == ["a", "c"]
    assert sum(seen) == 6
    assert chat.asked.count("Is b good?") == 1
    again = Script({}, fallback="so yes")
    assert [row["id"] for row in judge_all(again, "j", TWO, ASKED, journal).reviews] == ["a", "b", "c"]
    assert "Is b good?" in again.asked
    assert "Is a good?" not in again.asked


def test_a_reply_that_could_not_be_read_stays_if_there_is_no_other(tmp_path: Path) -> None:
    chat = Script({"Is a good?": ["hm", NoReply("off")]})
    judged = judge_all(chat, "j", ONE, ASKED[:1], tmp_path / "journal.jsonl")
    assert (judged.reviews[0]["reply"], judged.num_invalid, judged.silent) == ("hm", 1, {})


def test_a_judge_that_replies_to_nothing_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="The judge replied to none of 3 conversations: it is off"):
        judge_all(Script({}, NoReply("it is off")), "j", ONE, ASKED, tmp_path / "journal.jsonl")


def test_the_second_stage_is_asked_about_the_first_reply(tmp_path: Path) -> None:
    chat = Script({"Is a good?": ["no"], "Sum up no": ["so bad"], "Sum up yes": ["so good"]})
    judged = judge_all(chat, "j", TWO, ASKED, tmp_path / "journal.jsonl")
    assert [(row["reply"], row["second"]) for row in judged.reviews] == [
        ("no", "so bad"), ("yes", "so good"), ("yes", "so good"),
    ]  # fmt: skip


def test_ids_and_journals_must_be_what_they_should(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    with pytest.raises(ValueError, match="Two conversations with the judge have the same id"):
        judge_all(Script({}), "j", ONE, [ASKED[0], ASKED[0]], journal)
    journal.write_text('{"id": "a"}\n', encoding="utf-8")
    with pytest.raises(
        ValueError, match=re.escape(f"Line 1 of {journal} is no reply of a judge with id, stage, reply")
    ):
        judge_all(Script({}), "j", ONE, ASKED, journal)


def mmhal_answers(folder: Path) -> Given:
    rows = [
        {"image_content": ["Cup"], "question": f"How many {k}?", "gt_answer": "Two.", "model_answer": f"{k} cups"}
        for k in range(8)
    ]
    path = folder / "answers.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return Given(answers=path)


def test_reviews_are_what_a_benchmark_scores(tmp_path: Path) -> None:
    given = mmhal_answers(tmp_path)
    chat = Script({}, fallback="Fine.\nRating: 5")
    template = "{contents} {question} {human_answer} {answer}"
    chat.replies["Cup How many 3? Two. 3 cups"] = ["No idea."]
    judged = judge_answers(mmhal.BENCHMARK, given, chat, "m@1", tmp_path / "journal.jsonl", [template])
    path = tmp_path / "reviews.jsonl"
    write_reviews(path, judged)
    result = mmhal.BENCHMARK.score(Given(answers=given.answers, reviews=path))
    assert result.metrics["score"] == round(35 / 8, 2)
    assert (result.num_invalid, judged.num_invalid, len(chat.asked)) == (1, 1, 9)
    assert result.protocol["judge"] == "m@1"
    assert result.protocol["template"] == judges._hash(template)
    with pytest.raises(ValueError, match="There are 2 templates, but mmhal asks its judge in 1 stages"):
        judge_answers(mmhal.BENCHMARK, given, chat, "m", path, ["{a}", "{b}"])
    with pytest.raises(ValueError, match=re.escape("The judge's template has no {contents}")):
        judge_answers(mmhal.BENCHMARK, given, chat, "m", path, ["{question}"])


def test_refomb_asks_twice(tmp_path: Path) -> None:
    row = {"id": 5, "image_url": "u", "question": "Q?", "description": "D.", "type": "OCR", "answer": "R."}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    chat = Script({}, fallback="model B has fewer, model A is nicer: [[A]]")
    judged = judge_answers(
        refomb.BENCHMARK, Given(questions=path, answers=path), chat, "m", tmp_path / "j.jsonl", [None, "Now {review}"]
    )
    assert '"R."' in chat.asked[0]
    assert chat.asked[1] == "Now model B has fewer, model A is nicer: [[A]]"
    write_reviews(tmp_path / "reviews.jsonl", judged)
    result = refomb.BENCHMARK.score(Given(questions=path, reviews=tmp_path / "reviews.jsonl"))
    assert (result.metrics["win"], result.metrics["trust"]) == (0, 0)


@pytest.fixture
def server() -> Iterator[tuple[str, list[str | None]]]:
    """An OpenAI-compatible server that rates every answer 4, and the keys that it was sent."""
    keys: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            keys.append(self.headers.get("Authorization"))
            said = f"{len(body['messages'][0]['content'])} letters. Rating: 4"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": said}}]}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/v1", keys
    running.shutdown()
    running.server_close()


def test_a_server_judges(server: tuple[str, list[str | None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, keys = server
    monkeypatch.setenv(KEY_VARIABLE, "sk-judge")
    chat = ServerChat(url, "m", 64, 4, 5.0, 0, KEY_VARIABLE)
    judged = judge_answers(mmhal.BENCHMARK, mmhal_answers(tmp_path), chat, "m", tmp_path / "journal.jsonl")
    assert [row["id"] for row in judged.reviews] == [str(k) for k in range(8)]
    assert all(row["reply"].endswith("Rating: 4") for row in judged.reviews)
    assert keys == ["Bearer sk-judge"] * 8
    assert "sk-judge" not in (tmp_path / "journal.jsonl").read_text(encoding="utf-8")


def test_a_model_in_this_process_judges(chat_dir: Path, tmp_path: Path) -> None:
    """A random model never gives a rating: each answer is asked about twice, counted, and scored 0."""
    chat = LocalChat(str(chat_dir), None, "float32", 4, 6)
    judged = judge_answers(
        mmhal.BENCHMARK, mmhal_answers(tmp_path), chat, "m", tmp_path / "j.jsonl",
        ["{contents} {question} {human_answer} {answer}"],
    )  # fmt: skip
    assert (len(judged.reviews), judged.num_invalid) == (8, 8)
    assert len((tmp_path / "j.jsonl").read_text(encoding="utf-8").splitlines()) == 16
