"""How good a reward model is on records that it was not trained on."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

NUM_BINS = 10


def comparison_metrics(ahead: Tensor, preferences: Tensor, longer: Tensor) -> dict[str, float]:
    """Measure one criterion on N comparisons.

    A reward model that only likes long answers has a high `accuracy_longer` and a low `accuracy_shorter`.

    Args:
        ahead: float[N], score of the first answer minus the second's.
        preferences: float[N], probability that the first answer is better; negative where nothing is known, 0.5 is neither.
        longer: int[N], tokens of the first answer minus the second's.

    Returns:
        accuracy: share of comparisons whose better answer has the higher score; ties count half.
        margin: mean score of the better answer minus the other's.
        ece: expected calibration error of the probability that the first answer is better, in ten bins.
        accuracy_longer, accuracy_shorter: accuracy where the better answer is the longer one, or the shorter one.
        comparisons: their number. Figures of no comparisons are left out.
    """
    known = (preferences >= 0) & (preferences != 0.5)
    ahead, longer, is_first = ahead[known].float(), longer[known], preferences[known] > 0.5
    sign = torch.where(is_first, 1.0, -1.0)
    right = (ahead * sign > 0).float() + 0.5 * (ahead == 0).float()
    found = {"comparisons": float(len(ahead))}
    parts = {
        "accuracy": torch.ones_like(is_first),
        "accuracy_longer": longer * sign > 0,
        "accuracy_shorter": longer * sign < 0,
    }
    found |= {name: float(right[part].mean()) for name, part in parts.items() if part.any()}
    if len(ahead):
        found["margin"] = float((ahead * sign).mean())
        found["ece"] = float(binary_calibration_error(ahead.sigmoid(), is_first.int(), n_bins=NUM_BINS, norm="l1"))
    return found


def segment_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Measure one kind on T segments.

    Args:
        logits: float[T, C].
        labels: int64[T].

    Returns:
        accuracy; f1_hallucinated, the F1 score of the last class; ece; and the number of segments.
    """
    num_classes = logits.shape[1]
    if not len(labels):
        return {"segments": 0.0}
    p = logits.float().softmax(1)
    f1 = multiclass_f1_score(p, labels, num_classes, average="none")
    return {
        "segments": float(len(labels)),
        "accuracy": float(multiclass_accuracy(p, labels, num_classes, average="micro")),
        "f1_hallucinated": float(f1[num_classes - 1]),
        "ece": float(multiclass_calibration_error(p, labels, num_classes, n_bins=NUM_BINS, norm="l1")),
    }


def named(heads: Sequence[str], found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the figures of all heads under the names of evaluations.

    >>> named(["score"], [{"accuracy": 0.9}])
    {'reward_model/score/accuracy': 0.9}
    """
    return {
        f"reward_model/{head}/{name}": value
        for head, some in zip(heads, found, strict=True)
        for name, value in some.items()
    }
