"""Figures of an iteration's data, for statistics.json."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import ClassVar

from rlaifv.engines.local import LocalEngine
from rlaifv.metrics.truth import Truth
from rlaifv.observers.held_out import agreement
from rlaifv.observers.observer import Observer
from rlaifv.records import Claim, Pair
from rlaifv.stages.dividers.protocol import AnyDivider, may_fail
from rlaifv.stages.gae import KL_MEAN, KL_WEIGHT, Advantages, mean_kl
from rlaifv.stages.label_answers import labelled_statistics
from rlaifv.stages.pair import pair_statistics
from rlaifv.stages.reward import rollout_statistics
from rlaifv.stages.rollout_logps import mean_entropy
from rlaifv.stages.score import distinct_questions, verdict_statistics
from rlaifv.stages.scores import score_means
from rlaifv.stages.stage import Stage
from rlaifv.store.iteration import Iteration
from rlaifv.store.manifest import TooFewPairs

logger = logging.getLogger(__name__)


class FeedbackStatistics(Observer):
    """Count responses, claims, verdicts, pairs and drops; compare judgements with the truth where it is known."""

    table: ClassVar[str] = "preferences"
    figures: ClassVar[Callable[..., dict[str, float]]] = staticmethod(pair_statistics)

    def __init__(self, divider: AnyDivider, truth: Truth | None = None) -> None:
        self.divider = divider
        self.truth = truth

    def statistics(self, work: Iteration) -> dict[str, float]:
        responses, claims, judgements = (work.records(table) for table in ("responses", "claims", "judgements"))
        drops = work.drops(self.table)
        if may_fail(self.divider):
            drops["not_divided"] = work.drops("claims")["not_divided"]
        statistics = self.figures(responses, judgements, work.records(self.table), drops)
        statistics["claims_repeated"] = len(claims) - len({(claim.response_id, claim.question) for claim in claims})
        statistics["questions_asked"] = _num_questions(claims)
        if self.truth is not None:
            statistics["labeler/agreement"] = agreement(claims, judgements, self.truth)
        return statistics | _dropped(work.drops("prompts"))


class LabelledStatistics(FeedbackStatistics):
    """The same of labelled answers: how many are desirable, and what the two kinds weigh."""

    table = "labelled"
    figures = staticmethod(labelled_statistics)


class RewardStatistics(FeedbackStatistics):
    """The same of rewarded answers, what the rewards are made of, and how far the policy is from its reference.

    Claims and verdicts are left out where no term of the reward needs them.
    """

    table = "rewarded"
    figures = staticmethod(rollout_statistics)

    def __init__(self, divider: AnyDivider, stages: Sequence[Stage] = (), truth: Truth | None = None) -> None:
        super().__init__(divider, truth)
        self.weight_at = next((stage.weight_at for stage in stages if isinstance(stage, Advantages)), None)

    def statistics(self, work: Iteration) -> dict[str, float]:
        if "judgements" in work.units:
            found = super().statistics(work)
        else:
            found = rollout_statistics(work.records("responses"), (), work.records(self.table), work.drops(self.table))
            found |= _dropped(work.drops("prompts"))
        if "scores" in work.units:
            found |= score_means(work.records("scores"))
        if self.weight_at is not None:
            valued = work.records("valued")
            found |= {
                KL_WEIGHT: self.weight_at(work.number),
                KL_MEAN: mean_kl(valued),
                "policy/entropy": mean_entropy(valued),
            }
        return found


class RewardModelStatistics(Observer):
    """Count what a reward model learns from: records by the table that is there, and what was dropped."""

    def statistics(self, work: Iteration) -> dict[str, float]:
        table = "segments" if "segments" in work.units else "comparisons"
        records = work.records(table)
        held_out = sum(record.is_held_out for record in records)
        judged = (
            verdict_statistics(len(work.records("responses")), work.records("judgements"))
            if "judgements" in work.units
            else {}
        )
        counts = {f"reward_model/{table}": float(len(records) - held_out), "reward_model/held_out": float(held_out)}
        drops = work.drops(table)
        return {**judged, **counts, **{f"dropped/{name}": float(count) for name, count in drops.items()}} | _dropped(
            work.drops("prompts")
        )


class TargetStatistics(Observer):
    """Count the targets of supervised fine-tuning by whose they are, the kinds of prompts, and what was dropped."""

    def statistics(self, work: Iteration) -> dict[str, float]:
        targets = work.records("targets")
        counts = Counter(target.source for target in targets)
        found = {
            "targets": float(len(targets)),
            **{f"targets/{source}": float(count) for source, count in sorted(counts.items())},
            "length/target_tokens": sum(target.answer_tokens for target in targets) / max(len(targets), 1),
        }
        if "judgements" in work.units:
            found |= verdict_statistics(len(work.records("responses")), work.records("judgements"))
        if "routes" in work.units:
            found |= _kinds(work)
        return found | _dropped(work.drops("targets")) | _dropped(work.drops("prompts"))


class PairSetStatistics(FeedbackStatistics):
    """The same as of one set of pairs, and the pairs of each set."""

    def statistics(self, work: Iteration) -> dict[str, float]:
        sets = Counter(pair.id.partition(":")[0] for pair in work.records(self.table))
        counts = {f"pairs/{name}": float(count) for name, count in sorted(sets.items())}
        return super().statistics(work) | counts | _kinds(work)


class GivenPairStatistics(Observer):
    """Count the pairs that the data came with, and say what was dropped of them and what to do about it."""

    def __init__(self, policy: LocalEngine) -> None:
        self.policy = policy

    def statistics(self, work: Iteration) -> dict[str, float]:
        """Return the figures.

        Raises:
            TooFewPairs: no pair is left.
        """
        pairs: Sequence[Pair] = work.records("pairs")
        drops = work.drops("pairs")
        self._report(work.number, len(pairs), drops)
        num_words = {side: sum(len(getattr(pair, side).split()) for pair in pairs) for side in ("chosen", "rejected")}
        return {
            "pairs_kept": float(len(pairs)),
            **{f"length/{side}_words": total / max(len(pairs), 1) for side, total in num_words.items()},
            **_dropped(drops),
            **_dropped(work.drops("prompts")),
        }

    def _report(self, iteration: int, num_kept: int, drops: Counter[str]) -> None:
        remedies = {
            "too_long": f"too long for the model's {self.policy.max_positions} positions with the images; shorten the texts, "
            "or give fewer or smaller images",
            "no_history": "of several turns, which the model's chat template does not take; give another "
            "chat_template.jinja, or leave them out",
            "identical": "whose answers are equal",
        }
        reasons = [
            f"{drops[name]} pair{'' if drops[name] == 1 else 's'} {remedies[name]}" for name in remedies if drops[name]
        ]
        if not num_kept:
            raise TooFewPairs(f"No pair of iteration {iteration} can be trained on: {'. '.join(reasons)}.")
        for reason in reasons:
            logger.warning("Dropped from iteration %d: %s.", iteration, reason)


def _kinds(work: Iteration) -> dict[str, float]:
    """Count prompts by their kind."""
    kinds = Counter(route.kind for route in work.records("routes"))
    return {f"prompts/{kind}": float(kinds[kind]) for kind in ("fact", "other", "unknown")}


def _num_questions(claims: Sequence[Claim]) -> int:
    return sum(len(asked) for asked in distinct_questions(claims).values())


def _dropped(drops: Counter[str]) -> dict[str, float]:
    return {f"dropped/{reason}": float(count) for reason, count in drops.items()}
