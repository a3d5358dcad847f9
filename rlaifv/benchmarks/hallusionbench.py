"""HallusionBench's files: a list of 1129 questions, the same with `model_prediction`, and the reviews of a judge.

The id of a question is its category, subcategory, set, figure and question, joined by "_". Without reviews, answers are read
by the words yes and no. The judge's template has places for {question}, {reference} (the right answer in a sentence) and
{answer}.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaifv.benchmarks.files import by_id, field_of, match_ids, read_rows, required
from rlaifv.benchmarks.protocol import Given, Item, JudgedBenchmark, Result, Stage
from rlaifv.benchmarks.reviews import protocol_of, read_reviews
from rlaifv.benchmarks.templates import fill
from rlaifv.metrics.hallusionbench import (
    UNCLEAR,
    HallusionBench,
    Key,
    check_answer,
    is_verdict,
    read_verdict,
)
from rlaifv.models.sampling import Decoding

EDITIONS = {1129: "HallusionBench", 951: "HallusionBench, with an image only"}
TEMPLATE = """You check a pupil's answer to a question against the right answer.

Question: {question:json}
Right answer: {reference:json}
The pupil's answer: {answer:json}

Reply with one word: "correct" if the pupil's answer agrees with the right one, "incorrect" if it contradicts it, "unclear"
if one cannot tell what the pupil means.
"""
ANSWER = "model_prediction"
KEY_FIELDS = Key._fields[:5]  # what tells one question from another


class Hallusion:
    """HallusionBench (arXiv 2310.14566); the metric is `rlaifv.metrics.hallusionbench.HallusionBench`.

    Without a file of answers, they are read from the question file, which the official script fills in.
    """

    name = "hallusionbench"
    uses: tuple[str, ...] = ("questions", "images", "reviews", "judge", "parser", "invalid_judge")
    parsers: tuple[str, ...] = ("official", "lmms_eval", "vlmevalkit")
    decoding = Decoding(temperature=0.0, max_new_tokens=512)
    stages: tuple[Stage, ...] = (Stage("reply", TEMPLATE, is_verdict),)

    def items(self, given: Given) -> list[Item]:
        """Return all questions, with no image where they are about none."""
        rows = self._rows(required(given.questions, "questions", self.name))
        return [Item(key, row["question"], _images(row)) for key, row in rows.items()]

    def answer_rows(self, given: Given, items: Sequence[Item], texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return the question file with `model_prediction` filled in."""
        rows = self._rows(required(given.questions, "questions", self.name))
        return [{**rows[item.id], ANSWER: text} for item, text in zip(items, texts, strict=True)]

    def conversations(self, given: Given, template: str | None = None) -> list[tuple[str, str]]:
        """Return the request to the judge about each answer."""
        path, found = _answers_path(given), []
        for number, (key, row) in enumerate(self._answered(given)[0].items(), start=1):
            fields = {
                "question": row["question"],
                "reference": field_of(row, "gt_answer_details", str, number, path),
                "answer": row[ANSWER],
            }
            found.append((key, fill(template or TEMPLATE, fields)))
        return found

    def score(self, given: Given) -> Result:
        """Score the answers by their reviews, or by their words; by the rules of other suites only those with an image."""
        by_judge = given.reviews is not None
        if by_judge and given.parser == "vlmevalkit":
            raise ValueError(f"parser=vlmevalkit reads the answers' own words, not reviews={given.reviews}.")
        if not by_judge and given.parser == "lmms_eval":
            raise ValueError("parser=lmms_eval rests on a judge, so reviews=… must be given.")
        rows, questions = self._answered(given)
        if given.parser != "official":
            questions = {key: row for key, row in questions.items() if row["visual_input"] != "0"}
        size = len(questions)
        verdicts, invalid, protocol = _judged(given, rows, questions) if by_judge else _read(given, rows, questions)
        if not verdicts:
            raise ValueError(f"There is nothing to score in {_answers_path(given)}.")
        metric = HallusionBench([_key(rows[one]) for one in verdicts])
        metric.update(list(verdicts.values()))
        warnings = []
        if size not in EDITIONS:
            warnings.append(f"There are {size} questions, but HallusionBench has 1129, 951 of them with an image.")
        if not by_judge:
            warnings.append("Answers were read by the words yes and no; official figures are those of a judge.")
        skipped = invalid if by_judge and given.invalid_judge == "skip" else 0
        return Result(
            metrics=_nested(metric, 4 if given.rounding == "official" else 15),
            counts={"questions": size, "scored": len(verdicts), "missing": size - len(verdicts) - skipped},
            num_invalid=invalid,
            version=EDITIONS.get(size, f"{size} questions"),
            protocol=protocol,
            warnings=tuple(warnings),
        )

    def _rows(self, path: Path) -> dict[str, dict[str, Any]]:
        """Return the rows of a question or answer file by id, their numbers as strings."""
        found: list[dict[str, Any]] = []
        for number, row in enumerate(read_rows(path), start=1):
            numbers = ("visual_input", "set_id", "figure_id", "question_id", "gt_answer")
            whole = {**row, **{name: str(field_of(row, name, (str, int), number, path)) for name in numbers}}
            for name in ("category", "subcategory", "question"):
                field_of(row, name, str, number, path)
            for name, known in (("category", "VD VS"), ("visual_input", "0 1 2"), ("gt_answer", "0 1")):
                if whole[name] not in known.split():
                    raise ValueError(
                        f"Field {name!r} in row {number} of {path} has to be one of {known}: {row[name]!r}."
                    )
            found.append(whole)
        return by_id(found, ["_".join(_key(row)[:5]) for row in found], path)

    def _answered(self, given: Given) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
        """Return the rows that have an answer, in the order of the answers' file, and those of all questions."""
        path = _answers_path(given)
        rows = self._rows(path)
        for number, row in enumerate(rows.values(), start=1):
            field_of(row, ANSWER, str, number, path)
        if given.questions is None:
            return rows, rows
        questions = self._rows(given.questions)
        match_ids(questions, list(rows), path, given.allow_incomplete)
        return {key: {**row, **questions[key], ANSWER: row[ANSWER]} for key, row in rows.items()}, questions


