"""From judged responses to preference pairs: margin, cap per prompt, length balance.

The order of the rules is that of RLAIF-V (arXiv 2405.17220, section 3.2 and its released data engine): pairs whose
scores differ, a few of them per prompt, and of those a subset in which the chosen side is about as long as the rejected
one. Unlike in the paper's engine, random choices are seeded, and all drops are counted.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Literal, get_args

from rlaifv.records import Claim, Judgement, Pair, Response
from rlaifv.stages.answer_scores import Score, check_score, score_groups, verdicts_of
from rlaifv.stages.generate import OTHER_MARK
from rlaifv.stages.score import verdict_statistics
from rlaifv.stages.stage import ITERATION, Made, Stage, Task

Order = Literal["paper", "reference"]
RESPONSE_REASONS = ("empty_response", "truncated", "no_claims", "unknown")
PAIR_REASONS = ("identical", "tie", "over_cap", "length_balance")
# Of the order "reference" only: responses, and pairs.
REFERENCE_REASONS = ("not_contiguous", "repeated_question")
# Of rules that are off by default.
OPTIONAL_REASONS = ("length_mismatch", "fewer_accepted")
_THRESHOLD_STEPS = 50


@dataclass(frozen=True, slots=True)
class PairingRules:
    """Which pairs of an iteration are kept.

    Attributes:
        margin: least difference of two scores, in rejected claims or in what `score` counts; above 0, or neither side would
            be the better one.
        max_pairs_per_prompt: how many pairs of one prompt are kept; more are sampled uniformly.
        length_balance: whether pairs with a short chosen side are dropped until both sides are about equally long.
        order: which filters there are, and in which order.
            paper: answers that are empty, cut, without claims or with unknown verdicts; then, of their pairs, identical
                texts, ties, the cap, the length balance.
            reference: as the released code has it. Cut answers and unknown verdicts take part; a prompt that comes again
                after others is dropped, and so are pairs in which an answer has the same question twice; identical texts
                leave only after the cap, and so do not make room for others.
        score: what an answer's score is, see `rlaifv.stages.answer_scores`.
        score_weight: what `net` and `f_score` weigh with.
        max_length_gap: pairs whose lengths in words differ by more than this share of the longer one are dropped; 1 keeps all.
        keep_accepted: whether pairs are dropped whose chosen answer has fewer accepted claims than the rejected one.

    Raises:
        ValueError: a margin or a weight that is not above 0, a cap below 1, a gap outside 0 to 1, an unknown order or score.
    """

    margin: float = 1.0
    max_pairs_per_prompt: int = 2
    length_balance: bool = True
    order: Order = "paper"
    score: Score = "rejected"
    score_weight: float = 1.0
    max_length_gap: float = 1.0
    keep_accepted: bool = False

    def __post_init__(self) -> None:
        check_score(self.score, self.score_weight)
        if self.order not in get_args(Order):
            raise ValueError(
                f"The order of pairing must be one of {', '.join(get_args(Order))}, but it is {self.order!r}."
            )
        if not self.margin > 0:
            raise ValueError(f"The pairing margin must be above 0, but it is {self.margin}.")
        if self.score == "f_score" and self.margin >= 1:
            raise ValueError(
                f"F-scores are between 0 and 1, so no two differ by {self.margin}; a margin of 0.1 is a start."
            )
        if self.max_pairs_per_prompt < 1:
            raise ValueError(f"max_pairs_per_prompt must be at least 1, but it is {self.max_pairs_per_prompt}.")
        if not 0 <= self.max_length_gap <= 1:
            raise ValueError(f"max_length_gap must be between 0 and 1, but it is {self.max_length_gap}.")


class BuildPairs(Stage):
    """Build an iteration's preferences from its judged responses.

    The length balance looks at all pairs at once, so the unit is the iteration. It is cheap, so nothing is stored.
    With `chosen_from`, only that model's responses are chosen, and only the policy's are rejected.
    """

    name = "pair"
    reads = ("responses", "judgements", "claims")
    writes = "preferences"
    unit = ITERATION
    is_stored = False

    def __init__(self, rules: PairingRules, chosen_from: object | None = None) -> None:
        self.rules = rules
        self.chosen_from = chosen_from

    def producer(self) -> dict[str, str]:
        return {"pairing": repr(self.rules)}

    def __call__(
        self, task: Task, responses: Sequence[Response], judgements: Sequence[Judgement], claims: Sequence[Claim]
    ) -> Made:
        others = None
        if self.chosen_from is not None:
            others = {one.id for one in responses if one.id.endswith(OTHER_MARK)}
        pairs, drops = build_pairs(responses, judgements, self.rules, task.seed, claims, others)
        # Responses that were not divided have no claims either, and are counted already.
        drops["no_claims"] -= task.drops.get("not_divided", 0)
        return Made(pairs, +drops)


def build_pairs(
    responses: Sequence[Response],
    judgements: Sequence[Judgement],
    rules: PairingRules,
    seed: int,
    claims: Sequence[Claim] = (),
    others: Container[str] | None = None,
) -> tuple[list[Pair], Counter[str]]:
    """Pair the responses of each prompt; the better-scored one is chosen. `claims` tell which claims ask the same.

    With `others`, the ids of another model's responses, only pairs in which one of these is chosen and one of the policy's
    is rejected are looked at.

    The length balance looks at all pairs at once, so this is called once for a whole iteration. What is kept depends on
    `seed` and the ids alone, not on the order of prompts or responses.

    Returns:
        The pairs, prompts in order of first appearance, and how much was dropped by reason: responses for
        `RESPONSE_REASONS`, pairs of the remaining responses for `PAIR_REASONS` (and `REFERENCE_REASONS`,
        `OPTIONAL_REASONS`). Each is counted once, under the first reason that applies.

    Raises:
        ValueError: as for `rlaifv.stages.answer_scores.verdicts_of`.
    """
    verdicts = verdicts_of(responses, judgements, claims)
    scores = score_groups(verdicts, rules.score, rules.score_weight)
    num_accepted = {name: len(one.accepted) for group in verdicts.values() for name, one in group.items()}
    drops: Counter[str] = Counter()
    is_reference = rules.order == "reference"
    repeating = _with_repeated_questions(claims) if is_reference else set()
    usable = (
        _contiguous(responses, scores, drops)
        if is_reference
        else usable_responses(responses, judgements, scores, drops)
    )
    pairs: list[Pair] = []
    for prompt_id, group in usable.items():
        candidates = list(_candidates(group, scores, rules, repeating, drops, others, num_accepted))
        pairs += cap_pairs(candidates, prompt_id, rules.max_pairs_per_prompt, seed, drops)
    if is_reference:
        different = [pair for pair in pairs if pair.chosen.strip() != pair.rejected.strip()]
        drops["identical"] += len(pairs) - len(different)
        pairs = different
    if rules.length_balance:
        pairs = _balance(pairs, drops)
    return pairs, +drops


def length_threshold(chosen_words: Sequence[int], rejected_words: Sequence[int]) -> float:
    """Return how much shorter than rejected answers chosen ones may be, for equal lengths on average.

    A pair is kept under a threshold if `(rejected - chosen) / rejected` is not above it. Of 0, 0.02, ..., 0.98 this is
    the first that minimises `|mean chosen - mean rejected| / mean rejected` over the kept pairs (released code of RLAIF-V).

    Args:
        chosen_words: whitespace words of each chosen response.
        rejected_words: whitespace words of the rejected response of the same pair.

    Returns:
        The threshold as a fraction; 1.0, which keeps everything, where each of them would leave no pair at all.

    Raises:
        ValueError: sequences of different lengths.

    >>> length_threshold([10, 10, 12], [20, 11, 10])
    0.1
    """
    if len(chosen_words) != len(rejected_words):
        raise ValueError(
            f"A pair has two lengths, but there are {len(chosen_words)} chosen and {len(rejected_words)} rejected ones."
        )
    lengths = list(zip(chosen_words, rejected_words, strict=True))
    best_threshold, best_gap = 1.0, float("inf")
    for step in range(_THRESHOLD_STEPS):
        threshold = step / _THRESHOLD_STEPS
        kept = [(chosen, rejected) for chosen, rejected in lengths if not _too_short(chosen, rejected, threshold)]
        # Sums of integers stand in for the means, so that the order of the pairs cannot move the minimum.
        total_chosen, total_rejected = sum(pair[0] for pair in kept), sum(pair[1] for pair in kept)
        gap = abs(total_chosen - total_rejected) / total_rejected if total_rejected else float("inf")
        if gap < best_gap:
            best_threshold, best_gap = threshold, gap
    return best_threshold


def usable_responses(
    responses: Sequence[Response], judgements: Sequence[Judgement], judged: Container[str], drops: Counter[str]
) -> dict[str, list[Response]]:
    """Return the responses of each prompt that the paper's order pairs; the others are counted in `drops`.

    `judged` are the ids of those that have claims.
    """
    unknown = {judgement.response_id for judgement in judgements if judgement.verdict == "unknown"}
    usable: dict[str, list[Response]] = {}
    for response in responses:
        group = usable.setdefault(response.prompt_id, [])
        reason = unusable(response, judged, unknown)
        if reason is None:
            group.append(response)
        else:
            drops[reason] += 1
    return usable


def cap_pairs(candidates: Sequence[Pair], prompt_id: str, max_pairs: int, seed: int, drops: Counter[str]) -> list[Pair]:
    """Return at most `max_pairs` of a prompt's pairs, drawn uniformly; the others are counted as `over_cap`."""
    ordered = sorted(candidates, key=lambda pair: pair.id)
    excess = len(ordered) - max_pairs
    if excess <= 0:
        return ordered
    drops["over_cap"] += excess
    # A generator of its own for each prompt: what one prompt draws does not depend on which prompts came before it.
    rng = random.Random(hashlib.sha256(f"{seed}/{prompt_id}".encode("utf-8", "surrogatepass")).digest())
    return [ordered[k] for k in sorted(rng.sample(range(len(ordered)), max_pairs))]


