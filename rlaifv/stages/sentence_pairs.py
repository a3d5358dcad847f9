"""Pairs of next sentences after one prefix that is free of hallucination (after SENTINEL, arXiv 2507.12455).

The answers sampled for a prompt hold both sides: what one answer says wrongly, another one often says rightly. A pair's
answers are prefix and sentence. As they share the prefix's tokens, the log-probs of these are the same on both sides and
cancel in the difference that DPO takes, if log-probs are summed: the loss and its gradient are those of the sentences alone.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from rlaifv.engines.local import LocalEngine
from rlaifv.records import Pair
from rlaifv.stages.sentences import Answer, Sentence, SentencePairing, closest, distinct


class SentencePairs(SentencePairing):
    """Pair the first sentence of an answer with a rejected claim with an accepted one that could stand in its place.

    An accepted sentence comes from another answer that goes on from the same prefix. Where no such answer has one, it is taken
    from anywhere in the other answers, if the prefix does not say it yet; this is not in the paper. Of several, the closest to
    the rejected sentence is chosen. No end token follows a sentence, so that the policy does not learn to stop.

    Dropped and counted: answers as in `rlaifv.stages.pair.usable_responses`; those with `nothing_rejected`, and those with
    `nothing_supported` to say instead; pairs that are `repeated`, and those `over_cap`.

    Args:
        policy: decodes answers.
        max_pairs_per_prompt: how many pairs of one prompt are kept; more are sampled uniformly.
        may_end: whether, where there is no accepted sentence, the end of the answer is chosen instead, if the prefix says
            anything. This is not in the paper.
        chosen_from: another model that gave some answers, which is refused.

    Raises:
        ValueError: a cap below 1, or another model. When called: a claim that does not know its sentence.
    """

    def __init__(
        self,
        policy: LocalEngine,
        max_pairs_per_prompt: int = 4,
        may_end: bool = False,
        chosen_from: object | None = None,
    ) -> None:
        super().__init__(policy, max_pairs_per_prompt, chosen_from)
        self.may_end = may_end

    def producer(self) -> dict[str, str]:
        return {"pairing": f"sentences {self.max_pairs_per_prompt} {self.may_end}"}

    def candidates(self, group: Sequence[Answer], drops: Counter[str]) -> list[Pair]:
        return sentence_pairs(group, self.policy.decode, self.may_end, drops)


def sentence_pairs(
    group: Sequence[Answer], decode: Callable[[Sequence[int]], str], may_end: bool, drops: Counter[str]
) -> list[Pair]:
    """Return a pair for each answer to a prompt that has one, all distinct; count the others in `drops`."""
    pairs: dict[tuple[tuple[int, ...], tuple[int, ...]], Pair] = {}
    for answer in group:
        place = next((k for k, sentence in enumerate(answer.sentences) if sentence.num_rejected), None)
        if place is None:
            drops["nothing_rejected"] += 1
            continue
        rejected = answer.sentences[place]
        prefix = _tokens(answer.sentences[:place])
        candidates = distinct(list(_followers(group, answer, place))) or distinct(list(_others(group, answer, place)))
        found = closest(rejected, candidates)
        is_end = found is None and may_end and any(one.accepted for one in answer.sentences[:place])
        if found is None and not is_end:
            drops["nothing_supported"] += 1
            continue
        source, added = (answer.response.id, answer.tail) if found is None else (found.response_id, found.token_ids)
        sides = (*prefix, *added), (*prefix, *rejected.token_ids)
        if sides in pairs:
            drops["repeated"] += 1
            continue
        pairs[sides] = Pair(
            id=f"{source}>{answer.response.id}",
            prompt_id=answer.response.prompt_id,
            chosen_response_id=source,
            rejected_response_id=answer.response.id,
            chosen=decode(sides[0]),
            rejected=decode(sides[1]),
            chosen_token_ids=sides[0],
            rejected_token_ids=sides[1],
            chosen_score=0.0,
            rejected_score=-float(rejected.num_rejected),
        )
    return list(pairs.values())


def _followers(group: Sequence[Answer], answer: Answer, place: int) -> Iterator[Sentence]:
    """Yield accepted sentences that follow the same prefix in other answers, and say something that it does not say."""
    prefix, said = _tokens(answer.sentences[:place]), _said(answer, place)
    for other in group:
        if len(other.sentences) > place and _tokens(other.sentences[:place]) == prefix:
            sentence = other.sentences[place]
            if sentence.is_supported and said.isdisjoint(sentence.accepted):
                yield sentence


def _others(group: Sequence[Answer], answer: Answer, place: int) -> Iterator[Sentence]:
    """Yield accepted sentences of any place that the prefix does not say yet, and whose tokens can follow it."""
    said = _said(answer, place)
    for other in group:
        for sentence in other.sentences:
            fits = sentence.is_first == (place == 0)
            if fits and sentence.is_supported and said.isdisjoint(sentence.accepted):
                yield sentence


def _said(answer: Answer, place: int) -> set[str]:
    return set().union(*(sentence.accepted for sentence in answer.sentences[:place]))


def _tokens(sentences: Sequence[Sentence]) -> tuple[int, ...]:
    return tuple(token for sentence in sentences for token in sentence.token_ids)
