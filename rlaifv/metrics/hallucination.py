"""Hallucination rates from claims with known truth.

Counts are summed over responses before they are divided (micro average), as the benchmarks do, so accumulating over
batches or ranks gives exactly what one update with everything gives.

Shapes: R responses.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

COUNTS = ("num_responses", "num_hallucinating", "num_claims", "num_false_claims", "num_covered", "num_present")


def hallucination_rates(
    claim_truths: Sequence[Sequence[bool]], covered: Sequence[int], present: Sequence[int]
) -> dict[str, float]:
    """Return rates over R responses, named and defined as in `HallucinationRate`, which adds their length.

    Args:
        claim_truths: for each response, whether each of its claims is true.
        covered: for each response, how many distinct objects of the image it truly mentions.
        present: for each response, how many objects its image has.

    Raises:
        ValueError: the arguments differ in length, or a response covers less than 0 or more than all objects.

    >>> hallucination_rates([[True, False], [True], []], covered=[1, 1, 0], present=[2, 2, 4])["coverage"]
    0.25
    """
    counts = _count(claim_truths, covered, present)
    return {name: rate.item() for name, rate in _rates({k: torch.tensor(v) for k, v in counts.items()}).items()}


class HallucinationRate(Metric):
    """Response and mention hallucination rate, coverage and length.

    - `hallucination/response`: responses with at least one false claim / responses (CHAIR's sentence rate)
    - `hallucination/mention`: false claims / claims, 0 where nothing is claimed (CHAIR's instance rate)
    - `coverage`: distinct true objects mentioned / objects present, 0 where there are none (AMBER's Cover)
    - `claims_per_response`, `length/words`: means over responses

    Rates lie in [0, 1]. A silent model does not hallucinate, so read the first two together with the others.
    Without any response, what is divided by responses is NaN. CHAIR: arXiv 1809.02156; AMBER: arXiv 2311.07397.

    Three responses with two, one and no claims; one of the three claims is false:

    >>> metric = HallucinationRate()
    >>> metric.update([[True, False], [True], []], covered=[1, 1, 0], present=[2, 2, 4], words=[9, 5, 1])
    >>> for name, value in metric.compute().items():
    ...     print(f"{name} {value:.4f}")
    hallucination/response 0.3333
    hallucination/mention 0.3333
    coverage 0.2500
    claims_per_response 1.0000
    length/words 5.0000
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    num_responses: Tensor
    num_words: Tensor

    def __init__(self, **kwargs: Any) -> None:
        """Start from zero.

        Args:
            kwargs: options of `torchmetrics.Metric`.
        """
        super().__init__(**kwargs)
        for name in (*COUNTS, "num_words"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self,
        claim_truths: Sequence[Sequence[bool]],
        covered: Sequence[int],
        present: Sequence[int],
        words: Sequence[int],
    ) -> None:
        """Add R responses.

        Args:
            claim_truths: for each response, whether each of its claims is true.
            covered: for each response, how many distinct objects of the image it truly mentions.
            present: for each response, how many objects its image has.
            words: for each response, its length in words.

        Raises:
            ValueError: the arguments differ in length, or a response covers less than 0 or more than all objects.
        """
        if len(words) != len(claim_truths):
            raise ValueError(f"There are {len(claim_truths)} responses, but {len(words)} lengths in words.")
        for name, count in _count(claim_truths, covered, present).items():
            setattr(self, name, getattr(self, name) + count)
        self.num_words = self.num_words + sum(words)

    def compute(self) -> dict[str, Tensor]:
        """Return float[] for each of the five names above."""
        rates = _rates({name: getattr(self, name) for name in COUNTS})
        return rates | {"length/words": self.num_words / self.num_responses}


def _count(claim_truths: Sequence[Sequence[bool]], covered: Sequence[int], present: Sequence[int]) -> dict[str, int]:
    sizes = {"claim_truths": len(claim_truths), "covered": len(covered), "present": len(present)}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"The arguments describe different numbers of responses: {sizes}.")
    for response, (some, every) in enumerate(zip(covered, present, strict=True)):
        if not 0 <= some <= every:
            raise ValueError(f"Response {response} covers {some} of {every} objects, which is impossible.")
    false_claims = [sum(not truth for truth in truths) for truths in claim_truths]
    return {
        "num_responses": len(claim_truths),
        "num_hallucinating": sum(count > 0 for count in false_claims),
        "num_claims": sum(len(truths) for truths in claim_truths),
        "num_false_claims": sum(false_claims),
        "num_covered": sum(covered),
        "num_present": sum(present),
    }


def _rates(counts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "hallucination/response": counts["num_hallucinating"] / counts["num_responses"],
        "hallucination/mention": counts["num_false_claims"] / counts["num_claims"].clamp(min=1),
        "coverage": counts["num_covered"] / counts["num_present"].clamp(min=1),
        "claims_per_response": counts["num_claims"] / counts["num_responses"],
    }
