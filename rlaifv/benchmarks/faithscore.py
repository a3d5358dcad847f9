"""FaithScore from verdicts on the facts of answers (arXiv 2311.01477)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaifv.benchmarks.files import field_of, match_ids, read_rows, required
from rlaifv.benchmarks.protocol import Benchmark, Given, Item, Result
from rlaifv.metrics.faithscore import FaithScore, is_verified
from rlaifv.models.sampling import Decoding


class Faith:
    """FaithScore: what the verdicts of other models on an answer's facts add up to.

    Answers are the official JSON Lines (`answer`, `image`). Reviews are rows in the same order, or with the `id` that the
    answers have: `facts`, a list of objects with `fact` and the verifier's `reply`; and `sentences`, which may be left out
    of all: for each descriptive sub-sentence the list of its facts, counted from 0. The script prints fractions, unrounded.
    """

    name = "faithscore"
    uses: tuple[str, ...] = ("questions", "images", "reviews", "judge")
    parsers: tuple[str, ...] = ("official",)
    decoding = Decoding(temperature=0.0, max_new_tokens=512)

    def items(self, given: Given) -> list[Item]:
        path = required(given.questions, "questions", self.name)
        return [
            Item(
                str(row.get("id", number - 1)),
                field_of(row, ("question", "prompt", "text"), str, number, path),
                (field_of(row, "image", str, number, path),),
            )
            for number, row in enumerate(read_rows(path), start=1)
        ]

    def answer_rows(self, given: Given, items: Sequence[Item], texts: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {"id": item.id, "answer": text, "image": item.images[0]} for item, text in zip(items, texts, strict=True)
        ]

    def score(self, given: Given) -> Result:
        answers = required(given.answers, "answers", self.name)
        reviews = required(given.reviews, "reviews", self.name)
        rows = read_rows(answers)
        for number, row in enumerate(rows, start=1):
            field_of(row, "answer", str, number, answers)
            field_of(row, "image", str, number, answers)
        if not rows:
            raise ValueError(f"{answers} has no answer, so nothing can be scored.")
        wanted = [str(row.get("id", k)) for k, row in enumerate(rows)]
        match_ids(dict.fromkeys(wanted), wanted, answers)
        judged = read_rows(reviews)
        found = [str(row.get("id", k)) for k, row in enumerate(judged)]
        ids = match_ids(wanted, found, reviews, given.allow_incomplete, "answer of the judge")
        if not ids:
            raise ValueError(f"{reviews} has verdicts on no answer, so nothing can be scored.")
        numbers = {one: number for number, one in enumerate(found, start=1)}
        facts = [_verdicts(judged[numbers[one] - 1], numbers[one], reviews) for one in ids]
        sentences = [_sentences(judged[numbers[one] - 1], numbers[one], reviews, facts[k]) for k, one in enumerate(ids)]
        with_sentences = [one for one in sentences if one is not None]
        if 0 < len(with_sentences) < len(ids):
            raise ValueError(
                f"{reviews} has 'sentences' in {len(with_sentences)} of {len(ids)} rows; all or none must."
            )
        metric = FaithScore(len(ids))
        metric.update(facts, with_sentences or None)
        empty = sum(not one for one in facts)
        warnings = (f"{empty} answers have no facts, and count as 0 by rule.",) if empty else ()
        return Result(
            metrics={name: value.item() for name, value in metric.compute().items()},
            counts={
                "answers": len(ids),
                "without_facts": empty,
                "facts": sum(map(len, facts)),
                "verified": sum(map(sum, facts)),
                "missing": len(wanted) - len(ids),
            },
            num_invalid=0,
            version=f"{len(ids)} answers",
            protocol={
                "parser": given.parser,
                "judge": given.judge or "unknown",
                "incomplete": len(ids) < len(wanted),
            },
            warnings=warnings,
        )


def _verdicts(row: dict[str, Any], number: int, path: Path) -> list[bool]:
    verified = []
    for place, fact in enumerate(field_of(row, "facts", list, number, path)):
        if not isinstance(fact, dict) or not isinstance(fact.get("reply"), str):
            raise ValueError(
                f"Fact {place} in row {number} of {path} has to be an object with a text 'reply': {fact!r:.60}."
            )
        verified.append(is_verified(fact["reply"]))
    return verified


def _sentences(row: dict[str, Any], number: int, path: Path, facts: Sequence[bool]) -> list[list[int]] | None:
    if "sentences" not in row:
        return None
    sentences = field_of(row, "sentences", list, number, path)
    for sentence in sentences:
        if not isinstance(sentence, list) or not all(type(k) is int and 0 <= k < len(facts) for k in sentence):
            raise ValueError(
                f"A sentence in row {number} of {path} has to be a list of numbers of its {len(facts)} facts, counted "
                f"from 0, but it is {sentence!r:.60}."
            )
    return sentences


BENCHMARK: Benchmark = Faith()
