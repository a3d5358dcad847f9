"""LLaVA-Bench (in the wild)'s files: 60 questions, a directory with captions and GPT-4's answers, the model's, and reviews.

`annotations` is the directory with context.jsonl and answers_gpt4.jsonl, which only a judge needs. Its template has places
for {context} (captions, one a line), {question}, {reference} (GPT-4, first) and {answer} (the model, second).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaifv.benchmarks.files import by_id, field_of, match_ids, read_rows, required
from rlaifv.benchmarks.protocol import Given, Item, JudgedBenchmark, Result, Stage
from rlaifv.benchmarks.reviews import Review, protocol_of, read_reviews
from rlaifv.benchmarks.templates import fill
from rlaifv.metrics.llava_bench import CATEGORIES, LLaVABench, Parser, read_ratings
from rlaifv.models.sampling import Decoding

NUM_QUESTIONS = 60
PREFIX = "llava_bench_"
TEMPLATE = """Two assistants answered a question about an image. You do not see the image, but have what others wrote about it.

About the image: {context:json}
Question: {question:json}
Answer of assistant 1: {reference:json}
Answer of assistant 2: {answer:json}

Rate each answer from 1 to 10, where 10 is best, by how helpful, relevant, correct and detailed it is. Which one comes first
must not matter. Your first line has two numbers and nothing else: the rating of assistant 1, one space, the rating of
assistant 2. Give your reasons in the lines after it.
"""


class LLaVABenchWild:
    """LLaVA-Bench in the wild (arXiv 2304.08485); the metric is `rlaifv.metrics.llava_bench.LLaVABench`."""

    name = "llava_bench"
    uses: tuple[str, ...] = ("questions", "annotations", "images", "reviews", "judge", "parser", "invalid_judge")
    parsers: tuple[str, ...] = ("official", "lmms_eval", "vlmevalkit")
    decoding = Decoding(temperature=0.0, max_new_tokens=1024)
    stages: tuple[Stage, ...] = (Stage("reply", TEMPLATE, lambda reply: read_ratings(reply) is not None),)

    def items(self, given: Given) -> list[Item]:
        """Return the questions, by their `question_id`."""
        return [Item(key, row["text"], (row["image"],)) for key, row in self._questions(given).items()]

    def answer_rows(self, given: Given, items: Sequence[Item], texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return rows as the official answer script writes them; the ids of questions are whole numbers there."""
        return [
            {
                "question_id": int(item.id) if item.id.isdecimal() else item.id,
                "prompt": item.question,
                "text": text,
                "answer_id": item.id,
            }
            for item, text in zip(items, texts, strict=True)
        ]

    def conversations(self, given: Given, template: str | None = None) -> list[tuple[str, str]]:
        """Return the request to the judge about each answer."""
        directory = required(given.annotations, "annotations", self.name)
        context_path = required(directory / "context.jsonl", "annotations", self.name)
        reference_path = required(directory / "answers_gpt4.jsonl", "annotations", self.name)
        captions = {}
        for number, row in enumerate(read_rows(context_path), start=1):
            caption = field_of(row, "caption", (str, list), number, context_path)
            image = field_of(row, "image", str, number, context_path)
            captions[image] = caption if isinstance(caption, str) else "\n".join(map(str, caption))
        references = {
            str(field_of(row, "question_id", (int, str), number, reference_path)): field_of(
                row, "text", str, number, reference_path
            )
            for number, row in enumerate(read_rows(reference_path), start=1)
        }
        questions, found = self._questions(given), []
        for key, text in self._answers(given, list(questions)).items():
            row = questions[key]
            if row["image"] not in captions:
                raise ValueError(f"{context_path} has no caption of {row['image']}, which question {key} is about.")
            if key not in references:
                raise ValueError(f"{reference_path} has no answer to question {key}.")
            fields = {
                "context": captions[row["image"]],
                "question": row["text"],
                "reference": references[key],
                "answer": text,
            }
            found.append((key, fill(template or TEMPLATE, fields)))
        return found

    def score(self, given: Given) -> Result:
        """Score the reviews; answers tell which there must be. Categories come from the questions, else from the reviews."""
        path = required(given.reviews, "reviews", self.name)
        questions = self._questions(given) if given.questions else {}
        ids = list(questions) or None
        if given.answers is not None:
            ids = list(self._answers(given, ids))
        reviews = read_reviews(path, ids, given.allow_incomplete)
        categories = [_category(review, questions, number, given) for number, review in enumerate(reviews, start=1)]
        parser: Parser = given.parser  # type: ignore[assignment]  # one of `parsers`, as the caller sees to
        metric = LLaVABench(categories, parser, given.invalid_judge, given.rounding)
        metric.update([review.replies[0] for review in reviews])
        metrics = {name: value.item() for name, value in metric.compute().items()}
        size = len(questions or ids or reviews)
        return Result(
            metrics=metrics,
            counts={"questions": size, "reviews": len(reviews), "missing": size - len(reviews)},
            num_invalid=metric.num_invalid,
            version="LLaVA-Bench in the wild" if size == NUM_QUESTIONS else f"{size} questions",
            protocol=protocol_of(given, reviews, len(reviews) < size),
            warnings=()
            if size == NUM_QUESTIONS
            else (f"There are {size} questions, but LLaVA-Bench in the wild has {NUM_QUESTIONS}.",),
        )

    def _questions(self, given: Given) -> dict[str, dict[str, Any]]:
        path = required(given.questions, "questions", self.name)
        rows = read_rows(path)
        for number, row in enumerate(rows, start=1):
            for name in ("text", "image", "category"):
                field_of(row, name, str, number, path)
        return by_id(rows, _question_ids(rows, path), path, "question_id")

    def _answers(self, given: Given, ids: Sequence[str] | None) -> dict[str, str]:
        """Return the model's answers in their order, by the id of their question."""
        path = required(given.answers, "answers", self.name)
        rows = read_rows(path)
        found = _question_ids(rows, path)
        match_ids(dict.fromkeys(found) if ids is None else ids, found, path, given.allow_incomplete)
        texts = [field_of(row, "text", str, number, path) for number, row in enumerate(rows, start=1)]
        return dict(zip(found, texts, strict=True))


def _question_ids(rows: Sequence[dict[str, Any]], path: Path) -> list[str]:
    return [str(field_of(row, "question_id", (int, str), number, path)) for number, row in enumerate(rows, start=1)]


def _category(review: Review, questions: dict[str, dict[str, Any]], number: int, given: Given) -> str:
    named = questions[review.id]["category"] if questions else review.row.get("category")
    if not isinstance(named, str):
        raise ValueError(f"Row {number} of {given.reviews} has no category, so questions=… must be given.")
    category = named.removeprefix(PREFIX)
    if category not in CATEGORIES:
        raise ValueError(
            f"The category of question {review.id} in {given.questions or given.reviews} has to be one of "
            f"{', '.join(CATEGORIES)}, not {named!r}."
        )
    return category


BENCHMARK: JudgedBenchmark = LLaVABenchWild()
