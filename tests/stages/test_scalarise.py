"""Several scores into one, against numbers computed by hand, and weights that are fit to made preferences."""

from itertools import permutations
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from rlaifv.stages.scalarise import Scalariser, fit_weights, normalise, scalarise

NAMES = get_args(Scalariser)
# Three scores, weighted: 2, 1 and 6.
SCORES, WEIGHTS = torch.tensor([[4.0, 1.0, 3.0]]), torch.tensor([0.5, 1.0, 2.0])
EXPECTED = {
    "linear": 9.0,  # 2 + 1 + 6
    "worst_case": 1.0,
    "soft_max_min": 1.292132,  # (2 e^-2 + 1 e^-1 + 6 e^-6) / (e^-2 + e^-1 + e^-6) = 0.653423 / 0.505694
    "uncertainty_weighted": 2 / 3,  # mean 3, variance (1 + 4 + 9) / 3 = 14 / 3: 3 - 0.5 * 14 / 3
    "lower_quantile": 1.0,  # a third of three scores is one
    "max_median": 2.0,
    "bernoulli_nash": 12 ** (1 / 3),  # 2 * 1 * 6
}


def of(how: Any, scores: Tensor = SCORES, weights: Tensor = WEIGHTS, **options: float) -> list[float]:
    found: list[float] = scalarise(scores, weights, how, **options).tolist()
    return found


def differences_and_preferences(weights: list[float], num: int = 4000) -> tuple[Tensor, Tensor]:
    """Differences of scores of different spread, and preferences that are drawn by the weights."""
    generator = torch.Generator().manual_seed(0)
    differences = torch.randn(num, len(weights), generator=generator) * torch.tensor([1.0, 5.0, 0.2])[: len(weights)]
    likely = (differences @ torch.tensor(weights)).sigmoid()
    return differences, torch.bernoulli(likely, generator=generator)


@pytest.mark.parametrize("how", NAMES)
def test_each_scalariser_is_its_formula(how: str) -> None:
    assert of(how) == pytest.approx([EXPECTED[how]], rel=1e-5)


@pytest.mark.parametrize("how", NAMES)
def test_an_answer_alone_has_the_value_that_it_has_among_others(how: str) -> None:
    scores = torch.rand(7, 4, generator=torch.Generator().manual_seed(1)) * 10 + 0.1
    weights = torch.tensor([0.1, 1.0, 2.0, 0.7])
    alone = [of(how, scores[k : k + 1], weights)[0] for k in range(7)]
    assert of(how, scores, weights) == pytest.approx(alone, rel=1e-5)
    assert of(how, scores.flip(0), weights) == pytest.approx(alone[::-1], rel=1e-5)
    assert len({round(value, 4) for value in alone}) == 7


@pytest.mark.parametrize("how", NAMES)
def test_the_order_of_the_scores_has_no_influence(how: str) -> None:
    found = [of(how, SCORES[:, list(order)], WEIGHTS[list(order)])[0] for order in permutations(range(3))]
    assert found == pytest.approx([EXPECTED[how]] * 6, rel=1e-5)


@pytest.mark.parametrize("how", sorted({*NAMES} - {"linear"}))
def test_equal_scores_are_their_own_summary(how: str) -> None:
    assert of(how, torch.full((2, 4), 3.0), torch.ones(4)) == pytest.approx([3.0, 3.0])


def test_the_temperature_leads_from_the_worst_case_to_the_mean() -> None:
    assert of("soft_max_min", temperature=0.01) == pytest.approx([1.0])
    assert of("soft_max_min", temperature=1e6) == pytest.approx([3.0], rel=1e-4)  # (2 + 1 + 6) / 3


def test_the_penalty_is_the_price_of_scores_that_disagree() -> None:
    assert of("uncertainty_weighted", penalty=0.0) == pytest.approx([3.0])
    assert of("uncertainty_weighted", penalty=3.0) == pytest.approx([-11.0])  # 3 - 14


@pytest.mark.parametrize(
    ("share", "wanted"),
    [(0.0, 1.0), (0.5, 1.0), (2 / 3, 1.5), (0.99, 1.5), (1.0, 3.0)],  # of 1, 2, 6: one, one, two, two, three
)
def test_the_lower_quantile_takes_at_least_one_score(share: float, wanted: float) -> None:
    assert of("lower_quantile", share=share) == pytest.approx([wanted])


def test_the_median_of_four_is_the_mean_of_the_middle_two() -> None:
    assert of("max_median", torch.tensor([[9.0, 1.0, 2.0, 4.0]]), torch.ones(4)) == pytest.approx([3.0])


def test_only_some_scalarisers_let_one_good_score_outweigh_a_bad_one() -> None:
    even, uneven = torch.tensor([[2.0, 2.0, 2.0]]), torch.tensor([[0.1, 4.0, 4.0]])
    prefers_uneven = {how for how in NAMES if of(how, uneven, torch.ones(3)) > of(how, even, torch.ones(3))}
    assert prefers_uneven == {"linear", "max_median"}


