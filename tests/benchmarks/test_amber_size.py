"""AMBER at its full size, with made-up words: its edition is recognised, and scoring takes seconds."""

import json
import time
from pathlib import Path

from rlaifv.benchmarks.amber import BENCHMARK
from rlaifv.benchmarks.protocol import Given

QUESTIONS = (
    ("discriminative-hallucination", 4924),
    ("discriminative-attribute-state", 4764),
    ("discriminative-attribute-number", 2072),
    ("discriminative-attribute-action", 792),
    ("discriminative-relation", 975),
    ("relation", 689),
)


def test_all_15220_rows(tmp_path: Path) -> None:
    """The oracle of the script that answers no throughout: what is printed follows from the counts alone."""
    words = [f"thing{chr(97 + k)}" for k in range(20)]
    annotations = [
        {"type": "generative", "truth": [words[k % 20]], "hallu": [words[(k + 1) % 20]]} for k in range(1004)
    ]
    for kind, number in QUESTIONS:
        halves = {"discriminative-hallucination": ("no", "no"), "discriminative-relation": ("yes", "yes")}
        first, second = ("no", "no") if kind == "relation" else halves.get(kind, ("yes", "no"))
        annotations += [{"type": kind, "truth": first if k % 2 else second} for k in range(number)]
    rows = [{"id": k, **row} for k, row in enumerate(annotations, start=1)]
    answers = [
        {"id": row["id"], "response": f"There is a {row['truth'][0]}." if row["type"] == "generative" else "No"}
        for row in rows
    ]
    for name, content in (("annotations", rows), ("relation", {word: [] for word in words}), ("answers", answers)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "safe_words.txt").write_text("sign\n")
    start = time.process_time()
    result = BENCHMARK.score(Given(annotations=tmp_path, answers=tmp_path / "answers.json"))
    assert time.process_time() - start < 60  # a guard against squares, not a measurement
    assert result.version == "v1"
    assert not [warning for warning in result.warnings if "has" in warning and "instead" in warning]
    assert {name: result.metrics[name] for name in ("accuracy", "precision", "recall", "f1")} == {
        "accuracy": 66.3,
        "precision": 66.3,
        "recall": 100.0,
        "f1": 79.7,
    }
    assert (result.metrics["chair"], result.metrics["cover"], result.metrics["hal"]) == (0.0, 100.0, 0.0)
