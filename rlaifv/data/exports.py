"""Export of a run's pairs to other projects' formats, with the provenance of each pair.

    rlaifv         data/train-*.parquet in RLAIF-V's schema; provenance in `origin_split`
    trl            data/train-*.parquet, conversations and images; provenance in a column of that name
    llamafactory   pairs.json, images/, an entry of dataset_info.json; provenance.jsonl beside

Provenance is JSON: iteration, weights and labeler, ids, scores, and the judged claims of both answers. Images are the
original file bytes. System messages and earlier turns are kept, except in RLAIF-V's schema, which cannot hold them.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value

from rlaifv.data.formats.pictures import ending
from rlaifv.data.formats.turns import MARKER
from rlaifv.records import Pair, Prompt
from rlaifv.store.atomic import make_directory, publish, write_json, write_text
from rlaifv.store.manifest import Manifest, iteration_directory

EXPORTS = ("trl", "rlaifv", "llamafactory")
# Rows per file as in RLAIF-V's own data; row groups are small, as every row contains an image.
ROWS_PER_FILE = 5000
ROWS_PER_GROUP = 100
TURN = {"role": Value("string"), "content": Value("string")}
FEATURES = {
    "trl": Features(
        {
            "prompt": List(TURN),
            "chosen": List(TURN),
            "rejected": List(TURN),
            "images": List(Image()),
            "provenance": Value("string"),
        }
    ),
    "rlaifv": Features(
        {
            "ds_name": Value("string"),
            "image": Image(),
            "question": Value("string"),
            "chosen": Value("string"),
            "rejected": Value("string"),
            "origin_dataset": Value("string"),
            "origin_split": Value("string"),
            "idx": Value("string"),
            "image_path": Value("string"),
        }
    ),
}


@dataclass(frozen=True, slots=True)
class Example:
    """A pair with its prompt. `id` is unique in the run; `provenance` is JSON-serializable."""

    id: str
    prompt: Prompt
    pair: Pair
    provenance: dict[str, Any]


def read_examples(run_dir: Path, iteration: int, about: dict[str, Any]) -> list[Example]:
    """Read the pairs of a committed iteration.

    Args:
        run_dir: the run's directory.
        iteration: counted from 0.
        about: metadata of the run, prepended to each provenance.

    Raises:
        ValueError: the iteration is missing, not committed, or damaged.
    """
    manifest = Manifest(iteration_directory(run_dir, iteration))
    if not manifest.path.exists() or not manifest.committed:
        raise ValueError(f"{run_dir} has no finished iteration {iteration}, counted from 0.")
    stages = manifest.stages
    producer = json.loads(manifest.path.read_text(encoding="utf-8"))["producer"]
    prompts = {prompt.id: prompt for prompt in manifest.records("prompts")}
    judgements = {one.claim_id: one for one in manifest.records("judgements")} if "judgements" in stages else {}
    claims: dict[str, list[dict[str, Any]]] = {}
    for claim in manifest.records("claims") if "claims" in stages else ():
        judged = judgements[claim.id]
        found = {"text": claim.text, "question": claim.question}
        found |= {"p_yes": judged.p_yes, "p_no": judged.p_no, "verdict": judged.verdict}
        claims.setdefault(claim.response_id, []).append(found)
    texts = {one.id: one.text for one in manifest.records("responses")} if "responses" in stages else {}
    shared = {**about, "policy": producer["policy"], "seed": producer["seed"], "iteration": iteration}
    return [
        Example(f"{iteration:03d}/{pair.id}", prompts[pair.prompt_id], pair, shared | _of_pair(pair, claims, texts))
        for pair in manifest.records("pairs")
    ]


def write_pairs(form: str, examples: Sequence[Example], out: Path) -> None:
    """Write pairs to a directory, which is created if missing.

    Raises:
        ValueError: the format is unknown, the directory is not empty, there are no pairs, or one does not fit the
            format.
        OSError: an image cannot be read, or a file cannot be written.
    """
    if form not in EXPORTS:
        raise ValueError(f"{form!r} is no format to write; there are {', '.join(EXPORTS)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty directory.")
    if not examples:
        raise ValueError("There are no pairs to write.")
    for example in examples:
        _check(form, example)
    make_directory(out)
    if form == "llamafactory":
        _write_llamafactory(examples, out)
    else:
        _write_parquet(form, examples, out)


def _of_pair(pair: Pair, claims: dict[str, list[dict[str, Any]]], texts: dict[str, str]) -> dict[str, Any]:
    """Return scores and claims of a pair. A side that is no response as it was sampled, but made of parts, has no claims."""
    of_side = {
        side: claims.get(response_id, []) if texts.get(response_id, text) == text else []
        for side, response_id, text in (
            ("chosen", pair.chosen_response_id, pair.chosen),
            ("rejected", pair.rejected_response_id, pair.rejected),
        )
    }
    return {
        "prompt_id": pair.prompt_id,
        "pair_id": pair.id,
        "chosen_score": pair.chosen_score,
        "rejected_score": pair.rejected_score,
        "chosen_claims": of_side["chosen"],
        "rejected_claims": of_side["rejected"],
    }


def _check(form: str, example: Example) -> None:
    num_images = len(example.prompt.image_paths)
    if form == "rlaifv" and num_images != 1:
        raise ValueError(
            f"Pair {example.id!r} has {num_images} images, but a row of RLAIF-V's schema holds one; format=trl holds any."
        )
    if form == "rlaifv" and (example.prompt.system or example.prompt.history):
        raise ValueError(
            f"Pair {example.id!r} has a system message or earlier turns, for which RLAIF-V's schema has no column; format=trl "
            "and format=llamafactory keep them."
        )
    texts = (*conversation(example.prompt), example.pair.chosen, example.pair.rejected)
    if form == "llamafactory" and any(MARKER in text for text in texts):
        raise ValueError(
            f"Pair {example.id!r} has the text {MARKER}, which LLaMA-Factory takes for an image; use format=trl."
        )


def _write_parquet(form: str, examples: Sequence[Example], out: Path) -> None:
    make_directory(out / "data")
    schema = FEATURES[form].arrow_schema
    files = _cut(examples, ROWS_PER_FILE)
    for number, some in enumerate(files):
        path = out / "data" / f"train-{number:05d}-of-{len(files):05d}.parquet"
        with publish(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for group in _cut(some, ROWS_PER_GROUP):
                rows = [_row(form, example) for example in group]
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _row(form: str, example: Example) -> dict[str, Any]:
    prompt, pair, provenance = example.prompt, example.pair, example.provenance
    images = [{"bytes": Path(path).read_bytes(), "path": Path(path).name} for path in prompt.image_paths]
    if form == "trl":
        return {
            "prompt": _turns(prompt),
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
            "images": images,
            "provenance": _json({"id": example.id, **provenance}),
        }
    return {
        "ds_name": "RLAIF-V",
        "image": images[0],
        "question": prompt.question,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "origin_dataset": str(provenance["run"]),
        "origin_split": _json(provenance),
        "idx": example.id,
        "image_path": images[0]["path"],
    }


def conversation(prompt: Prompt) -> tuple[str, ...]:
    """Return the texts of a prompt: its system message, which may be empty, then user and assistant in alternation."""
    return prompt.system, *prompt.history, prompt.question


def _turns(prompt: Prompt) -> list[dict[str, str]]:
    system, *texts = conversation(prompt)
    turns = [{"role": "assistant" if k % 2 else "user", "content": text} for k, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *turns] if system else turns


def _write_llamafactory(examples: Sequence[Example], out: Path) -> None:
    make_directory(out / "images")
    rows = []
    has_system = any(example.prompt.system for example in examples)
    for example in examples:
        names = [_copied(Path(path), out) for path in example.prompt.image_paths]
        system, *texts = conversation(example.prompt)
        texts[0] = MARKER * len(names) + texts[0]
        rows.append(
            {
                "id": example.id,
                "conversations": [{"from": "gpt" if k % 2 else "human", "value": text} for k, text in enumerate(texts)],
                **({"system": system} if has_system else {}),
                "chosen": {"from": "gpt", "value": example.pair.chosen},
                "rejected": {"from": "gpt", "value": example.pair.rejected},
                "images": names,
            }
        )
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
    columns |= {"system": "system"} if has_system else {}
    entry = {"file_name": "pairs.json", "formatting": "sharegpt", "ranking": True, "columns": columns}
    provenance = (_json({"id": example.id, **example.provenance}) for example in examples)
    write_text(out / "provenance.jsonl", "".join(f"{line}\n" for line in provenance))
    write_json(out / "dataset_info.json", {"rlaifv_pairs": entry})
    write_json(out / "pairs.json", rows)


def _copied(path: Path, out: Path) -> str:
    content = path.read_bytes()
    name = f"images/{hashlib.sha256(content).hexdigest()}.{ending(content)}"
    if not (out / name).exists():
        with publish(out / name) as temporary:
            temporary.write_bytes(content)
    return name


def _cut(examples: Sequence[Example], size: int) -> list[Sequence[Example]]:
    return [examples[k : k + size] for k in range(0, len(examples), size)]


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


def iterations_of(run_dir: Path) -> Iterator[int]:
    """Yield the committed iterations of a run in ascending order."""
    for path in sorted((run_dir / "iterations").glob("*/manifest.json")):
        if path.parent.name.isdecimal() and Manifest(path.parent).committed:
            yield int(path.parent.name)
