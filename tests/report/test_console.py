import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType

from rlaifv.report.console import iteration_summary, result_line, result_table


def shown(renderable: RenderableType) -> list[str]:
    console = Console(file=StringIO(), width=100, highlight=False)
    console.print(renderable)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def read(run_dir: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    evaluations = [json.loads(path.read_text("utf-8")) for path in sorted((run_dir / "evaluations").iterdir())]
    paths = sorted((run_dir / "iterations").glob("*/statistics.json"))
    return evaluations, [json.loads(path.read_text("utf-8")) for path in paths]


def test_summary_says_what_feedback_and_training_brought(make_run: Callable[..., Path]) -> None:
    evaluations, statistics = read(make_run())
    lines = shown(iteration_summary(statistics[1], evaluations[1], evaluations[2], 1))
    text = "\n".join(lines)
    assert len(lines) <= 24
    assert "iteration 2" in lines[0]
    assert "pairs kept 368" in " ".join(text.split())
    (line,) = [line for line in lines if "response hallucination" in line]
    assert line.strip("│ ").split() == ["response", "hallucination", "0.277", "0.168", "better"]
    (line,) = [line for line in lines if "coverage" in line]
    assert line.strip("│ ").split() == ["coverage", "0.890", "0.884", "worse"]


def test_summary_before_the_training_shows_one_measurement(make_run: Callable[..., Path]) -> None:
    evaluations, statistics = read(make_run(1))
    lines = shown(iteration_summary(statistics[0], evaluations[0], None, 0))
    (header,) = [line for line in lines if "held-out prompts" in line]
    assert header.strip("│ ").split() == ["held-out", "prompts", "base"]
    assert not any("better" in line or "worse" in line for line in lines)
    assert not any("held-out" in line for line in shown(iteration_summary(statistics[0], None, None, 0)))


REWARDED = {
    "responses": 2560.0,
    "rollouts_kept": 2557.0,
    "reward/mean": -0.5,
    "reward/std": 1.0,
    "reward/score": 0.0,
    "reward/length": -0.5,
    "kl/per_answer": 0.46,
}


def test_a_reward_is_shown_term_by_term_and_without_columns_of_pairs() -> None:
    text = " ".join("\n".join(shown(iteration_summary(REWARDED, None, None, 0))).split())
    for part in ("reward -0.50", "reward: score 0.00", "reward: length -0.50", "kl 0.46", "answers kept 2,557"):
        assert part in text, part
    assert "spread" not in text
    evaluations = [{"num_iterations": k, "metrics": {"hallucination/response": 0.8 - k / 2}} for k in range(2)]
    header = " ".join(shown(result_table(evaluations, [REWARDED])))
    assert "response" in header
    assert "pairs" not in header
    assert "agreement" not in header
    pairs = REWARDED | {"pairs_kept": 3.0, "pairs_possible": 9.0}
    assert "3 (9)" in " ".join(shown(result_table(evaluations, [pairs])))


def test_the_terms_of_a_reward_fit_the_screen() -> None:
    many = REWARDED | {f"reward/term {k}": 1.0 for k in range(30)}
    assert len(shown(iteration_summary(many, None, None, 0))) <= 24


names = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=60)
values = st.floats(0, 1e9) | st.none() | st.integers(0, 10**9)


@given(
    st.dictionaries(names.map("dropped/".__add__), values, max_size=30),
    st.dictionaries(names.map("seconds/".__add__), values, max_size=30),
    st.booleans(),
)
def test_summary_fits_one_screen(dropped: dict[str, Any], seconds: dict[str, Any], measured: bool) -> None:
    feedback = {name: 1e6 for name in ("responses", "claims_per_response", "questions_asked", "rejection_rate")}
    feedback |= {
        "unknown_rate": 0.5,
        "labeler/agreement": 0.5,
        "length/chosen_words": 1e4,
        "length/rejected_words": 1e4,
    }
    metrics = dict.fromkeys(
        ("hallucination/response", "hallucination/mention", "coverage", "length/words", "labeler/accuracy"), 0.123
    )
    evaluation = {"num_iterations": 0, "metrics": metrics} if measured else None
    lines = shown(
        iteration_summary(
            {**feedback, "pairs_kept": 1e9, "pairs_possible": 1e9, **dropped, **seconds}, evaluation, evaluation, 99
        )
    )
    assert len(lines) <= 24
    assert max(map(cell_len, lines)) <= 100


def test_brackets_are_no_markup() -> None:
    lines = shown(iteration_summary({"dropped/[red]x[/]": 2, "pairs_kept": 1}, None, None, 0))
    assert any("[red]x[/]" in line for line in lines)


def test_table_has_a_row_for_the_base_and_each_iteration(make_run: Callable[..., Path]) -> None:
    lines = [line.strip() for line in shown(result_table(*read(make_run())))]
    rows = [line for line in lines if line.startswith(("base", "iteration"))]
    assert rows[0].split() == ["base", "0.852", "0.486", "0.579", "34.10", "3.41", "–", "–", "0.962"]
    expected = ["iteration", "4", "0.086", "0.041", "0.729", "23.00", "2.30", "308", "(2,740)", "0.793", "0.943"]
    assert rows[4].split() == expected
    assert len(rows) == 5


def test_table_without_truth(fake_run: Any) -> None:
    lines = shown(result_table([], [{"pairs_kept": 5, "pairs_possible": 7}]))
    (row,) = [line for line in lines if "iteration 1" in line]
    assert row.split() == ["iteration", "1", "5", "(7)"]


def test_result_line(make_run: Callable[..., Path]) -> None:
    evaluations, _ = read(make_run())
    assert result_line(evaluations, Path("outputs/2026-01-01/10-00-00"), 4) == (
        "result: response hallucination 0.852 -> 0.086, mention 0.486 -> 0.041, coverage 0.579 -> 0.729, "
        "iterations 4, run outputs/2026-01-01/10-00-00"
    )


def test_result_line_without_truth_counts_pairs(fake_run: Any) -> None:
    for k, pairs in enumerate((372, 368)):
        fake_run.statistics(k, {"pairs_kept": pairs})
    line = result_line([{"num_iterations": 0, "metrics": {"length/words": 3.0}}], fake_run.run_dir, 2)
    assert line == f"result: pairs trained 740, iterations 2, run {fake_run.run_dir}"
