"""Key metrics of a run: one row per iteration, and the change from the base model to the latest policy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HEADLINES = ("hallucination/response", "hallucination/mention", "coverage")
HEADLINES_WITHOUT_TRUTH = ("rejected/response", "rejected/mention", "length/words")
COLUMNS = (
    *HEADLINES,
    "length/words",
    "claims_per_response",
    "pairs_kept",
    "pairs_possible",
    "labeler/agreement",
    "labeler/accuracy",
    "labeler/flagged_shards",
)
Numbers = Mapping[str, float]


def trained_on(statistics: Sequence[Numbers]) -> tuple[str, int]:
    """Return what a run was trained on and how many of them over all its iterations.

    >>> trained_on([{"pairs_kept": 3.0}, {"pairs_kept": 4.0}]), trained_on([{"rollouts_kept": 8.0}])
    (('pairs', 7), ('answers', 8))
    """
    known = {
        "rollouts_kept": "answers",
        "answers_kept": "labelled answers",
        "reward_model/comparisons": "comparisons",
        "reward_model/segments": "labelled answers",
        "targets": "targets",
    }
    name = next((name for name in known if any(name in numbers for numbers in statistics)), "pairs_kept")
    what = known.get(name, "pairs")
    return what, int(sum(numbers.get(name, 0.0) for numbers in statistics))


@dataclass(frozen=True, slots=True)
class Row:
    """Metrics of the base model (`num_iterations` 0) or of one iteration; missing metrics have no key."""

    num_iterations: int
    values: Numbers

    @property
    def name(self) -> str:
        return f"iteration {self.num_iterations}" if self.num_iterations else "base"


def rows(evaluations: Mapping[int, Numbers], statistics: Sequence[Numbers]) -> list[Row]:
    """Return one row for the base model and one for each iteration that has metrics.

    Args:
        evaluations: Metrics by the number of iterations that the evaluated policy was trained for.
        statistics: Statistics of iterations 0, 1, …; iteration k yields the policy trained for k + 1 iterations.
    """
    named = {k + 1: values for k, values in enumerate(statistics)}
    return [Row(k, {**named.get(k, {}), **evaluations.get(k, {})}) for k in sorted({*evaluations, *named})]


def headlines(evaluations: Mapping[int, Numbers]) -> tuple[str, ...]:
    """Return the names of the headline metrics: measured by the truth, or by the labeler if the truth is unknown."""
    return HEADLINES if any(HEADLINES[0] in metrics for metrics in evaluations.values()) else HEADLINES_WITHOUT_TRUTH


def reward_model_accuracies(evaluations: Mapping[int, Numbers]) -> dict[str, float]:
    """Return the latest accuracy of each head of a reward model, by its name; empty for a policy.

    >>> reward_model_accuracies({1: {"reward_model/score/accuracy": 0.9, "reward_model/score/ece": 0.1}})
    {'score': 0.9}
    """
    latest = evaluations[max(evaluations)] if evaluations else {}
    parts = {name: name.split("/") for name in latest}
    return {p[1]: latest[name] for name, p in parts.items() if p[0] == "reward_model" and p[2:] == ["accuracy"]}


def change(evaluations: Mapping[int, Numbers], name: str) -> tuple[float | None, float | None]:
    """Return a metric of the base model and of the latest policy that has it; None for a missing value."""
    before = evaluations.get(0, {}).get(name)
    later = [evaluations[k][name] for k in sorted(evaluations) if k > 0 and name in evaluations[k]]
    return before, later[-1] if later else None