def pair_statistics(
    responses: Sequence[Response],
    judgements: Sequence[Judgement],
    pairs: Sequence[Pair],
    drops: Mapping[str, int],
) -> dict[str, float]:
    """Return the figures of an iteration's feedback, by name.

    `drops` is what `build_pairs` returns; other reasons than its own may be added to it.

    Returns:
        Counts, rates between 0 and 1 over all claims, and mean lengths in whitespace words; a rate or mean of nothing
        is 0. `pairs_possible` counts the pairs that differ in text and, by the margin, in score: before cap and length
        balance.
    """
    statistics = {
        **verdict_statistics(len(responses), judgements),
        "pairs_kept": float(len(pairs)),
        "pairs_possible": float(len(pairs) + drops.get("over_cap", 0) + drops.get("length_balance", 0)),
        "length/chosen_words": sum(_num_words(pair.chosen) for pair in pairs) / max(len(pairs), 1),
        "length/rejected_words": sum(_num_words(pair.rejected) for pair in pairs) / max(len(pairs), 1),
    }
    reasons = dict.fromkeys((*RESPONSE_REASONS, *PAIR_REASONS, *drops))
    return statistics | {f"dropped/{reason}": float(drops.get(reason, 0)) for reason in reasons}


def _contiguous(
    responses: Sequence[Response], scores: Mapping[str, float], drops: Counter[str]
) -> dict[str, list[Response]]:
    """Return the responses of each prompt that the reference code pairs: those with claims, up to the next prompt's."""
    usable: dict[str, list[Response]] = {}
    for prompt_id, run in groupby(responses, key=lambda response: response.prompt_id):
        group = list(run)
        if prompt_id in usable:
            drops["not_contiguous"] += len(group)
            continue
        usable[prompt_id] = [response for response in group if response.id in scores]
        drops["no_claims"] += len(group) - len(usable[prompt_id])
    return usable


