"""MMStar's files: a table of 1500 questions with their images in base64, and answers with `index` and `prediction`.

A short text in the column `image` is the index of the row that has the image.
"""

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaifv.benchmarks.files import by_id, field_of, match_ids, read_table, required
from rlaifv.benchmarks.protocol import Benchmark, Given, Item, Result
from rlaifv.metrics.mmstar import CATEGORIES, NUM_QUESTIONS, MMStar, Parser
from rlaifv.models.sampling import Decoding

LETTERS = ("A", "B", "C", "D")
MAX_REFERENCE_LETTERS = 64  # the smallest picture is longer


class MMStarBench:
    """MMStar (arXiv 2403.20330); the metric is `rlaifv.metrics.mmstar.MMStar`."""

    name = "mmstar"
    uses: tuple[str, ...] = ("questions", "parser")
    parsers: tuple[str, ...] = ("official", "lmms_eval")
    decoding = Decoding(temperature=0.0, max_new_tokens=512)

    def items(self, given: Given) -> list[Item]:
        """Return the questions, their options included, with the bytes of their image."""
        path = required(given.questions, "questions", self.name)
        rows = self._questions(path)
        return [Item(key, row["question"], (_image(rows, key, path),)) for key, row in rows.items()]

    def answer_rows(self, given: Given, items: Sequence[Item], texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return rows with index, what the official scorer reads of the question, and prediction."""
        rows = self._questions(required(given.questions, "questions", self.name))
        names = ("question", "answer", "category", "l2_category", "bench")
        return [
            {
                "index": int(item.id) if item.id.isdecimal() else item.id,
                **{name: rows[item.id][name] for name in names if name in rows[item.id]},
                "prediction": text,
            }
            for item, text in zip(items, texts, strict=True)
        ]

    def score(self, given: Given) -> Result:
        """Score the answers against the keys in the questions, or without them in the answers' own rows.

        Without a file of answers, they are read from the questions.
        """
        path = required(given.answers or given.questions, "answers", self.name)
        answers = _by_index(path)
        for number, row in enumerate(answers.values(), start=1):
            field_of(row, "prediction", str, number, path)
        questions = self._questions(given.questions) if given.questions else _checked(answers, path)
        ids = match_ids(questions, list(answers), path, given.allow_incomplete)
        if not ids:
            raise ValueError(f"There is nothing to score in {path}.")
        parser: Parser = given.parser  # type: ignore[assignment]  # one of `parsers`, as the caller sees to
        truths = [questions[key] for key in ids]
        metric = MMStar(
            [row["answer"] for row in truths], [(row["category"], row["l2_category"]) for row in truths], parser
        )
        metric.update([answers[key]["prediction"] for key in ids])
        metrics: dict[str, Any] = {}
        for name, value in metric.compute().items():
            category, _, below = name.partition("/")
            place = metrics.setdefault("subcategories", {}).setdefault(category, {}) if below else metrics
            place[below or category] = value.item()
        size = len(questions)
        warnings = []
        if size != NUM_QUESTIONS:
            warnings.append(f"There are {size} questions, but MMStar has {NUM_QUESTIONS}.")
        if parser == "official" and len(ids) != NUM_QUESTIONS:
            warnings.append("The official scorer divides by 1500 and 250, however many answers there are.")
        return Result(
            metrics=metrics,
            counts={"questions": size, "scored": len(ids), "missing": size - len(ids)},
            num_invalid=metric.num_invalid,
            version="MMStar" if size == NUM_QUESTIONS else f"{size} questions",
            protocol={"parser": parser, "incomplete": len(ids) < size},
            warnings=tuple(warnings),
        )

    def _questions(self, path: Path | None) -> dict[str, dict[str, Any]]:
        path = required(path, "questions", self.name)
        rows = _by_index(path)
        for number, row in enumerate(rows.values(), start=1):
            field_of(row, "question", str, number, path)
        return _checked(rows, path)


def _by_index(path: Path) -> dict[str, dict[str, Any]]:
    rows = read_table(path)
    ids = [str(field_of(row, "index", (int, str), number, path)) for number, row in enumerate(rows, start=1)]
    return by_id(rows, ids, path, "index")


def _checked(rows: dict[str, dict[str, Any]], path: Path) -> dict[str, dict[str, Any]]:
    for number, row in enumerate(rows.values(), start=1):
        answer, category, _ = (field_of(row, name, str, number, path) for name in ("answer", "category", "l2_category"))
        for name, value, known in (("answer", answer.strip().upper(), LETTERS), ("category", category, CATEGORIES)):
            if value not in known:
                wanted = ", ".join(known)
                raise ValueError(
                    f"Field {name!r} in row {number} of {path} has to be one of {wanted}, but it is {row[name]!r:.60}."
                )
    return rows


def _image(rows: dict[str, dict[str, Any]], key: str, path: Path) -> bytes:
    """Return the picture of a row: bytes in a Parquet table, base64 or the index of another row elsewhere."""
    text = rows[key].get("image", "")
    text = text.get("bytes") if isinstance(text, dict) else text
    if isinstance(text, bytes):
        return text
    text = str(text)
    if len(text) <= MAX_REFERENCE_LETTERS:
        text = rows.get(text, {}).get("image", "")
    if len(text) <= MAX_REFERENCE_LETTERS:
        raise ValueError(f"The image of index {key} in {path} is neither a picture nor the index of a row with one.")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"The image of index {key} in {path} is not base64: {error}.") from error


BENCHMARK: Benchmark = MMStarBench()
