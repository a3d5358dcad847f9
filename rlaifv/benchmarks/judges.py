"""Ask a judge about answers to a benchmark, and store every raw reply in a journal, so that none is asked for twice.

The benchmark defines the requests and scores the replies; this module collects them. The journal
is JSON Lines, one reply each: id, stage, reply, judge, and the hashes of template and conversation. A run that was
interrupted continues from it. Another template, judge or answer has other entries.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlaifv.benchmarks.protocol import Given, JudgedBenchmark, Stage
from rlaifv.benchmarks.templates import fill
from rlaifv.engines.chat import Chat, NoReply
from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.store.atomic import append_line, make_directory, write_text

KEY_VARIABLE = "RLAIFV_JUDGE_KEY"
NUM_TRIES = 2
REMINDER = "Your reply could not be read. Give it again, in exactly the form that was asked for."
CHUNK = 16
FIELDS = ("id", "stage", "reply", "judge", "template", "conversation")


@dataclass(frozen=True, slots=True)
class Judged:
    """The result of asking a judge.

    Attributes:
        reviews: rows of a file of reviews: id, the reply of each stage under its name, judge, and hash of the templates.
            An answer that got no reply in some stage has none.
        num_invalid: replies that could not be read, asked for twice; the benchmark's rule says what they are worth.
        silent: why an answer has no review, by id.
    """

    reviews: list[dict[str, str]]
    num_invalid: int
    silent: dict[str, str]


def judge_answers(
    benchmark: JudgedBenchmark,
    given: Given,
    chat: Chat,
    judge: str,
    journal: Path,
    templates: Sequence[str | None] = (),
    advance: Advance = ignore_progress,
) -> Judged:
    """Ask a judge about every answer to a benchmark.

    Args:
        benchmark: what is asked.
        given: with the answers.
        chat: who replies.
        judge: its name; it is stored with every review, and stands for the model, its revision and how it decodes.
        journal: where replies are stored.
        templates: for each stage, the official question instead of this project's own; None keeps that.
        advance: told of finished conversations; there is one for each answer and stage.

    Raises:
        ValueError: there are more templates than stages, a template lacks a placeholder, a file is not of its form, or the
            journal is none.
        ConnectionError: the judge replied to nothing.
    """
    if len(templates) > len(benchmark.stages):
        raise ValueError(
            f"There are {len(templates)} templates, but {benchmark.name} asks its judge in {len(benchmark.stages)} stages."
        )
    own = [*templates, *[None] * (len(benchmark.stages) - len(templates))]
    stages = [
        replace(stage, template=text or stage.template) for stage, text in zip(benchmark.stages, own, strict=True)
    ]
    return judge_all(chat, judge, stages, benchmark.conversations(given, stages[0].template), journal, advance)


def judge_all(
    chat: Chat,
    judge: str,
    stages: Sequence[Stage],
    asked: Sequence[tuple[str, str]],
    journal: Path,
    advance: Advance = ignore_progress,
) -> Judged:
    """Ask a judge in one or more stages; each later one is asked about the reply of the one before.

    An unreadable reply is requested once more; the last reply counts.

    Args:
        chat: who replies.
        judge: its name.
        stages: what is asked.
        asked: id and conversation of each answer in the first stage.
        journal: where replies are stored.
        advance: told of finished conversations.

    Raises:
        ValueError: the journal is none, or an id comes twice.
        ConnectionError: the judge replied to nothing.
    """
    if len({one for one, _ in asked}) < len(asked):
        raise ValueError("Two conversations with the judge have the same id.")
    journal_of = _Journal(journal, judge)
    hashes = [_hash(stage.template) for stage in stages]
    rows: dict[str, dict[str, str]] = {one: {"id": one} for one, _ in asked}
    silent: dict[str, str] = {}
    num_invalid, conversations = 0, dict(asked)
    for number, stage in enumerate(stages):
        if number:
            before = stages[number - 1].name
            conversations = {one: fill(stage.template, {"review": rows[one][before]}) for one in conversations}
        replies, reasons = _ask(chat, stage, hashes[number], conversations, journal_of, advance)
        advance(len(silent))  # nothing to ask about
        silent |= reasons
        num_invalid += sum(not stage.is_valid(reply) for reply in replies.values())
        for one, reply in replies.items():
            rows[one][stage.name] = reply
        conversations = {one: text for one, text in conversations.items() if one in replies}
    known = {"judge": judge, "template": hashes[0] if len(hashes) == 1 else _hash("".join(hashes))}
    return Judged([rows[one] | known for one in rows if one not in silent], num_invalid, silent)


def write_reviews(path: Path, judged: Judged) -> None:
    """Publish reviews as the JSON Lines that a benchmark's `score` reads."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in judged.reviews))


