"""Scores of answers by the verdicts on their claims; of two answers, the one with the higher score is chosen.

A score sees all answers to a prompt at once, as `f_score` compares each with what all of them together got accepted. The
paper's counts rejected claims alone, and so is best served by saying less; `net` and `f_score` also pay for accepted ones.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from rlaifv.records import Claim, Judgement, Response

Score = Literal["rejected", "rate", "probability", "net", "f_score"]
# Those that `weight` matters to.
WEIGHTED_SCORES = ("net", "f_score")


@dataclass(slots=True)
class Verdicts:
    """What the labeler made of an answer's claims; unknown verdicts are left out.

    Attributes:
        num_rejected: rejected claims, each repetition counted.
        num_known: claims with a verdict, each repetition counted.
        doubt: sum of P(no) / (P(yes) + P(no)) over them.
        accepted: questions of accepted claims; an answer that repeats a claim has it once.
        rejected: questions of rejected claims.
    """

    num_rejected: int = 0
    num_known: int = 0
    doubt: float = 0.0
    accepted: set[str] = field(default_factory=set)
    rejected: set[str] = field(default_factory=set)

    def add(self, question: str, judgement: Judgement) -> None:
        """Count a claim."""
        if judgement.verdict == "unknown":
            return
        is_rejected = judgement.verdict == "rejected"
        self.num_known += 1
        self.num_rejected += is_rejected
        self.doubt += judgement.p_no / (judgement.p_yes + judgement.p_no)
        (self.rejected if is_rejected else self.accepted).add(question)


def rejected(group: Sequence[Verdicts], weight: float) -> list[float]:
    """Minus the number of rejected claims (RLAIF-V, arXiv 2405.17220, section 3.2); long answers have more of them."""
    return [-float(one.num_rejected) for one in group]


def rate(group: Sequence[Verdicts], weight: float) -> list[float]:
    """Minus the share of rejected claims; up to a constant, FLAME's share of supported facts (arXiv 2405.01525)."""
    return [-one.num_rejected / max(one.num_known, 1) for one in group]


def probability(group: Sequence[Verdicts], weight: float) -> list[float]:
    """Minus the sum of P(no) / (P(yes) + P(no)): a doubtful claim costs half a rejected one."""
    return [-one.doubt for one in group]


def net(group: Sequence[Verdicts], weight: float) -> list[float]:
    """Distinct accepted claims minus `weight` times distinct rejected ones."""
    return [len(one.accepted) - weight * len(one.rejected) for one in group]


def f_score(group: Sequence[Verdicts], weight: float) -> list[float]:
    """F-score of the distinct claims; recall is of all claims that any answer to the prompt got accepted.

    `weight` is van Rijsbergen's beta: how many times as much as precision recall matters. Without an accepted claim it is 0.
    What the answers got accepted together stands in for all that is true of the image, which nobody knows.

    >>> true, false = Verdicts(accepted={"a", "b"}), Verdicts(accepted={"a"}, rejected={"c"})
    >>> f_score([true, false], 1.0)
    [1.0, 0.5]
    """
    known = len(set().union(*(one.accepted for one in group)))
    squared = weight**2
    # (1 + b²) tp / ((1 + b²) tp + b² fn + fp), with fn = known - tp and fp = rejected.
    return [
        (len(one.accepted) + squared * len(one.accepted)) / (len(one.accepted) + squared * known + len(one.rejected))
        if one.accepted
        else 0.0
        for one in group
    ]


SCORES: Mapping[Score, Callable[[Sequence[Verdicts], float], list[float]]] = {
    "rejected": rejected,
    "rate": rate,
    "probability": probability,
    "net": net,
    "f_score": f_score,
}


def check_score(name: str, weight: float) -> None:
    """Raise ValueError for an unknown score, or a weight that is not above 0."""
    if name not in get_args(Score):
        raise ValueError(f"The score must be one of {', '.join(get_args(Score))}, but it is {name!r}.")
    if not weight > 0:
        raise ValueError(f"score_weight must be above 0, but it is {weight}.")


def verdicts_of(
    responses: Iterable[Response], judgements: Iterable[Judgement], claims: Iterable[Claim] = ()
) -> dict[str, dict[str, Verdicts]]:
    """Collect the verdicts on each answer's claims.

    Args:
        responses: of any number of prompts.
        judgements: of their claims.
        claims: which claims ask the same; a judgement without its claim counts as distinct.

    Returns:
        Of each prompt, response ids and their verdicts, in the order of `responses`. A response without claims is absent.

    Raises:
        ValueError: two responses with one id, two judgements of one claim, or a judgement of a response not given.
    """
    questions = {claim.id: claim.question for claim in claims}
    prompt_of: dict[str, str] = {}
    for response in responses:
        if response.id in prompt_of:
            raise ValueError(f"Two responses carry the id {response.id!r}, so their claims cannot be told apart.")
        prompt_of[response.id] = response.prompt_id
    found: dict[str, Verdicts] = {}
    judged: set[str] = set()
    for judgement in judgements:
        if judgement.response_id not in prompt_of:
            raise ValueError(
                f"Claim {judgement.claim_id!r} belongs to response {judgement.response_id!r}, which is not there."
            )
        if judgement.claim_id in judged:
            raise ValueError(f"Claim {judgement.claim_id!r} was judged twice, so it would count twice.")
        judged.add(judgement.claim_id)
        question = questions.get(judgement.claim_id, judgement.claim_id)
        found.setdefault(judgement.response_id, Verdicts()).add(question, judgement)
    groups: dict[str, dict[str, Verdicts]] = {}
    for response_id, prompt_id in prompt_of.items():
        if response_id in found:
            groups.setdefault(prompt_id, {})[response_id] = found[response_id]
    return groups


def score_groups(groups: Mapping[str, Mapping[str, Verdicts]], score: Score, weight: float) -> dict[str, float]:
    """Score each response by its claims; the higher, the better.

    Args:
        groups: what `verdicts_of` returns; a score sees the responses to a prompt together.
        score: which one, a name of `SCORES`.
        weight: what `net` and `f_score` weigh with.

    Returns:
        Response id to score, in the order of the groups.
    """
    scores: dict[str, float] = {}
    for group in groups.values():
        scores |= zip(group, SCORES[score](list(group.values()), weight), strict=True)
    return scores


def score_responses(
    responses: Iterable[Response],
    judgements: Iterable[Judgement],
    score: Score = "rejected",
    weight: float = 1.0,
    claims: Iterable[Claim] = (),
) -> dict[str, float]:
    """Score responses from their judgements: `verdicts_of`, then `score_groups`; see there. Unknown verdicts do not count."""
    return score_groups(verdicts_of(responses, judgements, claims), score, weight)
