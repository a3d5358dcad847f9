"""How tokens are chosen, against transformers' own warpers and by hand."""

from typing import Any

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from rlaifv.models.sampling import Decoding, choose_tokens, filter_logits, penalize, uniform_numbers


def by_transformers(logits: torch.Tensor, decoding: Decoding) -> torch.Tensor:
    """Probabilities after transformers' own warpers, in the order in which `generate` applies them."""
    ids = torch.zeros(len(logits), 1, dtype=torch.int64)
    logits = TemperatureLogitsWarper(decoding.temperature)(ids, logits)
    if decoding.top_k:
        logits = TopKLogitsWarper(decoding.top_k)(ids, logits)
    if decoding.top_p < 1:
        logits = TopPLogitsWarper(decoding.top_p)(ids, logits)
    return logits.softmax(1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 7, 500])
@pytest.mark.parametrize("top_p", [0.05, 0.6, 0.95, 1.0])
def test_filters_agree_with_transformers(temperature: float, top_k: int, top_p: float) -> None:
    logits = 3 * torch.randn(100, 50, generator=torch.Generator().manual_seed(0))
    logits[:, 5] = -torch.inf
    decoding = Decoding(temperature, top_p, top_k)
    probs = filter_logits(logits, decoding)
    torch.testing.assert_close(probs, by_transformers(logits, decoding), rtol=1e-5, atol=1e-7)
    assert not probs[:, 5].any()


def test_tokens_are_chosen_where_the_cumulative_distribution_passes() -> None:
    """Probabilities 1/2, 0, 1/4, 1/4: sums 0.5, 0.5, 0.75, 1."""
    logits = torch.tensor([0.5, 0.0, 0.25, 0.25]).log().expand(6, 4)
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 1 - 2**-53], dtype=torch.float64)
    assert choose_tokens(logits, Decoding(), uniform).tolist() == [0, 0, 2, 2, 3, 3]
    assert choose_tokens(logits.flip(1), Decoding(), uniform).tolist() == [0, 1, 3, 3, 3, 3]
    impossible = torch.tensor([[-torch.inf, 0.0, 0.0]])
    assert choose_tokens(impossible, Decoding(), torch.zeros(1, dtype=torch.float64)).tolist() == [1]
    assert choose_tokens(logits, Decoding(temperature=0), uniform).tolist() == [0] * 6
    assert choose_tokens(logits, Decoding(top_k=1), uniform).tolist() == [0] * 6


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    logits[:, 4] = -torch.inf
    ids = torch.tensor([[1, 2, 2, 4], [5, 5, 5, 5], [0, 19, 3, 7]])
    seen = torch.zeros(3, 20, dtype=torch.bool).scatter_(1, ids, True)
    for penalty in (1.3, 0.8):
        expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
        torch.testing.assert_close(penalize(logits, seen, penalty), expected, rtol=0, atol=0)
        assert not torch.equal(expected, logits)


def test_text_is_cut_before_the_first_stop_string() -> None:
    decoding = Decoding(stop=["END", "\n\n"])  # type: ignore[arg-type]
    assert decoding.stop == ("END", "\n\n")
    assert decoding.cut("one \n\n two END") == "one"
    assert decoding.cut("one END \n\n two") == "one"
    assert decoding.cut("one \n two ") == "one \n two "
    assert [decoding.stops(text) for text in ("an END", "an EN", "")] == [True, False, False]
    assert Decoding().cut("an END") == "an END"


def test_random_numbers_belong_to_a_seed() -> None:
    drawn = uniform_numbers([[1, 2], [2, 3]], 5)
    assert drawn.shape == (2, 2, 5)
    assert torch.equal(drawn[0, 1], drawn[1, 0])
    assert not torch.equal(drawn[0, 0], drawn[0, 1])
    assert torch.equal(uniform_numbers([[1]], 9)[0, 0, :5], drawn[0, 0])
    assert ((drawn >= 0) & (drawn < 1)).all()


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"max_new_tokens": 0}]
)
def test_senseless_decoding_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"temperature >= 0, 0 < top_p <= 1"):
        Decoding(**wrong)


@pytest.mark.parametrize("wrong", [{"repetition_penalty": 0.0}, {"stop": ("a", "")}])
def test_senseless_ends_and_penalties_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"repetition_penalty > 0 and stop strings that are not empty"):
        Decoding(**wrong)
