"""Answer a benchmark with a model: official prompts, one prefix per image, in resumable shards.

<directory>/asked.json            who answers what, and how; another one is refused
            answers-00000.jsonl   id, question, answer and whether it had ended; what is there is not asked again
            answers.jsonl         all of them, in the benchmark's own form
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from rlaifv.benchmarks.outcome import is_judged, needs_reviews, not_scored, outcome
from rlaifv.benchmarks.protocol import Benchmark, Given
from rlaifv.benchmarks.questions import AskedImage, Asking, Questions
from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.models.sampling import Decoding, Sampled
from rlaifv.records import Prompt
from rlaifv.runtime.seeds import derive_seed
from rlaifv.runtime.stopping import stop_if_requested
from rlaifv.store.atomic import make_directory, write_json, write_text

# Those whose published numbers come from beam search, which this project does not do.
BEAMS = {"object_halbench": 3, "mmhal": 3}


class QuestionSampler(Protocol):
    """Answers questions about images; see `LocalEngine`."""

    def sample_questions(
        self,
        asked: Sequence[tuple[Prompt, Sequence[str]]],
        seeds: Sequence[Sequence[int]],
        decoding: Decoding,
        advance: Advance = ignore_progress,
    ) -> list[list[Sampled]]: ...

    def decode(self, token_ids: Sequence[int]) -> str: ...


def run_benchmark(
    benchmark: Benchmark,
    given: Given,
    questions: Questions,
    engine: QuestionSampler,
    model: str,
    directory: Path,
    how: Asking,
    advance: Advance = ignore_progress,
    review: Callable[[Given], Given] | None = None,
) -> dict[str, Any]:
    """Answer and score. Answers that are in the directory already are not asked for again.

    Args:
        benchmark: what to run.
        given: its files.
        questions: see `questions_of`.
        engine: who answers.
        model: digest of its weights.
        directory: of this benchmark and this model.
        how: as for `questions`.
        advance: told how many questions were answered.
        review: adds a judge's replies to what is given, answers included. Where a benchmark needs some, and there are none,
            its answers are written and not scored.

    Returns:
        See `outcome`.

    Raises:
        ValueError: the directory holds answers of another model, to other questions, or decoded otherwise; or see `outcome`.
    """
    texts = answer(questions, engine, model, directory, how, how.decoding(benchmark), advance)
    rows = benchmark.answer_rows(given, questions.items, texts)
    path = directory / "answers.jsonl"
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    answered = replace(given, answers=path, allow_incomplete=given.allow_incomplete or questions.is_part)
    if review is not None and is_judged(benchmark) and answered.reviews is None:
        answered = review(answered)
    prompt = {"suffix": how.suffix, "questions": questions.digest, "num_items": len(questions.items)}
    decoding = _described(benchmark, how)
    if needs_reviews(benchmark) and answered.reviews is None:
        return not_scored(
            benchmark,
            {"answers": len(questions.items)},
            prompt,
            decoding,
            f"benchmark={benchmark.name} is scored from reviews of its answers, and there are none: "
            f"{'give judge=…, or ' if is_judged(benchmark) else ''}score {path} with reviews=….",
        )
    return outcome(benchmark, answered, prompt, decoding)


def answer(
    questions: Questions,
    engine: QuestionSampler,
    model: str,
    directory: Path,
    how: Asking,
    decoding: Decoding,
    advance: Advance = ignore_progress,
) -> list[str]:
    """Return the texts of the answers, in the order of `questions.items`; see `run_benchmark`."""
    make_directory(directory.absolute())
    _check_asked(directory / "asked.json", asked_by(questions, model, how, decoding))
    texts: dict[int, str] = {}
    for k, images in enumerate(_shards(questions.images, how.shard_items)):
        path = directory / f"answers-{k:05d}.jsonl"
        items = [item for one in images for item in one.items]
        if path.exists():
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            advance(len(items))
        else:
            stop_if_requested()
            rows = _ask(images, engine, how, decoding, advance)
            write_text(path, "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows))
        if [row["id"] for row in rows] != [item.id for item in items]:
            raise ValueError(f"{path} does not hold the answers to its {len(items)} questions; delete it to ask again.")
        texts |= {id(item): row["answer"] for item, row in zip(items, rows, strict=True)}
    return [texts[id(item)] for item in questions.items]


def _ask(
    images: Sequence[AskedImage], engine: QuestionSampler, how: Asking, decoding: Decoding, advance: Advance
) -> list[dict[str, Any]]:
    asked = [(one.prompt, [item.question + how.suffix for item in one.items]) for one in images]
    seeds = [[derive_seed(how.seed, item.id) for item in one.items] for one in images]
    sampled = engine.sample_questions(asked, seeds, decoding, advance)
    return [
        {
            "id": item.id,
            "question": question,
            "answer": decoding.cut(engine.decode(found.token_ids)),
            "finished": found.finished,
        }
        for one, (_, put), answers in zip(images, asked, sampled, strict=True)
        for item, question, found in zip(one.items, put, answers, strict=True)
    ]


def asked_by(questions: Questions, model: str, how: Asking, decoding: Decoding) -> dict[str, Any]:
    """Return everything that answers depend on, ready for JSON."""
    shards = {"shard_items": how.shard_items, "seed": how.seed}
    put = {"questions": questions.digest, "suffix": how.suffix, "decoding": asdict(decoding)}
    found: dict[str, Any] = json.loads(json.dumps({"model": model, **put, **shards}))
    return found


def _check_asked(path: Path, asked: dict[str, Any]) -> None:
    if not path.exists():
        write_json(path, asked)
    stored = json.loads(path.read_text(encoding="utf-8"))
    for name in sorted({*stored, *asked}):
        if stored.get(name) != asked.get(name):
            raise ValueError(
                f"{path}: the answers there were made with {name} {stored.get(name)!r}, but now it is {asked.get(name)!r}; "
                "give another out=…, or delete the directory to ask again."
            )


def _shards(images: Sequence[AskedImage], shard_items: int) -> list[list[AskedImage]]:
    """Return shards of whole images with at least so many questions each."""
    shards: list[list[AskedImage]] = []
    size = shard_items
    for one in images:
        if size >= shard_items:
            shards.append([])
            size = 0
        shards[-1].append(one)
        size += len(one.items)
    return shards


def _described(benchmark: Benchmark, how: Asking) -> dict[str, Any]:
    """Return the decoding, and its deviations from the published one."""
    decoding = how.decoding(benchmark)
    deviations = []
    if benchmark.name in BEAMS:
        deviations.append(f"Published numbers were decoded with {BEAMS[benchmark.name]} beams, these greedily.")
    if decoding.max_new_tokens < benchmark.decoding.max_new_tokens:
        deviations.append(
            f"Answers end after {decoding.max_new_tokens} tokens, not after {benchmark.decoding.max_new_tokens}."
        )
    return asdict(decoding) | {"num_beams": 1, "deviations": deviations}
