from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

from rlaifv.report.charts import feedback_charts, pair_charts, result_charts, training_charts
from rlaifv.report.run import Evaluation, Run, read_run


def parsed(figures: list[str]) -> dict[str | None, Element]:
    trees = [fromstring(figure) for figure in figures]
    return {tree.findtext("figcaption"): tree for tree in trees}


def legend(figure: Element) -> list[str | None]:
    return [item.text for item in figure.findall("ul/li/span")]


def run_with(*evaluations: Evaluation, statistics: tuple[dict[str, float], ...] = ()) -> Run:
    return Run(Path("run"), None, evaluations, statistics, ())


def test_charts_of_a_whole_run(make_run: Callable[..., Path]) -> None:
    run = read_run(make_run())
    assert set(parsed(result_charts(run))) == {"Hallucination", "Coverage", "Answer length"}
    assert set(parsed(feedback_charts(run))) == {"Labeler against the truth", "Verdicts", "Length of the pairs"}
    assert set(parsed(training_charts(run))) == {"Reward margin", "Reward accuracy", "Rewards"}


def test_shares_are_drawn_as_percent(make_run: Callable[..., Path]) -> None:
    figure = parsed(result_charts(read_run(make_run())))["Hallucination"]
    titles = [title.text for title in figure.iter("title")]
    assert "answers with a false claim at 0: 85.2" in titles
    assert "claims that are false at 4: 4.1" in titles


def test_without_truth_the_labelers_rejections_are_drawn() -> None:
    run = run_with(Evaluation(0, {"rejected/response": 0.5}), Evaluation(1, {"rejected/response": 0.25}))
    assert set(parsed(result_charts(run))) == {"Rejected by the labeler"}


def test_one_measurement_is_no_chart() -> None:
    assert result_charts(run_with(Evaluation(0, {"coverage": 0.5}))) == []
    assert feedback_charts(run_with(Evaluation(0, {"labeler/accuracy": 0.5}))) == []


def test_labeler_axis_starts_at_chance_unless_the_labeler_is_worse() -> None:
    for accuracy, start in ((0.9, "50"), (0.4, "0")):
        run = run_with(Evaluation(0, {"labeler/accuracy": accuracy}), statistics=({"labeler/agreement": 0.8},))
        figure = parsed(feedback_charts(run))["Labeler against the truth"]
        ticks = [text.text for text in figure.findall("svg/text") if text.get("class") == "axis end"]
        assert ticks[0] == start


def test_pairs_are_stacked_from_kept_to_never_made() -> None:
    statistics = {"pairs_kept": 10.0, "dropped/identical": 5.0, "dropped/tie": 4.0, "dropped/over_cap": 3.0}
    run = run_with(statistics=({**statistics, "dropped/length_balance": 2.0, "dropped/truncated": 99.0},))
    (figure,) = pair_charts(run)
    bars = fromstring(figure)
    # Truncated answers are no pairs, so they have no part in the bar.
    assert legend(bars) == ["kept", "length balance", "over cap", "tie", "identical"]
    assert [title.text for title in bars.iter("title")][:2] == ["iteration 1: 10 kept", "iteration 1: 2 length balance"]
    assert "24" in [text.text for text in bars.findall("svg/text")]


def test_new_iterations_are_marked_in_the_training_charts(make_run: Callable[..., Path]) -> None:
    figure = parsed(training_charts(read_run(make_run())))["Reward margin"]
    assert [line.get("class") for line in figure.findall("svg/line")].count("boundary") == 3
