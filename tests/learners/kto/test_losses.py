"""The loss of KTO: numbers by hand, a slow twin in plain floats, TRL's code, and where gradients point."""

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlaifv.learners.kto.losses import KTOTerms, kto_loss, reference_point

POLICY = torch.tensor([-10.0, -9.0, -6.0, -5.5])
REFERENCE = torch.tensor([-12.0, -7.0, -4.0, -5.0])
IS_DESIRABLE = torch.tensor([True, False, True, False])
WEIGHTS = torch.tensor([1.5, 1.0, 1.5, 1.0])
OTHERS = torch.tensor([-8.0, -3.0]), torch.tensor([-9.5, -2.5])  # log-ratios of 1.5 and -0.5


def loss_of(policy: Tensor = POLICY, point: float = 0.5, beta: float = 0.5) -> KTOTerms:
    return kto_loss(policy, REFERENCE, IS_DESIRABLE, WEIGHTS, torch.tensor(point), beta)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_loss_by_hand() -> None:
    """Beta 0.5, z0 0.5, and log-ratios 2, -2, -2, -0.5.

    Desirable, weight 1.5: 1 - sigmoid(0.5 (2 - 0.5)) = 0.320821, and 1 - sigmoid(0.5 (-2 - 0.5)) = 0.777300.
    Undesirable, weight 1: 1 - sigmoid(0.5 (0.5 + 2)) = 0.222700, and 1 - sigmoid(0.5 (0.5 + 0.5)) = 0.377541.
    Mean: (1.5 * 1.098121 + 0.600241) / 4 = 0.561856.
    """
    terms = loss_of()
    assert terms.loss.shape == ()
    assert terms.loss.item() == pytest.approx(0.561856, abs=1e-6)
    assert terms.rewards.tolist() == [1.0, -1.0, -1.0, -0.25]


def test_loss_equals_a_loop_over_answers() -> None:
    total = 0.0
    columns = zip(POLICY.tolist(), REFERENCE.tolist(), IS_DESIRABLE.tolist(), WEIGHTS.tolist(), strict=True)
    for policy, reference, is_desirable, weight in columns:
        ahead = 0.3 * (policy - reference) - 0.3 * 0.7
        total += weight * (1 - sigmoid(ahead if is_desirable else -ahead))
    assert loss_of(point=0.7, beta=0.3).loss.item() == pytest.approx(total / 4, abs=1e-6)


def test_gradients_make_desirable_answers_likelier_and_the_others_less() -> None:
    policy = POLICY.clone().requires_grad_()
    loss_of(policy).loss.backward()  # type: ignore[no-untyped-call]
    assert policy.grad is not None
    assert (policy.grad < 0).tolist() == IS_DESIRABLE.tolist()
    # The slope of w sigmoid(-x) at x = beta (h - z0), by h: -w beta sigmoid(x) sigmoid(-x), over 4 answers.
    assert policy.grad[0].item() == pytest.approx(-1.5 * 0.5 * sigmoid(0.75) * sigmoid(-0.75) / 4, abs=1e-6)


def test_far_answers_keep_their_digits() -> None:
    """1 - sigmoid(40) is 0 in float32, but sigmoid(-40) is not."""
    one = torch.ones(1)
    terms = kto_loss(40 * one, 0 * one, one.bool(), one, torch.tensor(0.0), 1.0)
    assert terms.loss.item() == pytest.approx(math.exp(-40), rel=1e-5)


def test_the_reference_point_is_the_mean_log_ratio_and_never_negative() -> None:
    policy = OTHERS[0].clone().requires_grad_()
    point = reference_point(policy, OTHERS[1])
    assert point.item() == 0.5
    assert not point.requires_grad
    assert reference_point(OTHERS[1], OTHERS[0]).item() == 0.0
    assert reference_point(torch.zeros(0), torch.zeros(0)).item() == 0.0


def test_ranks_share_one_reference_point() -> None:
    """The other rank's log-ratios add up to 3.5 over two mismatched answers: (1 + 3.5) / 4."""
    found = reference_point(*OTHERS, summed=lambda sums: sums + torch.tensor([3.5, 2.0]))
    assert found.item() == 1.125


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_shows_in_the_loss(wrong: float) -> None:
    policy = POLICY.clone()
    policy[1] = wrong
    assert loss_of(policy).loss.isnan()
    assert reference_point(torch.tensor([wrong, 0.0]), OTHERS[1]).isnan()


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"of one shape \[N\], but they have \[\(3,\), \(4,\)\]"):
        loss_of(POLICY[:3])
    nothing = torch.zeros(0)
    with pytest.raises(ValueError, match=r"of one shape \[N\], but they have \[\(0,\)\]"):
        kto_loss(nothing, nothing, nothing.bool(), nothing, torch.tensor(0.0), 0.1)


class _Trainer(SimpleNamespace):
    """What TRL's loss reads of its trainer, on one process; the log-probs are given."""

    def __init__(self, others: tuple[Tensor, Tensor]) -> None:
        accelerator = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda values: values)
        super().__init__(
            model=SimpleNamespace(training=True),
            accelerator=accelerator,
            aux_loss_enabled=False,
            precompute_ref_logps=True,
            calculate_KL=True,
            loss_type="kto",
            beta=0.5,
            desirable_weight=1.5,
            undesirable_weight=1.0,
            _metrics=defaultdict(lambda: defaultdict(list)),
            _total_train_tokens=0,
            _tp_size=1,
            _compute_kl_logps=lambda model, batch: others[0],
        )


@pytest.mark.parametrize("others", [OTHERS, OTHERS[::-1]])
def test_loss_equals_that_of_trl(others: tuple[Tensor, Tensor]) -> None:
    trl: Any = pytest.importorskip("trl")
    mask = torch.ones(4, 2, dtype=torch.int64)  # one token is read, one is scored
    scored = POLICY[:, None]
    batch = {
        "label": IS_DESIRABLE,
        "ref_logps": REFERENCE,
        "ref_KL_logps": others[1],
        "input_ids": mask,
        "completion_mask": mask,
        "attention_mask": mask,
    }
    output = SimpleNamespace(log_probs=scored, entropy=scored, mean_logits=scored)
    expected = trl.KTOTrainer._compute_loss(_Trainer(others), lambda **_: output, batch, False)
    found = loss_of(point=reference_point(*others).item())
    assert found.loss.item() == pytest.approx(expected.item(), abs=1e-6)
