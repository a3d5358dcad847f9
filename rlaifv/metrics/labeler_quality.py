"""Measure a labeler on questions with known answers.

Shapes: N questions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torchmetrics.functional.classification import binary_calibration_error

from rlaifv.stages.score import verdict_of

NUM_BINS = 10
# Below this a labeler's verdicts are hardly worth more than a coin's.
NEAR_CHANCE = 0.6


@dataclass(frozen=True, slots=True)
class LabelerQuality:
    """Quality of a labeler.

    accuracy: mean of the shares of true and of false statements that were judged right, so that guessing gets 0.5 whatever
        the share of true ones; unknown verdicts are wrong
    says_yes: share of yes among verdicts, minus the share of true statements
    unknown: share of questions without a verdict
    calibration_error: expected calibration error of P(yes) / (P(yes) + P(no)), in ten bins
    num_questions: N
    """

    accuracy: float
    says_yes: float
    unknown: float
    calibration_error: float
    num_questions: int

    @property
    def is_near_chance(self) -> bool:
        """Return whether the labeler is near chance on these questions."""
        return self.accuracy < NEAR_CHANCE


def labeler_quality(probabilities: Sequence[tuple[float, float]], truths: Sequence[bool]) -> LabelerQuality:
    """Compare (p_yes, p_no) of N questions with the truth.

    Raises:
        ValueError: there are not both true and false statements, so that a labeler that always says yes would look good.
    """
    if len({*truths}) < 2:
        raise ValueError("A labeler is measured on true and on false statements; there is only one kind here.")
    verdicts = [verdict_of(*pair) for pair in probabilities]
    right = [
        verdict != "unknown" and (verdict == "accepted") == truth
        for verdict, truth in zip(verdicts, truths, strict=True)
    ]
    shares = [_mean([hit for hit, truth in zip(right, truths, strict=True) if truth == kind]) for kind in (True, False)]
    known = [
        (p_yes / (p_yes + p_no), truth)
        for (p_yes, p_no), truth, verdict in zip(probabilities, truths, verdicts, strict=True)
        if verdict != "unknown"
    ]
    error = math.nan
    if known:
        confidence, truth = zip(*known, strict=True)
        error = float(binary_calibration_error(torch.tensor(confidence), torch.tensor(truth).int(), n_bins=NUM_BINS))
    return LabelerQuality(
        accuracy=_mean(shares),
        says_yes=_mean([verdict == "accepted" for verdict in verdicts]) - _mean(truths),
        unknown=_mean([verdict == "unknown" for verdict in verdicts]),
        calibration_error=error,
        num_questions=len(truths),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
