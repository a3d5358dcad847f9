import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.observers.selection import Candidate, SelectionRules, candidate_steps, choose, claims_enough


def candidate(
    step: int, mention: float, claims: float = 4.0, response: float = 0.5, truth: tuple[float, float] = (0.5, 0.5)
) -> Candidate:
    rates = {"rejected/mention": mention, "rejected/response": response, "claims_per_response": claims}
    true = {"hallucination/mention": truth[0], "hallucination/response": truth[1]}
    return Candidate(step, step / 8, f"digest {step}", rates | true)


START = candidate(0, 0.4, claims=5.0)


@pytest.mark.parametrize(
    ("num_steps", "per_epoch", "expected"),
    [
        (668, 4, [167, 334, 501, 668]),  # the released script saves every 167 steps
        (10, 4, [3, 5, 8, 10]),
        (7, 4, [2, 4, 6, 7]),
        (4, 4, [1, 2, 3, 4]),
        (3, 4, [1, 2, 3]),
        (1, 4, [1]),
        (10, 1, [10]),
        (10, 0, []),
    ],
)
def test_steps_of_candidates(num_steps: int, per_epoch: int, expected: list[int]) -> None:
    assert candidate_steps(num_steps, per_epoch) == expected


@given(st.integers(1, 3000), st.integers(1, 20))
def test_a_pass_ends_with_a_candidate_and_has_as_many_as_fit(num_steps: int, per_epoch: int) -> None:
    steps = candidate_steps(num_steps, per_epoch)
    assert steps[-1] == num_steps
    assert len(steps) == min(num_steps, per_epoch)
    gaps = [after - before for before, after in zip([0, *steps], steps, strict=False)]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


def test_the_labeler_takes_the_smallest_share_of_rejected_claims() -> None:
    some = [candidate(2, 0.3), candidate(4, 0.1, response=0.9), candidate(6, 0.2, truth=(0.0, 0.0))]
    assert choose(some, START, SelectionRules(4)).step == 4


def test_the_truth_takes_the_smallest_share_of_false_claims() -> None:
    some = [candidate(2, 0.1, truth=(0.3, 0.0)), candidate(4, 0.3, truth=(0.2, 0.9)), candidate(6, 0.0)]
    assert choose(some, START, SelectionRules(4, by="truth")).step == 4
    alike = [candidate(2, 0.9, truth=(0.2, 0.3)), candidate(4, 0.0, truth=(0.2, 0.4))]
    assert choose(alike, START, SelectionRules(4, by="truth")).step == 2


def test_nobody_takes_the_last() -> None:
    some = [candidate(6, 0.9, claims=0.0), candidate(2, 0.1), candidate(4, 0.2)]
    assert choose(some, START, SelectionRules(4, by="last")).step == 6


def test_ties_go_to_fewer_answers_with_a_rejected_claim_then_to_the_later_step() -> None:
    some = [candidate(2, 0.1, response=0.3), candidate(4, 0.1, response=0.2), candidate(6, 0.1, response=0.4)]
    assert choose(some, START, SelectionRules(4)).step == 4
    alike = [candidate(2, 0.1), candidate(4, 0.1), candidate(6, 0.2)]
    assert choose(alike, START, SelectionRules(4)).step == 4


def test_who_says_little_is_not_chosen_for_it() -> None:
    """The start makes 5 claims an answer, 0.8 of which is 4: 3.9 are too few, 4.0 are enough."""
    silent, wary, bold = candidate(2, 0.0, claims=0.0), candidate(4, 0.05, claims=3.9), candidate(6, 0.3, claims=4.0)
    assert choose([silent, wary, bold], START, SelectionRules(4)).step == 6
    assert [claims_enough(some, START, SelectionRules(4)) for some in (silent, wary, bold)] == [False, False, True]
    assert choose([silent, wary, bold], START, SelectionRules(4, min_claims=0.7)).step == 4
    assert choose([silent, wary, bold], START, SelectionRules(4, min_claims=0.0)).step == 2


def test_where_all_say_too_little_the_one_that_says_most_goes_on() -> None:
    some = [candidate(2, 0.0, claims=0.5), candidate(4, 0.3, claims=2.0), candidate(6, 0.4, claims=2.0)]
    assert choose(some, START, SelectionRules(4)).step == 6


numbers = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
measured = st.tuples(numbers, st.sampled_from([0.0, 2.0, 3.9, 4.0, 6.0]), numbers)


@given(st.lists(measured, min_size=2, max_size=8), st.data(), st.sampled_from(["labeler", "truth", "last"]))
def test_the_best_of_some_is_enough_to_know(found: list[tuple[float, float, float]], data: st.DataObject, by) -> None:
    """Why the others of earlier passes may be forgotten."""
    some = [candidate(k, m, claims, response, (response, m)) for k, (m, claims, response) in enumerate(found, 1)]
    rules = SelectionRules(4, by=by)
    cut = data.draw(st.integers(1, len(some) - 1))
    of_first = choose(some[:cut], START, rules)
    assert choose([of_first, *some[cut:]], START, rules) == choose(some, START, rules)


def test_what_is_no_candidate_is_not_read() -> None:
    with pytest.raises(KeyError, match="digest"):
        Candidate.parse({"step": 1, "epoch": 0.5})
