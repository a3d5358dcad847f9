"""MHumanEval's rates, among them the published ones that 146 responses can give."""

import pytest
import torch

from rlaifv.metrics.mhumaneval import ResponseHallucinationRate, response_hallucination_rates


@pytest.mark.parametrize(("count", "published"), [(67, 45.9), (65, 44.5), (98, 67.1), (52, 35.6)])
def test_published_rates_are_parts_of_146(count: int, published: float) -> None:
    labels = torch.zeros(146, 4, dtype=torch.bool)
    labels[:count, 1] = True
    rates = response_hallucination_rates(labels)
    assert round(rates["all"], 1) == round(rates["position"], 1) == published
    assert rates["object"] == 0


def test_kinds_by_hand_whatever_the_order_and_repeated_rows() -> None:
    labels = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1]])
    metric = ResponseHallucinationRate(9)
    for row in (3, 0, 2, 1, 2, 2):
        metric.update(labels[row : row + 1], [row])
    assert {name: value.item() for name, value in metric.compute().items()} == {
        "object": 50.0,
        "position": 25.0,
        "number": 0.0,
        "other": 50.0,
        "all": 75.0,
    }


def test_without_responses_nothing_is_claimed() -> None:
    metric = ResponseHallucinationRate(3)
    metric.update(torch.zeros(0, 4))
    with pytest.raises(ValueError, match="object is undefined: there is no response"):
        metric.compute()


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Labels have to be bool\[R, 4\], but they are \(2, 3\)"):
        response_hallucination_rates(torch.zeros(2, 3))
