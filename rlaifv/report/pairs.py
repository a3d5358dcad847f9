"""Read a few preference pairs of an iteration with their judged claims from its shards."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as arrow
from pyarrow import parquet

from rlaifv.report.answers import mark_claims
from rlaifv.report.run import JudgedClaim, verdict_of
from rlaifv.store.manifest import iteration_directory

_PAIR_COLUMNS = [
    "prompt_id",
    "chosen_response_id",
    "rejected_response_id",
    "chosen",
    "rejected",
    "chosen_score",
    "rejected_score",
]


@dataclass(frozen=True, slots=True)
class Side:
    """The chosen or rejected answer of a pair. `score` is the negative number of its rejected claims."""

    text: str
    score: float
    claims: tuple[JudgedClaim, ...]


@dataclass(frozen=True, slots=True)
class PairExample:
    """A preference pair as shown in the report."""

    iteration: int
    prompt_id: str
    question: str
    image_path: str
    chosen: Side
    rejected: Side


def read_pairs(run_dir: Path, iteration: int, num_pairs: int) -> tuple[PairExample, ...]:
    """Return pairs of different prompts, evenly spaced over the first shard of the iteration that has any.

    Only the required columns and rows are read, so the cost does not depend on the size of the iteration.
    """
    folder = iteration_directory(run_dir, iteration)
    rows = _choose(folder, num_pairs)
    prompts = {row["id"]: row for row in _rows(folder, "prompts", "id", [row["prompt_id"] for row in rows])}
    response_ids = [row[f"{side}_response_id"] for row in rows for side in ("chosen", "rejected")]
    claims = _claims(folder, response_ids)
    texts = {row["id"]: row["text"] for row in _rows(folder, "responses", "id", response_ids)}
    pairs = []
    for row in rows:
        prompt = prompts.get(row["prompt_id"], {})
        chosen, rejected = (_side(row, side, claims, texts) for side in ("chosen", "rejected"))
        image_paths = prompt.get("image_paths") or [""]
        pairs.append(
            PairExample(iteration, row["prompt_id"], prompt.get("question", ""), image_paths[0], chosen, rejected)
        )
    return tuple(pairs)


def _side(
    row: dict[str, Any], side: str, claims: Mapping[str, Sequence[JudgedClaim]], texts: Mapping[str, str]
) -> Side:
    """Return a side with its claims; of a text that is not the whole response, with those that are found in it."""
    response_id, text = row[f"{side}_response_id"], row[side]
    own = claims.get(response_id, ())
    if text != texts.get(response_id, text):
        own = [segment.claim for segment in mark_claims(text, own).segments if segment.claim is not None]
    return Side(text, row[f"{side}_score"], tuple(own))


def _choose(folder: Path, num_pairs: int) -> list[dict[str, Any]]:
    for path in sorted(folder.glob("pairs-*.parquet")):
        by_prompt: dict[str, dict[str, Any]] = {}
        for row in parquet.read_table(path, columns=_PAIR_COLUMNS).to_pylist():
            by_prompt.setdefault(row["prompt_id"], row)
        if by_prompt:
            rows = list(by_prompt.values())
            shown = min(num_pairs, len(rows))
            return [rows[k * len(rows) // shown] for k in range(shown)]
    return []


def _claims(folder: Path, response_ids: Sequence[str]) -> defaultdict[str, list[JudgedClaim]]:
    """Return judged claims by response id, in the order of the divider."""
    judgements = {row["claim_id"]: row for row in _rows(folder, "judgements", "response_id", response_ids)}
    claims: defaultdict[str, list[JudgedClaim]] = defaultdict(list)
    for row in _rows(folder, "claims", "response_id", response_ids):
        judgement = judgements.get(row["id"], {})
        claims[row["response_id"]].append(
            JudgedClaim(
                text=row["text"],
                question=row["question"],
                p_yes=judgement.get("p_yes"),
                p_no=judgement.get("p_no"),
                verdict=verdict_of(judgement.get("verdict")),
            )
        )
    return claims


def _rows(folder: Path, stage: str, column: str, values: Sequence[str]) -> list[dict[str, Any]]:
    paths = [str(path) for path in sorted(folder.glob(f"{stage}-*.parquet"))]
    if not paths or not values:
        return []
    table = arrow.dataset(paths, format="parquet").to_table(filter=arrow.field(column).isin(list(values)))
    return table.to_pylist()
