"""Pairs of an answer and its own correction, which the labeler's verdicts make (after OPA-DPO, arXiv 2501.09695).

OPA-DPO has a stronger model correct the policy's answers, so that chosen answers stay close to what the policy says. Here
there is no other model: sentences with rejected claims leave, and accepted sentences of the prompt's other answers take their
places.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from rlaifv.engines.local import LocalEngine
from rlaifv.records import Pair
from rlaifv.stages.sentences import Answer, Sentence, SentencePairing, closest, distinct


class CorrectedPairs(SentencePairing):
    """Pair each answer that has rejected claims with its correction, which is chosen.

    The score of an answer is minus the number of its rejected claims and of the sentences that its correction adds.

    Dropped and counted: answers as in `rlaifv.stages.pair.usable_responses`; those with `nothing_rejected` (if complete: and
    nothing missing), and those of whose sentences with accepted claims `nothing_left`; pairs that are `repeated`, and those
    `over_cap`.

    Args:
        policy: decodes answers.
        max_pairs_per_prompt: how many pairs of one prompt are kept; more are sampled uniformly.
        fill: whether a sentence that leaves is replaced by the closest accepted one of another answer to the prompt that says
            something new. Without it, chosen answers are shorter than rejected ones, and the policy learns to say less.
        complete: whether a correction also gets what other answers to the prompt say, the labeler accepts and this one lacks,
            one sentence each; answers with nothing but omissions are then corrected too.
        chosen_from: another model that gave some answers, which is refused.

    Raises:
        ValueError: a cap below 1, or another model. When called: a claim that does not know its sentence.
    """

    def __init__(
        self,
        policy: LocalEngine,
        max_pairs_per_prompt: int = 4,
        fill: bool = True,
        complete: bool = False,
        chosen_from: object | None = None,
    ) -> None:
        super().__init__(policy, max_pairs_per_prompt, chosen_from)
        self.fill, self.complete = fill, complete

    def producer(self) -> dict[str, str]:
        return {"pairing": f"corrected {self.max_pairs_per_prompt} {self.fill} {self.complete}"}

    def candidates(self, group: Sequence[Answer], drops: Counter[str]) -> list[Pair]:
        return corrected_pairs(group, self.policy.decode, drops, self.fill, self.complete)


def corrected_pairs(
    group: Sequence[Answer],
    decode: Callable[[Sequence[int]], str],
    drops: Counter[str],
    fill: bool = True,
    complete: bool = False,
) -> list[Pair]:
    """Return a pair for each answer to a prompt that can be corrected, all distinct; count the others in `drops`."""
    supported = distinct([sentence for answer in group for sentence in answer.sentences if sentence.is_supported])
    pairs: dict[tuple[str, str], Pair] = {}
    for answer in group:
        sentences = corrected(answer.sentences, supported if fill else ())
        added = missing(sentences, supported) if complete else []
        sentences += added
        if not answer.num_rejected and not added:
            drops["nothing_rejected"] += 1
            continue
        if not any(sentence.accepted for sentence in sentences):
            drops["nothing_left"] += 1
            continue
        text, token_ids = joined(sentences, answer.tail, decode)
        response = answer.response
        if (text, response.text) in pairs:
            drops["repeated"] += 1
            continue
        pairs[text, response.text] = Pair(
            id=f"corrected>{response.id}",
            prompt_id=response.prompt_id,
            chosen_response_id=response.id,
            rejected_response_id=response.id,
            chosen=text,
            rejected=response.text,
            chosen_token_ids=token_ids,
            rejected_token_ids=response.token_ids,
            chosen_score=0.0,
            rejected_score=-float(answer.num_rejected + len(added)),
        )
    return list(pairs.values())


def corrected(sentences: Sequence[Sentence], supported: Sequence[Sentence]) -> list[Sentence]:
    """Return the sentences without rejected claims, and in the places of the others the closest `supported` ones, if any.

    None of these says what the answer says anyway.
    """
    said = _accepted([sentence for sentence in sentences if not sentence.num_rejected])
    found = []
    for sentence in sentences:
        if not sentence.num_rejected:
            found.append(sentence)
        elif other := closest(sentence, [one for one in supported if said.isdisjoint(one.accepted)]):
            found.append(other)
            said |= other.accepted
    return found


def missing(sentences: Sequence[Sentence], supported: Sequence[Sentence]) -> list[Sentence]:
    """Return those of the `supported` sentences that say what no sentence says yet, in their order."""
    said, found = _accepted(sentences), []
    for sentence in supported:
        if said.isdisjoint(sentence.accepted):
            found.append(sentence)
            said |= sentence.accepted
    return found


def _accepted(sentences: Sequence[Sentence]) -> set[str]:
    return set().union(*(sentence.accepted for sentence in sentences))


def joined(
    sentences: Sequence[Sentence], tail: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> tuple[str, tuple[int, ...]]:
    """Return the text of an answer made of these sentences, and its tokens: the sentences' own, and `tail`.

    Tokens are empty, and the text has to be encoded, where the sentences' own would not spell it: if the answer began with a
    sentence from within an answer, or had one from a beginning within, as these differ in their first token.
    """
    runs: list[list[int]] = []
    for sentence in sentences:
        if sentence.is_first or not runs:
            runs.append([])
        runs[-1] += sentence.token_ids
    text = " ".join(decode(run) for run in runs)
    is_spelled = len(runs) == 1 and sentences[0].is_first
    return text, (*runs[0], *tail) if is_spelled else ()
