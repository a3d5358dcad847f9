import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlaifv.report.run import numbers, read_run


def test_whole_run_is_read(make_run: Callable[..., Path]) -> None:
    run = read_run(make_run())
    assert [evaluation.num_iterations for evaluation in run.evaluations] == [0, 1, 2, 3, 4]
    assert run.evaluations[4].metrics["hallucination/response"] == 0.086
    assert len(run.statistics) == 4
    assert [row["step"] for row in run.training] == list(range(200))
    assert run.config is not None
    assert run.config.startswith("# Everything")
    example = run.evaluations[0].examples[0]
    assert example.truth is not None
    assert [claim.truth for claim in example.claims] == [claim.text in example.truth for claim in example.claims]


def test_evaluations_are_sorted_by_iterations_not_by_name(fake_run: Any) -> None:
    for k in (1000, 999, 0):
        fake_run.evaluation(k, {})
    assert [evaluation.num_iterations for evaluation in read_run(fake_run.run_dir).evaluations] == [0, 999, 1000]


def test_statistics_end_at_the_first_incomplete_iteration(fake_run: Any) -> None:
    for k in (0, 1, 3):
        fake_run.statistics(k, {"pairs_kept": k})
    assert read_run(fake_run.run_dir).statistics == ({"pairs_kept": 0.0}, {"pairs_kept": 1.0})


def test_absent_and_infinite_numbers_are_left_out() -> None:
    values = {"a": 1, "b": None, "c": math.nan, "d": math.inf, "e": 0.5}
    assert numbers(values, "here") == {"a": 1.0, "e": 0.5}


def test_rows_of_metrics_are_merged_and_a_resumed_step_counts_last(fake_run: Any) -> None:
    fake_run.evaluation(0, {})
    (fake_run.run_dir / "metrics.csv").write_text(
        "step,loss,rewards/margins\n0,0.7,\n0,,0.1\n1,0.6,nan\n2,0.5,0.3\n1,0.55,0.2\n,1,1\n", encoding="utf-8"
    )
    assert read_run(fake_run.run_dir).training == (
        {"step": 0.0, "loss": 0.7, "rewards/margins": 0.1},
        {"step": 1.0, "loss": 0.55, "rewards/margins": 0.2},
        {"step": 2.0, "loss": 0.5, "rewards/margins": 0.3},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"000\.json is not valid JSON"),
        ('{"metrics": {}}', r"000\.json lacks the key 'num_iterations'"),
        ('{"num_iterations": 0, "metrics": {"coverage": "high"}}', r"000\.json, metrics: 'coverage' must be a number"),
        ('{"num_iterations": 0, "metrics": [1]}', r"metrics must hold a table of numbers, not list"),
        ('{"num_iterations": 0, "metrics": {}, "examples": [{"prompt_id": "p"}]}', "lacks the key 'question'"),
        ('{"num_iterations": 0, "metrics": {}, "examples": [7]}', "does not have the shape of an evaluation"),
    ],
)
def test_broken_evaluations_are_named(fake_run: Any, text: str, message: str) -> None:
    fake_run.evaluation(0, {})
    (fake_run.run_dir / "evaluations" / "000.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_run(fake_run.run_dir)


def test_strange_verdicts_and_probabilities_count_as_unknown(fake_run: Any) -> None:
    claim = {"text": "c", "question": "q", "p_yes": None, "p_no": "x", "verdict": '"><b>'}
    example = {"prompt_id": "p", "question": "q", "image_path": None, "response": "r", "claims": [claim]}
    fake_run.evaluation(0, {}, [example])
    (read,) = read_run(fake_run.run_dir).evaluations[0].examples
    assert read.claims[0].verdict == "unknown"
    assert read.claims[0].p_yes is None
    assert read.claims[0].p_no is None
    assert (read.image_path, read.truth) == ("", None)


CHOICE = {
    "by": "labeler",
    "min_claims": 0.8,
    "chosen": 4,
    "start": {"step": 0, "epoch": 0.0, "digest": "", "metrics": {"rejected/mention": 0.4}},
    "candidates": [
        {"step": 2, "epoch": 0.5, "digest": "", "metrics": {"rejected/mention": 0.3}},
        {"step": 4, "epoch": 1.0, "digest": "", "metrics": {"rejected/mention": 0.2}},
    ],
}


def test_choices_among_candidates_are_read_with_the_start_first(tmp_path: Path) -> None:
    (tmp_path / "iterations" / "001").mkdir(parents=True)
    path = tmp_path / "iterations" / "001" / "candidates.json"
    path.write_text(json.dumps(CHOICE))
    (selection,) = read_run(tmp_path).selections
    assert (selection.iteration, selection.by, selection.chosen) == (1, "labeler", 2)
    assert [(epoch, metrics["rejected/mention"]) for epoch, metrics in selection.candidates] == [
        (0.0, 0.4),
        (0.5, 0.3),
        (1.0, 0.2),
    ]
    path.write_text(json.dumps(CHOICE | {"chosen": 3}))
    with pytest.raises(
        ValueError, match=r"candidates\.json does not have the shape of a choice among candidates: 3 is not"
    ):
        read_run(tmp_path)
