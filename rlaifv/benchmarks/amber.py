"""AMBER (arXiv 2311.07397): descriptions and yes/no questions, scored without a judge."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaifv.benchmarks.amber_files import (
    OFFICIAL_COUNTS,
    Annotations,
    SimilarityTable,
    read_annotations,
    read_nouns,
)
from rlaifv.benchmarks.files import by_id, digest, field_of, match_ids, read_rows, required
from rlaifv.benchmarks.protocol import Given, Item, Result
from rlaifv.metrics.amber_discriminative import (
    DIMENSIONS,
    GROUPS,
    PARSERS,
    AMBERDiscriminative,
    Kind,
    amber_score,
)
from rlaifv.metrics.amber_generative import AMBERGenerative, identity
from rlaifv.metrics.nouns import NounFinder
from rlaifv.models.sampling import Decoding


class AMBER:
    """AMBER with its official files and its script's numbers.

    Scores descriptions, answers to questions, or both. A dimension with any answer must be answered in full. Overall numbers
    need all dimensions of questions; `amber_score` also needs descriptions.
    """

    name = "amber"
    uses = ("questions", "annotations", "images", "nouns", "similarity", "parser")
    parsers = PARSERS
    decoding = Decoding(temperature=0.0, max_new_tokens=512)

    def items(self, given: Given) -> list[Item]:
        """Return the queries of query_all.json or of one of its parts. See `Benchmark.items`."""
        path = required(given.questions, "questions", self.name)
        items = []
        for number, row in enumerate(read_rows(path), start=1):
            one = str(field_of(row, "id", (int, str), number, path))
            image, query = (field_of(row, name, str, number, path) for name in ("image", "query"))
            items.append(Item(one, query, (image,)))
        ids = [item.id for item in items]
        match_ids(ids, ids, path, what="query")
        return items

    def answer_rows(self, given: Given, items: Sequence[Item], texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return rows {id, response}. See `Benchmark.answer_rows`."""
        ids = [int(item.id) if item.id.isdecimal() else item.id for item in items]
        return [{"id": one, "response": text} for one, text in zip(ids, texts, strict=True)]

    def score(self, given: Given) -> Result:
        """Return AMBER's numbers. See `Benchmark.score`."""
        annotations = read_annotations(required(given.annotations, "annotations", self.name))
        path = required(given.answers, "answers", self.name)
        answers = _read_answers(path)
        wanted = self._wanted(given, annotations, answers)
        present = match_ids(wanted, list(answers), path, given.allow_incomplete)
        answers = {one: answers[one] for one in present}
        warnings = []
        if annotations.counts != OFFICIAL_COUNTS:
            warnings.append(
                f"AMBER has {OFFICIAL_COUNTS[0]} descriptions and {OFFICIAL_COUNTS[1]} questions, but {given.annotations} "
                f"has {annotations.counts[0]} and {annotations.counts[1]}."
            )
        metrics, counts, protocol = _score_descriptions(given, annotations, answers)
        scores, more, num_invalid = _score_questions(given, annotations, answers)
        metrics |= scores
        if "chair" in metrics and "f1" in metrics:
            metrics["amber_score"] = amber_score(metrics["chair"], metrics["f1"])
        if num_invalid:
            warnings.append(
                f"{num_invalid} of {more['questions']} answers are neither 'Yes' nor 'No' to parser={given.parser} and count "
                "as wrong; parser=contains_yes reads them as most reports do."
            )
        if counts.get("without_nouns"):
            warnings.append(
                f"{counts['without_nouns']} of {counts['descriptions']} descriptions have no noun of the vocabulary; they "
                "count as free of hallucination and lower cover alone."
            )
        return Result(
            metrics=metrics,
            counts=counts | more | {"missing": len(wanted) - len(present)},
            num_invalid=num_invalid,
            version="v1" if annotations.counts == OFFICIAL_COUNTS else "unknown",
            protocol={"parser": given.parser}
            | protocol
            | {"rounding": given.rounding, "complete": len(present) == len(wanted)}
            | ({} if given.questions is None else {"questions_sha256": digest(given.questions)}),
            warnings=tuple(warnings),
        )

    def _wanted(self, given: Given, annotations: Annotations, answers: dict[str, str]) -> list[str]:
        """Return the ids that answers are expected for."""
        parts = [list(annotations.described)]
        for dimension in DIMENSIONS:
            parts.append([one for one, asked in annotations.asked.items() if asked.kind in GROUPS[dimension]])
        everything = [one for part in parts for one in part]
        if given.questions is not None:
            asked_for = {item.id for item in self.items(given)}
            if unknown := asked_for.difference(everything):
                raise ValueError(f"{given.questions} has the id {min(unknown)}, which the annotations do not have.")
            parts = [[one for one in part if one in asked_for] for part in parts]
        # Answers to nothing that is known are told by their ids.
        return [one for part in parts if not answers.keys().isdisjoint(part) for one in part] or everything


