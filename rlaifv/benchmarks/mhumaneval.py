"""MHumanEval from what people marked in responses (arXiv 2312.00849)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlaifv.benchmarks.files import field_of, match_ids, read_rows, required
from rlaifv.benchmarks.protocol import Benchmark, Given, Item, Result
from rlaifv.metrics.mhumaneval import TYPES, ResponseHallucinationRate
from rlaifv.models.sampling import Decoding

OFFICIAL_PROMPTS = 146


class MHumanEval:
    """MHumanEval: 146 prompts, whose responses people mark for hallucinations of four kinds.

    There is no official format. Answers are rows with `question_id`, `prompt` and `text`; reviews are rows with
    `question_id` and true or false (or 1 or 0) for each of `TYPES`. Published numbers are percent with one decimal, which
    `rounding` follows.
    """

    name = "mhumaneval"
    uses: tuple[str, ...] = ("questions", "images", "reviews", "judge")
    parsers: tuple[str, ...] = ("official",)
    decoding = Decoding(temperature=0.0, max_new_tokens=1024)

    def items(self, given: Given) -> list[Item]:
        path = required(given.questions, "questions", self.name)
        rows = read_rows(path)
        ids = _ids(rows, path)
        return [
            Item(
                one,
                field_of(row, ("question", "prompt", "text"), str, number, path),
                (field_of(row, "image", str, number, path),),
            )
            for number, (one, row) in enumerate(zip(ids, rows, strict=True), start=1)
        ]

    def answer_rows(self, given: Given, items: Sequence[Item], texts: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {"question_id": item.id, "prompt": item.question, "text": text}
            for item, text in zip(items, texts, strict=True)
        ]

    def score(self, given: Given) -> Result:
        answers = required(given.answers, "answers", self.name)
        reviews = required(given.reviews, "reviews", self.name)
        wanted = _ids(read_rows(answers), answers)
        rows = read_rows(reviews)
        found = _ids(rows, reviews)
        ids = match_ids(wanted, found, reviews, given.allow_incomplete, "answer of the annotators")
        if not ids:
            raise ValueError(f"{reviews} marks no response, so nothing can be scored.")
        marks = {
            one: _marks(row, number, reviews)
            for number, (one, row) in enumerate(zip(found, rows, strict=True), start=1)
        }
        metric = ResponseHallucinationRate(len(ids))
        metric.update(torch.tensor([marks[one] for one in ids]))
        metrics = {name: value.item() for name, value in metric.compute().items()}
        if given.rounding == "official":
            metrics = {name: round(value, 1) for name, value in metrics.items()}
        usual = len(ids) == OFFICIAL_PROMPTS
        return Result(
            metrics=metrics,
            counts=metric.sums() | {"missing": len(wanted) - len(ids)},
            num_invalid=0,
            version=f"{len(ids)} prompts",
            protocol={
                "parser": given.parser,
                "judge": given.judge or "people",
                "rounding": given.rounding,
                "incomplete": len(ids) < len(wanted),
            },
            warnings=()
            if usual
            else (f"There are {len(ids)} responses; the benchmark has {OFFICIAL_PROMPTS} prompts.",),
        )


def _ids(rows: Sequence[dict[str, Any]], path: Path) -> list[str]:
    ids = [str(field_of(row, "question_id", (int, str), number, path)) for number, row in enumerate(rows, start=1)]
    return match_ids(dict.fromkeys(ids), ids, path, what="row")


def _marks(row: dict[str, Any], number: int, path: Path) -> list[bool]:
    values = [field_of(row, kind, (bool, int), number, path) for kind in TYPES]
    if wrong := [value for value in values if value not in (0, 1)]:
        raise ValueError(f"Row {number} of {path} has to mark each kind with true or false, but one is {wrong[0]!r}.")
    return [bool(value) for value in values]


BENCHMARK: Benchmark = MHumanEval()
