"""Files of others in every shape that one format allows, trained on by the command that a user types."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlaifv.records import Pair, Prompt
from rlaifv.store.manifest import Manifest
from tests.data.preferences import BLUE, RED, TEAL, write_jsonl
from tools import validate_data

Launch = Callable[..., tuple[int, str]]
SETTINGS = (
    "run=train",
    "run_dir=run",
    "iteration.num_iterations=1",
    "iteration.epochs=1",
    "iteration.min_pairs=1",
    "iteration.num_prompts=null",
    "iteration.shard_prompts=2",
    "data.num_held_out=0",
    "learner.batch_size=3",
    "learner.lr=1e-4",
)
WHO, CAT, WHAT = "Is it a cat?", "No, it is a ring.", "What is in the picture?"
SYSTEM = "Answer in the words of the question."
GOOD, BAD = "There is a red ring.", "There is a blue star."
URL = f"data:image/png;base64,{base64.b64encode(TEAL).decode()}"


def turns(*texts: Any, system: str = "") -> list[dict[str, Any]]:
    first = [{"role": "system", "content": system}] if system else []
    return first + [{"role": "assistant" if k % 2 else "user", "content": text} for k, text in enumerate(texts)]


def trained(launch: Launch, tmp_path: Path, form: str, rows: list[dict[str, Any]], *more: str) -> tuple[str, Manifest]:
    """What the command printed, in one line, and what it trained on."""
    (tmp_path / "data").mkdir()
    for name, content in (("red.png", RED), ("blue.jpg", BLUE)):
        (tmp_path / "data" / name).write_bytes(content)
    write_jsonl(tmp_path / "data" / "pairs.jsonl", rows)
    status, output = launch(*SETTINGS, f"data={form}", "data.path=data/pairs.jsonl", *more)
    assert status == 0, output
    assert (tmp_path / "run" / "export" / "model.safetensors").exists()
    assert (tmp_path / "run" / "report" / "index.html").exists()
    said = " ".join(output.replace(f"{tmp_path}/", "").split())
    return said, Manifest(tmp_path / "run" / "iterations" / "000").verified()


def conversations(manifest: Manifest) -> set[tuple[str, tuple[str, ...], str, int]]:
    prompts: list[Prompt] = manifest.records("prompts")
    return {(prompt.system, prompt.history, prompt.question, len(prompt.image_paths)) for prompt in prompts}


def test_rows_of_trl(launch: Launch, tmp_path: Path) -> None:
    answers = {"chosen": GOOD, "rejected": BAD}
    blocks = [{"type": "image"}, {"type": "text", "text": WHAT}]
    inline = [{"type": "image_url", "image_url": {"url": URL}}, {"type": "text", "text": WHO}]
    rows: list[dict[str, Any]] = [
        {"prompt": f"<image>{WHAT}", **answers, "images": ["red.png"]},
        {"prompt": turns(blocks), **answers, "images": [base64.b64encode(BLUE).decode()]},
        {"chosen": turns(WHAT, GOOD), "rejected": turns(WHAT, BAD), "images": [URL]},
        {
            "prompt": turns(WHO, CAT, WHAT, system=SYSTEM),
            **answers,
            "images": [f"file://{tmp_path}/data/blue.jpg"],
        },
        {"chosen": f"{WHAT} {GOOD}", "rejected": f"{WHAT} No, it is not."},
        {"prompt": WHO, "chosen": turns(WHO, "No."), "rejected": turns(WHO, "Yes.")},
        {"prompt": turns(inline), **answers},
        {"prompt": WHAT, **answers, "images": ["https://example.com/a.png"]},
        {"prompt": WHAT, "chosen": "", "rejected": BAD, "images": ["red.png"]},
        {"prompt": "a ring " * 600, **answers, "images": ["red.png"]},
    ]
    output, manifest = trained(launch, tmp_path, "trl", rows, "iteration.max_drop_rate=0.2")
    assert conversations(manifest) == {
        ("", (), WHAT, 1),
        (SYSTEM, (WHO, CAT), WHAT, 1),
        ("", (), WHAT, 0),
        ("", (), WHO, 0),
        ("", (), WHO, 1),
        ("", (), "a ring " * 600, 1),
    }
    pairs: list[Pair] = manifest.records("pairs")
    assert len(pairs) == 7
    assert {len(pair.chosen_reference_logps) - len(pair.chosen_token_ids) for pair in pairs} == {0}
    for line in (
        "2 of the 10 rows of data/pairs.jsonl have no image and are trained on as text.",
        "Dropped from data/pairs.jsonl: 1 row: an image is named by a web address, and nothing is fetched; download them",
        "Dropped from data/pairs.jsonl: 1 row: a text is empty; fill it in, or leave the rows out.",
        "1 pair too long for the model's 512 positions with the images; shorten the texts, or give fewer or smaller images.",
        "result: pairs trained 7, iterations 1, run run",
    ):
        assert line in output, output
    assert validate_data.main(["format=trl", "path=data/pairs.jsonl"]) == 1


def test_rows_of_llamafactory(launch: Launch, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "conversations": [{"from": "human", "value": f"<image>{WHAT}"}],
            "chosen": {"from": "gpt", "value": GOOD},
            "rejected": {"from": "gpt", "value": BAD},
            "images": ["red.png"],
        },
        {
            "conversations": turns(f"<image>{WHO}", CAT, WHAT),
            "chosen": GOOD,
            "rejected": [{"from": "gpt", "value": BAD}],
            "system": SYSTEM,
            "images": ["blue.jpg"],
        },
        {"instruction": WHAT, "input": "", "chosen": GOOD, "rejected": BAD, "images": ["blue.jpg"]},
        {"instruction": WHO, "input": WHAT, "chosen": GOOD, "rejected": BAD, "system": SYSTEM, "history": [[WHO, CAT]]},
    ]
    output, manifest = trained(launch, tmp_path, "llamafactory", rows)
    assert conversations(manifest) == {
        ("", (), WHAT, 1),
        (SYSTEM, (WHO, CAT), WHAT, 1),
        (SYSTEM, (WHO, CAT), f"{WHO}\n{WHAT}", 0),
    }
    assert "result: pairs trained 4, iterations 1, run run" in output


def test_rows_of_swift(launch: Launch, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": turns(f"<image>{WHAT}", GOOD), "rejected_response": BAD, "images": ["red.png"]},
        {
            "messages": turns(f"<image>{WHO}", CAT, WHAT, GOOD, system=SYSTEM),
            "rejected_messages": turns(f"<image>{WHO}", CAT, WHAT, BAD, system=SYSTEM),
            "images": [{"bytes": base64.b64encode(RED).decode(), "path": None}],
        },
        {"query": WHO, "response": "No.", "rejected_response": "Yes.", "history": [[WHAT, GOOD]]},
    ]
    output, manifest = trained(launch, tmp_path, "swift", rows)
    assert conversations(manifest) == {("", (), WHAT, 1), (SYSTEM, (WHO, CAT), WHAT, 1), ("", (WHAT, GOOD), WHO, 0)}
    assert "1 of the 3 rows of data/pairs.jsonl have no image and are trained on as text." in output
    assert "result: pairs trained 3, iterations 1, run run" in output


def test_data_of_which_nothing_can_be_used(launch: Launch, tmp_path: Path) -> None:
    row = {"prompt": WHAT, "chosen": GOOD, "rejected": BAD, "images": ["../red.png"]}
    write_jsonl(tmp_path / "data" / "pairs.jsonl", [row, row])
    status, output = launch(*SETTINGS, "run_dir=run0", "data=trl", "data.path=data/pairs.jsonl")
    said = " ".join(output.replace(f"{tmp_path}/", "").split())
    assert (status, "2 of the 2 rows of data/pairs.jsonl cannot be used" in said) == (2, True), output
    assert "2 rows: an image lies outside the data's folder; set data.image_root=DIR. The first: " in said
    (tmp_path / "data" / "pairs.jsonl").write_text(json.dumps({"question": WHAT}))
    status, output = launch(*SETTINGS, "run_dir=run1", "data=trl", "data.path=data/pairs.jsonl")
    assert (status, "has no column prompt or chosen, which data=trl needs" in " ".join(output.split())) == (2, True)
    long = {"prompt": "a ring " * 600, "chosen": GOOD, "rejected": BAD}
    write_jsonl(tmp_path / "data" / "pairs.jsonl", [long])
    status, output = launch(*SETTINGS, "run_dir=run2", "data=trl", "data.path=data/pairs.jsonl")
    assert (status, "No pair of iteration 0 can be trained on: 1 pair too long" in " ".join(output.split())) == (
        2,
        True,
    )