def _read_answers(path: Path) -> dict[str, str]:
    rows = read_rows(path)
    ids = [str(field_of(row, "id", (int, str), number, path)) for number, row in enumerate(rows, start=1)]
    return {
        one: field_of(row, "response", str, number, path)
        for number, (one, row) in enumerate(by_id(rows, ids, path).items(), start=1)
    }


def _score_descriptions(
    given: Given, annotations: Annotations, answers: dict[str, str]
) -> tuple[dict[str, Any], dict[str, int], dict[str, Any]]:
    ids = [one for one in annotations.described if one in answers]
    if not ids:
        if given.nouns is not None or given.similarity is not None:
            raise ValueError(f"nouns=… and similarity=… are about descriptions, but {given.answers} has none.")
        return {}, {}, {}
    if given.nouns is None:
        find = NounFinder(annotations.lexicon.vocabulary)
        nouns = {one: find(answers[one]) for one in ids}
    else:
        nouns = read_nouns(required(given.nouns, "nouns", "amber"), annotations.described, ids)
    table = None if given.similarity is None else SimilarityTable(required(given.similarity, "similarity", "amber"))
    metric = AMBERGenerative(len(ids), annotations.lexicon, table or identity, rounded=given.rounding == "official")
    rows = [annotations.described[one] for one in ids]
    metric.update([nouns[one] for one in ids], [row.truth for row in rows], [row.hallu for row in rows])
    vocabulary = annotations.lexicon.vocabulary
    without = sum(vocabulary.isdisjoint(nouns[one]) for one in ids)
    counts = {"descriptions": len(ids)} | metric.sums() | {"without_nouns": without}
    protocol = {
        "nouns": "built in (approximate)" if given.nouns is None else "file",
        "similarity": "same word (approximate)" if table is None else f"file, sha256 {table.sha256}",
    }
    return {name: value.item() for name, value in metric.compute().items()}, counts, protocol


def _score_questions(
    given: Given, annotations: Annotations, answers: dict[str, str]
) -> tuple[dict[str, Any], dict[str, int], int]:
    ids = [one for one in annotations.asked if one in answers]
    if not ids:
        return {}, {}, 0
    annotated = {asked.kind for asked in annotations.asked.values()}
    dimensions = [dimension for dimension in DIMENSIONS if not annotated.isdisjoint(GROUPS[dimension])]
    metric = AMBERDiscriminative(len(ids), given.parser, given.rounding == "official", dimensions)
    kinds: list[Kind] = [annotations.asked[one].kind for one in ids]
    metric.update([answers[one] for one in ids], [annotations.asked[one].truth for one in ids], kinds)
    metrics: dict[str, Any] = {}
    for name, value in metric.compute().items():
        *groups, last = name.split("/")
        inner = metrics
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value.item()
    counts = {"questions": len(ids)} | {
        prefix.rstrip("/"): sum(kind in GROUPS[prefix] for kind in kinds) for prefix in DIMENSIONS
    }
    return metrics, counts, metric.num_invalid


BENCHMARK = AMBER()
