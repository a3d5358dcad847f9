"""POPE (arXiv 2305.10355): one or several files of questions whether an object is in an image."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaifv.benchmarks.files import by_id, digest, field_of, match_ids, read_rows, required
from rlaifv.benchmarks.protocol import Given, Item, Result
from rlaifv.metrics.pope import NAMES, PARSERS, POPE
from rlaifv.models.sampling import Decoding

SPLITS = ("random", "popular", "adversarial")
# The first edition spells "image" so in many questions about objects that begin with a vowel. That is part of what models were
# asked, so it is counted and never mended.
MISSPELT = "imange"
# Questions and misspelt ones by split, as far as they tell editions apart.
EDITIONS = {
    ("random", 2910, 144): "first",
    ("popular", 3000, 44): "first",
    ("adversarial", 3000, 58): "first",
    ("adversarial", 3000, 57): "october 2023",
    ("random", 3000, 0): "current",
    ("popular", 3000, 0): "current",
    ("adversarial", 3000, 0): "current",
}


class POPEBenchmark:
    """POPE with its official files and its script's numbers, for each question file and their mean.

    Questions and answers are one file each, or directories with one file for each split, which their names tell.
    """

    name = "pope"
    uses = ("questions", "images", "parser")
    parsers = PARSERS
    decoding = Decoding(temperature=0.0, max_new_tokens=16)

    def items(self, given: Given) -> list[Item]:
        """Return the questions of all splits; ids have the split in front. See `Benchmark.items`."""
        splits = _read_questions(required(given.questions, "questions", self.name))
        return [
            Item(f"{split}/{one}", row["text"], (row["image"],))
            for split, (_, rows) in splits.items()
            for one, row in rows.items()
        ]

    def answer_rows(self, given: Given, items: Sequence[Item], texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return rows {question_id, category, question, answer}. See `Benchmark.answer_rows`."""
        rows = []
        for item, text in zip(items, texts, strict=True):
            split, _, one = item.id.partition("/")
            number = int(one) if one.isdecimal() else one
            rows.append({"question_id": number, "category": split, "question": item.question, "answer": text})
        return rows

    def score(self, given: Given) -> Result:
        """Return POPE's numbers. See `Benchmark.score`."""
        splits = _read_questions(required(given.questions, "questions", self.name))
        found = _read_answers(required(given.answers, "answers", self.name), list(splits))
        metrics: dict[str, Any] = {}
        counts: dict[str, int] = {}
        warnings: list[str] = []
        num_invalid = 0
        for split, (path, questions) in splits.items():
            answers = _match(questions, *found[split], given.allow_incomplete)
            metric = POPE(len(answers), given.parser)
            metric.update(list(answers.values()), [questions[one]["label"] for one in answers])
            num_invalid += metric.num_invalid
            try:
                metrics[split] = {name: value.item() for name, value in metric.compute().items()}
            except ValueError as error:
                raise ValueError(f"Split {split}: {error}") from error
            size, misspelt = _size(questions)
            counts |= {f"{split}_questions": size, f"{split}_answers": len(answers), f"{split}_misspelt": misspelt}
            if size not in (3000, 2910):
                warnings.append(
                    f"A split of POPE has 3000 questions, or 2910 in its first edition, but {path} has {size}."
                )
        mean = {name: sum(metrics[split][name] for split in splits) / len(splits) for name in NAMES}
        counts["missing"] = sum(counts[f"{split}_questions"] - counts[f"{split}_answers"] for split in splits)
        version = _version(splits)
        if version == "first":
            warnings.append(
                "These questions are POPE's first edition, with typing errors and at random fewer questions; it has to be "
                "compared with results on the same edition."
            )
        return Result(
            metrics=metrics | {"mean": mean} | mean,
            counts=counts,
            num_invalid=num_invalid,
            version=version,
            protocol={
                "parser": given.parser,
                "questions_sha256": {split: digest(path) for split, (path, _) in splits.items()},
                "complete": counts["missing"] == 0,
            },
            warnings=tuple(warnings),
        )


Questions = dict[str, dict[str, Any]]


def _size(questions: Questions) -> tuple[int, int]:
    return len(questions), sum(MISSPELT in row["text"] for row in questions.values())