@pytest.mark.parametrize("wrong", [0.0, -1.0])
def test_a_geometric_mean_of_what_is_not_positive_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="takes positive scores: set normalise=sigmoid and weights above 0"):
        of("bernoulli_nash", torch.tensor([[2.0, 1.0, 1.0], [2.0, wrong, 1.0]]))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scalariser must be one of linear, worst_case, .*, but it is 'mean'"):
        of("mean")
    with pytest.raises(ValueError, match="normalisation must be one of none, standard, sigmoid, but it is 'minmax'"):
        normalise(SCORES, "minmax")  # type: ignore[arg-type]


def test_scores_are_standardised_one_by_one() -> None:
    # 1, 3: mean 2, deviation 1. 10, 50: mean 30, deviation 20.
    scores = torch.tensor([[1.0, 10.0], [3.0, 50.0]])
    assert normalise(scores, "standard").tolist() == [[-1.0, -1.0], [1.0, 1.0]]
    assert normalise(scores, "none").tolist() == scores.tolist()
    # The logistic function of -1 is 1 / (1 + e) = 0.268941.
    assert normalise(scores, "sigmoid")[:, 1].tolist() == pytest.approx([0.268941, 0.731059], abs=1e-6)


@pytest.mark.parametrize(("how", "wanted"), [("standard", 0.0), ("sigmoid", 0.5)])
def test_a_score_that_is_always_the_same_says_nothing(how: Any, wanted: float) -> None:
    assert normalise(torch.full((3, 1), 7.0), how).tolist() == [[wanted]] * 3
    assert normalise(torch.tensor([[7.0, -2.0]]), how).tolist() == [[wanted] * 2]


def test_sigmoid_scores_suit_the_geometric_mean() -> None:
    scores = normalise(torch.tensor([[-50.0, 1.0, 0.0], [3.0, -9.0, 5.0]]), "sigmoid")
    assert all(0 < value < 1 for value in of("bernoulli_nash", scores, torch.ones(3)))


def test_known_weights_are_found_again() -> None:
    wanted = [1.0, 0.3, -4.0]
    found = fit_weights(*differences_and_preferences(wanted))
    assert torch.cosine_similarity(found, torch.tensor(wanted), 0) > 0.99
    assert found.tolist() == pytest.approx(wanted, rel=0.25)


def test_preferences_by_chance_give_weights_near_zero() -> None:
    found = fit_weights(*differences_and_preferences([0.0, 0.0, 0.0]))
    spread = torch.tensor([1.0, 5.0, 0.2])
    assert (found * spread).abs().max() < 0.1


def test_one_weight_is_the_log_odds() -> None:
    # The first answer scores 2 more, and is better in three of four: 2 w = log(0.75 / 0.25), so w = 0.549306.
    differences = torch.full((4, 1), 2.0)
    assert fit_weights(differences, torch.tensor([1.0, 1.0, 0.0, 1.0])).tolist() == pytest.approx([0.549306], rel=1e-3)
    assert fit_weights(differences, torch.full((4,), 0.75)).tolist() == pytest.approx([0.549306], rel=1e-3)


def test_a_criterion_that_harms_weighs_less_than_nothing() -> None:
    found = fit_weights(*differences_and_preferences([2.0, -0.4]))
    assert found[0] > 0 > found[1]


def test_the_order_of_the_answers_has_no_influence() -> None:
    differences, preferences = differences_and_preferences([1.0, 0.3, -4.0], num=200)
    turned = torch.arange(200) % 3 == 0
    signs = 1 - 2 * turned.float()
    mirrored = fit_weights(differences * signs[:, None], torch.where(turned, 1 - preferences, preferences))
    assert mirrored.tolist() == pytest.approx(fit_weights(differences, preferences).tolist(), rel=1e-3)


def test_the_unit_of_a_score_has_no_influence() -> None:
    differences, preferences = differences_and_preferences([1.0, 0.3, -4.0], num=400)
    units = torch.tensor([1000.0, 0.001, 1.0])
    found = fit_weights(differences * units, preferences) * units
    assert found.tolist() == pytest.approx(fit_weights(differences, preferences).tolist(), rel=1e-3)


def test_scores_that_separate_the_preferences_leave_weights_finite() -> None:
    differences = torch.tensor([[1.0, 0.2], [2.0, -0.1], [-1.0, 0.3], [-3.0, 0.1]])
    found = fit_weights(differences, (differences[:, 0] > 0).float())
    assert found.isfinite().all()
    assert 0 < found[0] < 1000
    assert ((differences @ found > 0) == (differences[:, 0] > 0)).all()


def test_the_penalty_says_how_far_a_sure_weight_goes() -> None:
    # Where the first is always better by 1, the slopes cancel: 1 / (1 + e^w) = 2e-6 w, as 2.15e-5 for w = 10.747.
    assert fit_weights(torch.ones(4, 1), torch.ones(4)).tolist() == pytest.approx([10.747], rel=1e-3)


def test_nothing_to_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be fit to no comparisons"):
        fit_weights(torch.zeros(0, 2), torch.zeros(0))
    with pytest.raises(ValueError, match="a score is the same for all answers"):
        fit_weights(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([1.0, 0.0]))