def _ask(
    chat: Chat,
    stage: Stage,
    template: str,
    conversations: Mapping[str, str],
    journal: "_Journal",
    advance: Advance,
) -> tuple[dict[str, str], dict[str, str]]:
    """Return replies by id, and why the others have none."""
    keys = {one: (one, stage.name, template, _hash(text)) for one, text in conversations.items()}
    silent: dict[str, str] = {}

    def is_open(one: str) -> bool:
        known = journal.replies.get(keys[one], [])
        return not (known and (stage.is_valid(known[-1]) or len(known) >= NUM_TRIES))

    todo = [one for one in conversations if is_open(one)]
    advance(len(conversations) - len(todo))
    for start in range(0, len(todo), CHUNK):
        chunk = todo[start : start + CHUNK]
        for _ in range(NUM_TRIES):
            some = [one for one in chunk if one not in silent and is_open(one)]
            replied = chat.reply_all([_turns(conversations[one], journal.replies.get(keys[one])) for one in some])
            for one, reply in zip(some, replied, strict=True):
                if isinstance(reply, NoReply):
                    silent[one] = str(reply)
                else:
                    journal.add(keys[one], reply)
        if not any(key in journal.replies for key in keys.values()):
            raise ConnectionError(f"The judge replied to none of {len(chunk)} conversations: {silent[chunk[0]]}.")
        advance(len(chunk))
    replies = {one: journal.replies[key][-1] for one, key in keys.items() if key in journal.replies}
    return replies, {one: reason for one, reason in silent.items() if one not in replies}


def _turns(text: str, known: Sequence[str] | None) -> list[str]:
    """Return the conversation with a judge, with a reminder after an unreadable reply, which it would repeat otherwise."""
    return [text, known[-1], REMINDER] if known else [text]


class _Journal:
    """The replies of one judge, of earlier runs and of this one. New replies are written at once.

    `replies` are by id, stage, hash of the template and hash of the conversation, in the order in which they came.
    """

    def __init__(self, path: Path, judge: str) -> None:
        self.path, self.judge = path, judge
        self.replies: dict[tuple[str, ...], list[str]] = {}
        make_directory(path.parent.absolute())
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):  # what a crash left of a reply
            write_text(path, "".join(lines[:-1]))
        for number, line in enumerate(lines, start=1):
            if line.endswith("\n"):
                self._take(line, number)

    def add(self, key: tuple[str, ...], reply: str) -> None:
        one, stage, template, conversation = key
        values = (one, stage, reply, self.judge, template, conversation)
        append_line(self.path, json.dumps(dict(zip(FIELDS, values, strict=True)), ensure_ascii=True))
        self.replies.setdefault(key, []).append(reply)

    def _take(self, line: str, number: int) -> None:
        try:
            row: Any = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in FIELDS):
            raise ValueError(f"Line {number} of {self.path} is no reply of a judge with {', '.join(FIELDS)}.")
        if row["judge"] == self.judge:
            key = tuple(row[name] for name in ("id", "stage", "template", "conversation"))
            self.replies.setdefault(key, []).append(row["reply"])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
