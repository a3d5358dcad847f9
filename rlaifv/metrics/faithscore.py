"""FaithScore: the share of an answer's atomic facts that a second model confirms in the image (arXiv 2311.01477, section 3).

Takes the verdicts; splitting answers into facts and confirming them is done elsewhere.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from rlaifv.metrics.by_row import RowMetric


def is_verified(reply: str) -> bool:
    """Return whether a model that was asked about a fact confirms it: "yes" anywhere in its reply, in any case.

    >>> is_verified("Yes, it is."), is_verified("no")
    (True, False)
    """
    return "yes" in reply.lower()


def answer_faithfulness(verified: Sequence[bool]) -> float:
    """Return confirmed facts / facts of one answer, 0 where it has none.

    >>> answer_faithfulness([True, True, False, True]), answer_faithfulness([])
    (0.75, 0.0)
    """
    return sum(verified) / len(verified) if verified else 0.0


def sentence_faithfulness(verified: Sequence[bool], sentences: Sequence[Sequence[int]]) -> float:
    """Return the share of an answer's descriptive sub-sentences whose facts are all confirmed, 1 where it has none.

    Args:
        verified: of each fact.
        sentences: of each descriptive sub-sentence, the places of its facts.

    Raises:
        ValueError: a sentence has a fact that there is not.

    >>> sentence_faithfulness([True, False, True], [[0, 2], [1], []])
    0.6666666666666666
    """
    if wrong := [place for facts in sentences for place in facts if not 0 <= place < len(verified)]:
        raise ValueError(f"A sentence has fact {wrong[0]}, but there are {len(verified)} facts, counted from 0.")
    true = [all(verified[place] for place in facts) for facts in sentences]
    return sum(true) / len(true) if true else 1.0


def faith_scores(
    verified: Sequence[Sequence[bool]], sentences: Sequence[Sequence[Sequence[int]]] | None = None
) -> dict[str, float]:
    """Return the means over answers, as in `FaithScore`.

    Args:
        verified: for each answer, whether each of its facts is confirmed.
        sentences: for each, the places of the facts of each descriptive sub-sentence.

    Raises:
        ValueError: there is no answer, the arguments differ in length, or a fact does not exist.

    >>> faith_scores([[True, True], []], sentences=[[[0], [1]], []])
    {'faithscore': 0.5, 'sentence': 1.0}
    """
    if not verified:
        raise ValueError("faithscore is undefined: there is no answer.")
    scores = {"faithscore": sum(map(answer_faithfulness, verified)) / len(verified)}
    if sentences is not None:
        both = zip(verified, sentences, strict=True)
        scores["sentence"] = sum(sentence_faithfulness(*one) for one in both) / len(verified)
    return scores


class FaithScore(RowMetric):
    """FaithScore and its sentence score, in [0, 1]: means over answers, each answer with the same weight.

    - `faithscore`: mean of `answer_faithfulness`
    - `sentence`: mean of `sentence_faithfulness`; only where sentences are given

    Source: arXiv 2311.01477, section 3.

    Two answers; the first has two confirmed facts of three, the second none at all:

    >>> metric = FaithScore(num_rows=2)
    >>> metric.update([[True, True, False], []], sentences=[[[0, 1], [2]], []])
    >>> for name, value in metric.compute().items():
    ...     print(f"{name} {value:.4f}")
    faithscore 0.3333
    sentence 0.7500
    """

    columns: ClassVar[tuple[str, ...]] = ("verified", "facts", "true_sentences", "sentences", "has_sentences")
    higher_is_better = True

    def update(
        self,
        verified: Sequence[Sequence[bool]],
        sentences: Sequence[Sequence[Sequence[int]]] | None = None,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Add answers.

        Args:
            verified: for each, whether each of its facts is confirmed.
            sentences: for each, the places of the facts of each descriptive sub-sentence.
            rows: numbers of the answers among those of the benchmark; in order from the first if not given.

        Raises:
            ValueError: the arguments differ in length, a fact does not exist, or a row is unknown or came with
                other counts.
        """
        given = {"verified": verified} if sentences is None else {"verified": verified, "sentences": sentences}
        numbers = self._numbers(rows, **given)
        counts = []
        for k, facts in enumerate(verified):
            own = sentences[k] if sentences is not None else []
            true = round(sentence_faithfulness(facts, own) * len(own))
            counts.append((sum(facts), len(facts), true, len(own), int(sentences is not None)))
        self._put(numbers, counts)

    def compute(self) -> dict[str, Tensor]:
        """Return float64[] for `faithscore`, and for `sentence` where every answer came with its sentences.

        Raises:
            ValueError: there is no answer.
        """
        verified, facts, true, sentences, has = self._values().unbind(1)
        if not len(facts):
            raise ValueError("faithscore is undefined: there is no answer.")
        scores = {"faithscore": (verified / facts.clamp(min=1)).mean()}
        if has.all():
            scores["sentence"] = torch.where(sentences > 0, true / sentences.clamp(min=1), 1.0).mean()
        return scores