Rows = dict[str, dict[str, Any]]


def _judged(given: Given, rows: Rows, questions: Rows) -> tuple[dict[str, int], int, dict[str, Any]]:
    """Return verdicts by id on answers to these questions, how many reviews could not be read, and the protocol."""
    path = required(given.reviews, "reviews", "hallusionbench")
    reviews = read_reviews(path, list(rows), given.allow_incomplete, id_of=_own_id)
    reviews = [review for review in reviews if review.id in questions]
    invalid = [review.id for review in reviews if not is_verdict(review.replies[0])]
    if invalid and given.invalid_judge == "raise":
        raise ValueError(f"The review of {invalid[0]} in {path} has no verdict.")
    left_out = set(invalid) if given.invalid_judge == "skip" else set()
    verdicts = {one.id: read_verdict(one.replies[0]) for one in reviews if one.id not in left_out}
    return verdicts, len(invalid), protocol_of(given, reviews, len(reviews) < len(questions)) | {"verdicts": "judge"}


def _read(given: Given, rows: Rows, questions: Rows) -> tuple[dict[str, int], int, dict[str, Any]]:
    """Return the verdicts by the answers' own words."""
    verdicts = {
        key: check_answer(row[ANSWER], row["gt_answer"] == "1") for key, row in rows.items() if key in questions
    }
    is_incomplete = len(verdicts) < len(questions)
    protocol = {"parser": given.parser, "rounding": given.rounding, "verdicts": "words", "incomplete": is_incomplete}
    return verdicts, list(verdicts.values()).count(UNCLEAR), protocol


def _answers_path(given: Given) -> Path:
    """Return the file with answers, which may be the filled-in question file."""
    return required(given.answers or given.questions, "answers", "hallusionbench")


def _own_id(row: dict[str, Any]) -> str | None:
    """Return the id of a question whose official fields stand in a review."""
    return "_".join(str(row[name]) for name in KEY_FIELDS) if all(name in row for name in KEY_FIELDS) else None


def _key(row: dict[str, Any]) -> Key:
    return Key(*(row[name] for name in Key._fields))


def _images(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the figure's path below the directory of images; the files write it with a leading "./"."""
    if row["visual_input"] == "0":
        return ()
    named = row.get("filename") or "/".join(
        (row["category"], row["subcategory"], f"{row['set_id']}_{row['figure_id']}.png")
    )
    return (str(named).removeprefix("./"),)


def _nested(metric: HallusionBench, digits: int) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for name, value in metric.compute().items():
        kind, _, category = name.partition("/")
        (metrics.setdefault(category.lower(), {}) if category else metrics)[kind] = round(value.item(), digits)
    return metrics


BENCHMARK: JudgedBenchmark = Hallusion()
