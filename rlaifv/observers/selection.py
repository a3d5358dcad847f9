"""Rules for candidates: when they are taken, and which one goes on.

The authors of RLAIF-V (arXiv 2405.17220) saved four a pass and took the one that did best on the benchmarks that they
reported. Here it is chosen on held-out prompts that no number of the run's report is measured on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

SelectBy = Literal["labeler", "truth", "last"]
# The lower the better; the second decides where the first is equal, and after both the later step, as without a choice.
MEASURES: dict[str, tuple[str, str]] = {
    "labeler": ("rejected/mention", "rejected/response"),
    "truth": ("hallucination/mention", "hallucination/response"),
}
CLAIMS = "claims_per_response"


@dataclass(frozen=True, slots=True)
class SelectionRules:
    """How candidates are taken and compared.

    per_epoch: candidates in each pass over an iteration's pairs; 0 for none, so that the last weights go on.
    by: who decides: the labeler, the truth about the images, or nobody, so that the last candidate goes on.
    min_claims: share of the claims per answer at the iteration's start that a candidate must still make. Whoever says
        nothing says nothing wrong.
    """

    per_epoch: int = 0
    by: SelectBy = "labeler"
    min_claims: float = 0.8


@dataclass(frozen=True, slots=True)
class Candidate:
    """Weights after some steps of an iteration, and what was measured of them.

    step: optimizer steps of the run before them.
    epoch: passes over the iteration's pairs, a fraction within one; 0 is the iteration's start, which is no choice.
    digest: SHA-256 of the tensors that train.
    """

    step: int
    epoch: float
    digest: str
    metrics: Mapping[str, float]

    @classmethod
    def parse(cls, stored: Mapping[str, Any]) -> "Candidate":
        """Build a candidate from JSON. Raises KeyError or TypeError if it is none."""
        return cls(**{name: stored[name] for name in ("step", "epoch", "digest", "metrics")})


def candidate_steps(num_steps: int, per_epoch: int) -> list[int]:
    """Return the steps of a pass after which a candidate is taken; all steps if they are fewer than candidates.

    >>> candidate_steps(668, 4), candidate_steps(10, 4), candidate_steps(3, 4), candidate_steps(10, 0)
    ([167, 334, 501, 668], [3, 5, 8, 10], [1, 2, 3], [])
    """
    return sorted({-(-num_steps * k // per_epoch) for k in range(1, per_epoch + 1)} - {0})


def choose(candidates: Sequence[Candidate], start: Candidate, rules: SelectionRules) -> Candidate:
    """Return the candidate that goes on.

    It rejects the smallest share of its claims (or states the fewest that are false), among those that claim enough. Where
    none does, it is the one that claims the most. So the best of some is still a choice where others join them.

    Args:
        candidates: at least one.
        start: the policy at the iteration's start.
        rules: by what is compared.
    """
    if rules.by == "last":
        return max(candidates, key=lambda candidate: candidate.step)
    first, second = MEASURES[rules.by]
    enough = [candidate for candidate in candidates if claims_enough(candidate, start, rules)]
    if not enough:
        return max(candidates, key=lambda candidate: (candidate.metrics[CLAIMS], candidate.step))
    return min(enough, key=lambda c: (c.metrics[first], c.metrics[second], -c.step))


def claims_enough(candidate: Candidate, start: Candidate, rules: SelectionRules) -> bool:
    """Return whether it makes at least `min_claims` as many claims per answer as the iteration's start."""
    return candidate.metrics[CLAIMS] >= rules.min_claims * start.metrics[CLAIMS]
