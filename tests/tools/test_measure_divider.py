import json
from collections import Counter

import pytest

from rlaifv.metrics.division import read_divided_answers
from rlaifv.stages.dividers.content import content_words
from tools.measure_divider import ANSWERS, main


def test_the_divided_answers_are_what_they_should_be() -> None:
    answers = read_divided_answers(ANSWERS)
    assert len({answer.id for answer in answers}) == len({answer.answer for answer in answers}) == 200
    assert min(Counter(answer.style for answer in answers).values()) >= 10
    for answer in answers:
        assert len(set(answer.claims)) == len(answer.claims)
        known = content_words(f"{answer.answer} {answer.question}")
        for claim in answer.claims:
            assert len(content_words(claim) - known) <= max(2, len(content_words(claim)) // 2), claim


def test_the_table_and_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["divider=rules"])
    *table, last = capsys.readouterr().out.strip().splitlines()
    assert any("held out" in line for line in table)
    result = json.loads(last)
    assert result["divider"] == "RulesDivider"
    rates = result["rates"]
    # The figures in docs/dividers.md; what rules were tuned on is better than what they were not.
    assert rates["tuning"]["recall"] > 0.65
    assert rates["tuning"]["precision"] > 0.85
    assert rates["held out"]["recall"] > 0.45
    assert rates["held out"]["precision"] > 0.7
    assert {"caption", "relative", "markup"} < rates.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["divider.max_claims=0"], "divider.max_claims=0 must be at least 1"),
        (["--answers", "pyproject.toml"], "pyproject.toml, line 1, must be an object"),
    ],
)
def test_a_mistake_ends_in_one_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(arguments)
