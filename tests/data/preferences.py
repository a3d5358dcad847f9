"""Preference data in every published format, as small files that tests write and read back."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, List
from PIL import Image as Picture

from rlaifv.records import Claim, Judgement, Pair, Prompt, Response
from rlaifv.store.manifest import Manifest


def picture(colour: str, kind: str = "PNG", side: int = 32) -> bytes:
    """An image file of one colour."""
    stream = io.BytesIO()
    Picture.new("RGB", (side, side), colour).save(stream, kind)
    return stream.getvalue()


RED, BLUE, TEAL = picture("red"), picture("blue", "JPEG"), picture("teal")
QUESTIONS = ("What is it?", "What is it?", "Describe it.")
CHOSEN = ("A red square.", "It is red.", "It is blue, all of it.")
REJECTED = ("A green ring.", "Two dogs.", "A cat on a mat.")
PICTURES = (RED, RED, BLUE)


def cell(content: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": content, "path": path}


def rlaifv_rows() -> list[dict[str, Any]]:
    """Three pairs, the first two of one prompt."""
    return [
        {
            "ds_name": "RLAIF-V",
            "image": cell(PICTURES[k]),
            "question": QUESTIONS[k],
            "chosen": CHOSEN[k],
            "rejected": REJECTED[k],
            "origin_dataset": "COCO",
            "origin_split": json.dumps({"model": "LLaVA-1.5", "type": "question answering"}),
            "idx": str(k + 7),
            "image_path": f"{k}.jpg",
        }
        for k in range(3)
    ]


def rlhfv_rows() -> list[dict[str, Any]]:
    answers = [{"question": q, "chosen": c, "rejected": r} for q, c, r in zip(QUESTIONS, CHOSEN, REJECTED, strict=True)]
    rows = rlaifv_rows()
    for row, text in zip(rows, answers, strict=True):
        for name in text:
            del row[name]
        row |= {"text": json.dumps(text), "idx": int(row["idx"])}
    return rows


def trl_rows(is_conversational: bool = True) -> list[dict[str, Any]]:
    def said(role: str, text: str) -> Any:
        blocks: list[dict[str, Any]] = [{"type": "image", "text": None}] if role == "user" else []
        blocks.append({"type": "text", "text": text})
        return [{"role": role, "content": blocks}] if is_conversational else text

    return [
        {
            "prompt": said("user", QUESTIONS[k]),
            "chosen": said("assistant", CHOSEN[k]),
            "rejected": said("assistant", REJECTED[k]),
            "images": [cell(PICTURES[k])],
        }
        for k in range(3)
    ]


def llamafactory_rows(folder: Path) -> list[dict[str, Any]]:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for k, content in enumerate(PICTURES):
        (folder / "images" / f"{k}.png").write_bytes(content)
    return [
        {
            "conversations": [{"from": "human", "value": f"<image>{QUESTIONS[k]}"}],
            "chosen": {"from": "gpt", "value": CHOSEN[k]},
            "rejected": {"from": "gpt", "value": REJECTED[k]},
            "images": [f"images/{k}.png"],
        }
        for k in range(3)
    ]


def swift_rows(folder: Path) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": row["conversations"][0]["value"]},
                {"role": "assistant", "content": row["chosen"]["value"]},
            ],
            "rejected_response": row["rejected"]["value"],
            "images": row["images"],
        }
        for row in llamafactory_rows(folder)
    ]


IMAGE_COLUMNS = {"image": Image(), "images": List(Image())}


def write_parquet(path: Path, rows: Sequence[dict[str, Any]], has_features: bool = True) -> Path:
    """With the features that `datasets` itself would write, or as a bare table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = None
    if has_features:
        plain = {name: value for name, value in rows[0].items() if name not in IMAGE_COLUMNS}
        features = Dataset.from_list([plain]).features
        features = Features({**features, **{name: IMAGE_COLUMNS[name] for name in rows[0] if name in IMAGE_COLUMNS}})
    Dataset.from_list(list(rows), features).to_parquet(path)
    return path


def write_tsv(path: Path, rows: Sequence[dict[str, Any]], with_logps: bool = False) -> Path:
    """RLHF-V's older form: fields in base64, lists instead of objects."""

    def encoded(content: str | bytes) -> str:
        return base64.b64encode(content.encode() if isinstance(content, str) else content).decode()

    lines = []
    for row in rows:
        text: list[Any] = [*json.loads(row["text"]).values()]
        text += [[-1.0, -0.1, [-1.0], -2.0, -0.2, [-2.0]]] if with_logps else []
        fields = (row["ds_name"], encoded(row["image"]["bytes"]), encoded(json.dumps(text)), row["origin_dataset"])
        fields = (*fields, encoded(row["origin_split"]), str(row["idx"]), row["image_path"])  # type: ignore[assignment]
        lines.append("\t".join(fields))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_format(form: str, folder: Path) -> Path:
    """The three pairs in a format's usual kind of file."""
    folder.mkdir(parents=True, exist_ok=True)
    if form in ("llamafactory", "swift"):
        rows_of = {"llamafactory": llamafactory_rows, "swift": swift_rows}[form]
        return write_jsonl(folder / "pairs.jsonl", rows_of(folder))
    rows = {"rlaifv": rlaifv_rows, "rlhfv": rlhfv_rows, "trl": trl_rows}[form]()
    return write_parquet(folder / "pairs.parquet", rows)


def write_run(run_dir: Path, prompts: Sequence[Prompt], num_iterations: int = 2) -> Path:
    """A run directory with committed iterations of one pair for each prompt, and every claim of them judged."""
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(
        "model: {path: owner/policy}\nlabeler: {path: null}\ndivider: {_target_: rlaifv.stages.dividers.rules.RulesDivider}\n"
    )
    for iteration in range(num_iterations):
        manifest = Manifest.open(run_dir, iteration, {"policy": f"digest-{iteration}", "seed": "0", "settings": ""})
        records: dict[str, list[Any]] = {"prompts": list(prompts)}
        for prompt in prompts:
            texts = (f"A red circle, {prompt.id}.", f"A blue star, {iteration}.")
            answers = [
                Response(f"{prompt.id}/{k}", prompt.id, text, (60 + k, 3), True, k) for k, text in enumerate(texts)
            ]
            claims = [Claim(f"{a.id}/0", a.id, prompt.id, a.text, f"Is it {a.text}?") for a in answers]
            verdicts: Any = ((0.75, 0.25, "accepted"), (0.25, 0.75, "rejected"))
            judged = [Judgement(c.id, c.response_id, prompt.id, *v) for c, v in zip(claims, verdicts, strict=True)]
            ids = [answer.id for answer in answers]
            pair = Pair(
                f"{ids[0]}>{ids[1]}",
                prompt.id,
                *ids,
                *texts,
                (60, 3),
                (61, 3),
                0.0,
                -1.0,
                (-1.0, -2.0),
                (-3.0, -4.0),
                9,
            )
            for stage, some in (("responses", answers), ("claims", claims), ("judgements", judged), ("pairs", [pair])):
                records.setdefault(stage, []).extend(some)
        for stage, some in records.items():
            manifest.plan(stage, 1)
            manifest.put(stage, 0, some)
        manifest.commit(1)
    return run_dir