def _version(splits: dict[str, tuple[Path, Questions]]) -> str:
    editions = {split: EDITIONS.get((split, *_size(rows)), "unknown") for split, (_, rows) in splits.items()}
    if len(set(editions.values())) == 1:
        return next(iter(editions.values()))
    return ", ".join(f"{split}: {edition}" for split, edition in editions.items())


def _by_split(path: Path) -> dict[str, Path]:
    """Return the files of a directory by split, in the usual order; of a file, itself."""
    if path.is_file():
        return {_split_of(path): path}
    files = [file for file in sorted(path.iterdir()) if file.suffix in (".json", ".jsonl")]
    if not files:
        raise ValueError(f"{path} has no .json or .jsonl file.")
    found: dict[str, Path] = {}
    for file in files:
        split = _split_of(file)
        if split in found:
            raise ValueError(f"{path} has two files of the split {split!r}: {found[split].name} and {file.name}.")
        found[split] = file
    order = [*SPLITS, *found]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0])))


def _split_of(path: Path) -> str:
    name = re.search("|".join(SPLITS), path.stem)
    return name.group() if name else path.stem


def _read_questions(path: Path) -> dict[str, tuple[Path, Questions]]:
    """Return rows by id, by split, with the file of each split."""
    splits = {}
    for split, file in _by_split(path).items():
        rows, ids = read_rows(file), []
        for number, row in enumerate(rows, start=1):
            ids.append(str(field_of(row, "question_id", (int, str), number, file)))
            for name in ("image", "text", "label"):
                field_of(row, name, str, number, file)
            if row["label"] not in ("yes", "no"):
                raise ValueError(
                    f"Field 'label' in row {number} of {file} has to be 'yes' or 'no', but it is {row['label']!r}."
                )
        splits[split] = (file, by_id(rows, ids, file, "question_id"))
    return splits


def _read_answers(path: Path, splits: Sequence[str]) -> dict[str, tuple[Path, list[dict[str, Any]]]]:
    """Return the rows of answers by split, with their file."""
    if path.is_file():
        rows = read_rows(path)
        if len(splits) == 1 and not any("category" in row for row in rows):
            return {splits[0]: (path, rows)}
        parts: dict[str, tuple[Path, list[dict[str, Any]]]] = {split: (path, []) for split in splits}
        for number, row in enumerate(rows, start=1):
            split = field_of(row, "category", str, number, path)
            if split not in parts:
                raise ValueError(
                    f"Field 'category' in row {number} of {path} is {split!r}, but the questions are {', '.join(splits)}."
                )
            parts[split][1].append(row)
        return parts
    files = _by_split(path)
    if set(files) != set(splits):
        raise ValueError(
            f"{path} has answers to {', '.join(files)}, but the questions are {', '.join(splits)}; the names of files tell."
        )
    return {split: (file, read_rows(file)) for split, file in files.items()}


def _match(questions: Questions, path: Path, rows: list[dict[str, Any]], allow_incomplete: bool) -> dict[str, str]:
    """Return answers by the id of their question: by `question_id` where rows have it, by order otherwise."""
    num_with_id = sum("question_id" in row for row in rows)
    if num_with_id == len(rows):
        ids = [str(field_of(row, "question_id", (int, str), number, path)) for number, row in enumerate(rows, start=1)]
        match_ids(questions, ids, path, allow_incomplete)
    elif num_with_id:
        raise ValueError(f"{num_with_id} of {len(rows)} rows of {path} have a question_id; either all do or none.")
    else:
        if len(rows) != len(questions) and not (allow_incomplete and len(rows) < len(questions)):
            raise ValueError(
                f"{path} has {len(rows)} answers in order to {len(questions)} questions; allow_incomplete=true scores the "
                "first ones where there are fewer, and says so."
            )
        ids = list(questions)[: len(rows)]
    answers = {}
    for number, (one, row) in enumerate(zip(ids, rows, strict=True), start=1):
        asked = questions[one]["text"]
        # Evaluation code puts the image's place before, and a request for one word behind, what it asks.
        if "question" in row and asked.strip() not in str(row["question"]):
            raise ValueError(f"Row {number} of {path} answers {row['question']!r}, but question {one} is {asked!r}.")
        answers[one] = field_of(row, ("answer", "text"), str, number, path)
    return answers


BENCHMARK = POPEBenchmark()
