"""Two small benchmarks with files of their own form: yes/no questions, and descriptions that a judge reads."""

import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rlaifv.benchmarks import places, registry
from rlaifv.benchmarks.files import field_of, match_ids, read_rows, required
from rlaifv.benchmarks.protocol import Given, Item, Result, Stage
from rlaifv.models.sampling import Decoding
from rlaifv.records import Prompt


class Exam:
    """Rows id, image (a name, or base64 under picture), question, label; answers id, answer. Positive is yes."""

    name = "exam"
    uses: tuple[str, ...] = ("questions", "images", "parser")
    parsers: tuple[str, ...] = ("official", "strict")
    decoding = Decoding(temperature=0, max_new_tokens=12)

    def items(self, given: Given) -> list[Item]:
        path = required(given.questions, "questions", self.name)
        items = []
        for number, row in enumerate(read_rows(path), start=1):
            image = base64.b64decode(row["picture"]) if "picture" in row else field_of(row, "image", str, number, path)
            items.append(Item(str(row["id"]), field_of(row, "question", str, number, path), (image,)))
        return items

    def answer_rows(self, given: Given, items: Sequence[Item], texts: Sequence[str]) -> list[dict[str, Any]]:
        return [{"id": item.id, "answer": text} for item, text in zip(items, texts, strict=True)]

    def score(self, given: Given) -> Result:
        path = required(given.answers, "answers", self.name)
        questions = read_rows(required(given.questions, "questions", self.name))
        labels = {str(row["id"]): row["label"] for row in questions}
        answers = {str(row["id"]): str(row["answer"]) for row in read_rows(path)}
        ids = match_ids(labels, list(answers), path, given.allow_incomplete)
        said = {one: "yes" if "yes" in answers[one].lower() else "no" for one in ids}
        right = sum(said[one] == labels[one] for one in ids)
        num_yes = sum(word == "yes" for word in said.values())
        return Result(
            metrics={
                "accuracy": 100 * right / len(ids),
                "split": {"yes_ratio": 100 * num_yes / len(ids), "none": float("nan")},
            },
            counts={"questions": len(labels), "answers": len(ids)},
            num_invalid=0,
            version=f"{len(labels)} questions",
            protocol={"incomplete": len(ids) < len(labels)},
            warnings=("It is small.",),
        )


class Judged(Exam):
    """The same files, and for each answer what a judge gives it, from 0 to 6."""

    name = "judged"
    uses = ("questions", "images", "reviews", "judge", "invalid_judge")
    parsers = ("official",)
    stages = (Stage("reply", "Rate {answer}", lambda reply: reply[-1:].isdigit()),)

    def conversations(self, given: Given, template: str | None = None) -> list[tuple[str, str]]:
        rows = read_rows(required(given.answers, "answers", self.name))
        return [(row["id"], f"Rate {row['answer']}") for row in rows]

    def score(self, given: Given) -> Result:
        rows = read_rows(required(given.reviews, "reviews", self.name))
        scores = [int(row["reply"][-1]) for row in rows]
        return Result({"score": sum(scores) / len(scores)}, {"reviews": len(rows)}, 0, "fake")


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the two be known by their names, and found where `write_exam` puts them."""
    for one in (Exam(), Judged()):
        module = ModuleType(f"fake_{one.name}")
        module.BENCHMARK = one  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(registry.MODULES, one.name, module.__name__)
        monkeypatch.setitem(places.PLACES, one.name, {"questions": ("questions.jsonl",), "images": ("images",)})


def write_exam(directory: Path, prompts: Sequence[Prompt], name: str = "exam") -> Path:
    """Two questions about each image below `directory`, the images mixed; the last image is inside the file."""
    place = directory / name
    (place / "images").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for half, question in enumerate(("Is there a red circle?", "Is it at the top left? Say yes or no.")):
        for k, prompt in enumerate(prompts):
            picture = Path(prompt.image_paths[0]).read_bytes()
            row = {"id": 10 * k + half, "question": question, "label": ("yes", "no")[(k + half) % 2]}
            if k + 1 < len(prompts):
                (place / "images" / f"{k}.png").write_bytes(picture)
                row["image"] = f"{k}.png"
            else:
                row["picture"] = base64.b64encode(picture).decode()
            rows.append(row)
    (place / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place