def _with_repeated_questions(claims: Sequence[Claim]) -> set[str]:
    """Return responses of which two claims led to one question."""
    counts = Counter((claim.response_id, claim.question) for claim in claims)
    return {response_id for (response_id, _), count in counts.items() if count > 1}


def unusable(response: Response, judged: Container[str], unknown: Container[str]) -> str | None:
    """Return which of `RESPONSE_REASONS` keeps a response from being used, or None.

    Args:
        response: with its text.
        judged: ids of responses that have claims.
        unknown: ids of responses of which a claim has no verdict.
    """
    if not response.text.strip():
        return "empty_response"
    if not response.finished:
        return "truncated"
    if response.id not in judged:
        return "no_claims"
    return "unknown" if response.id in unknown else None


def _candidates(
    group: Sequence[Response],
    scores: Mapping[str, float],
    rules: PairingRules,
    repeating: set[str],
    drops: Counter[str],
    others: Container[str] | None,
    num_accepted: Mapping[str, int],
) -> Iterator[Pair]:
    for first, second in combinations(group, 2):
        if others is not None and not _is_from_other(first, second, scores, others):
            continue
        if rules.order == "paper" and first.text.strip() == second.text.strip():
            drops["identical"] += 1
        elif abs(scores[first.id] - scores[second.id]) < rules.margin:
            drops["tie"] += 1
        elif first.id in repeating or second.id in repeating:
            drops["repeated_question"] += 1
        else:
            chosen, rejected = (first, second) if scores[first.id] > scores[second.id] else (second, first)
            if reason := _optional_reason(chosen, rejected, rules, num_accepted):
                drops[reason] += 1
                continue
            yield Pair(
                id=f"{chosen.id}>{rejected.id}",
                prompt_id=chosen.prompt_id,
                chosen_response_id=chosen.id,
                rejected_response_id=rejected.id,
                chosen=chosen.text,
                rejected=rejected.text,
                chosen_token_ids=chosen.token_ids,
                rejected_token_ids=rejected.token_ids,
                chosen_score=scores[chosen.id],
                rejected_score=scores[rejected.id],
            )


