from rlaifv.report.summary import HEADLINES, HEADLINES_WITHOUT_TRUTH, change, headlines, rows, trained_on


def test_rows_join_the_feedback_of_an_iteration_with_the_policy_it_led_to() -> None:
    found = rows({0: {"coverage": 0.5}, 2: {"coverage": 0.7}}, [{"pairs_kept": 3.0}, {"pairs_kept": 4.0}])
    assert [(row.name, dict(row.values)) for row in found] == [
        ("base", {"coverage": 0.5}),
        ("iteration 1", {"pairs_kept": 3.0}),
        ("iteration 2", {"pairs_kept": 4.0, "coverage": 0.7}),
    ]


def test_evaluation_wins_where_both_have_a_name() -> None:
    (_, row) = rows({0: {}, 1: {"claims_per_response": 2.0}}, [{"claims_per_response": 3.0}])
    assert row.values == {"claims_per_response": 2.0}


def test_change_is_from_the_base_to_the_last_that_has_the_metric() -> None:
    evaluations = {0: {"coverage": 0.5}, 1: {"coverage": 0.6}, 2: {"coverage": 0.7}, 3: {}}
    assert change(evaluations, "coverage") == (0.5, 0.7)
    assert change({0: {"coverage": 0.5}}, "coverage") == (0.5, None)
    assert change({1: {"coverage": 0.5}}, "coverage") == (None, 0.5)
    assert change({}, "coverage") == (None, None)


def test_headlines_follow_what_is_known() -> None:
    assert headlines({0: {}, 1: {"hallucination/response": 0.0}}) == HEADLINES
    assert headlines({0: {"rejected/response": 0.0}}) == HEADLINES_WITHOUT_TRUTH


def test_rewarded_answers_are_not_called_pairs() -> None:
    assert trained_on([{"rollouts_kept": 8.0}, {"rollouts_kept": 3.0}]) == ("answers", 11)
    assert trained_on([{"answers_kept": 8.0}, {"answers_kept": 3.0}]) == ("labelled answers", 11)
    assert trained_on([{"pairs_kept": 3.0}, {}]) == ("pairs", 3)
    assert trained_on([]) == ("pairs", 0)