def _optional_reason(
    chosen: Response, rejected: Response, rules: PairingRules, num_accepted: Mapping[str, int]
) -> str | None:
    """Return why the rules that are off by default drop a pair, or None."""
    if rules.keep_accepted and num_accepted[chosen.id] < num_accepted[rejected.id]:
        return "fewer_accepted"
    lengths = _num_words(chosen.text), _num_words(rejected.text)
    if max(lengths) - min(lengths) > rules.max_length_gap * max(lengths):
        return "length_mismatch"
    return None


def _is_from_other(first: Response, second: Response, scores: Mapping[str, float], others: Container[str]) -> bool:
    """Return whether the better of two is another model's, and the worse the policy's."""
    chosen, rejected = (first, second) if scores[first.id] >= scores[second.id] else (second, first)
    return chosen.id in others and rejected.id not in others


def _balance(pairs: Sequence[Pair], drops: Counter[str]) -> list[Pair]:
    lengths = [(_num_words(pair.chosen), _num_words(pair.rejected)) for pair in pairs]
    threshold = length_threshold([pair[0] for pair in lengths], [pair[1] for pair in lengths])
    kept = [pair for pair, (c, r) in zip(pairs, lengths, strict=True) if not _too_short(c, r, threshold)]
    if len(kept) < len(pairs):
        drops["length_balance"] += len(pairs) - len(kept)
    return kept


def _too_short(chosen_words: int, rejected_words: int, threshold: float) -> bool:
    return rejected_words > 0 and (rejected_words - chosen_words) / rejected_words > threshold


def _num_words(text: str) -> int:
    return len(text.split())
