"""Token sampling: temperature, top-k, top-p, repetition penalty, stop strings.

Shapes: R branches being decoded, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Decoding:
    """Decoding settings. Temperature 0 is greedy; `top_k` 0 and `top_p` 1 keep the whole distribution.

    repetition_penalty: divides the positive logits of tokens in the prompt or the answer so far, and multiplies their
        negative ones (CTRL, arXiv 1909.05858, section 4.1), as in transformers; 1 is none
    stop: an answer ends where its text holds one of these strings; they are not part of its text
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 512
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", tuple(self.stop))  # a configuration has lists
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.max_new_tokens < 1:
            raise ValueError(
                f"Decoding needs temperature >= 0, 0 < top_p <= 1, top_k >= 0 and max_new_tokens >= 1, but got {self}."
            )
        if self.repetition_penalty <= 0 or "" in self.stop:
            raise ValueError(
                f"Decoding needs repetition_penalty > 0 and stop strings that are not empty, but got {self}."
            )

    def stops(self, text: str) -> bool:
        """Return whether a text holds a stop string."""
        return any(stop in text for stop in self.stop)

    def cut(self, text: str) -> str:
        """Return a text up to its first stop string.

        >>> Decoding(stop=("Question:",)).cut("There is a star. Question: Is")
        'There is a star.'
        """
        return (
            text[: min(text.index(stop) for stop in self.stop if stop in text)].rstrip() if self.stops(text) else text
        )


@dataclass(frozen=True, slots=True)
class Sampled:
    """Emitted ids, the end token or all of a stop string included if there was one (`finished`)."""

    token_ids: tuple[int, ...]
    finished: bool


def penalize(logits_RV: Tensor, seen_RV: Tensor, penalty: float) -> Tensor:
    """Return logits after the repetition penalty on the tokens that were seen."""
    return torch.where(seen_RV, torch.where(logits_RV > 0, logits_RV / penalty, logits_RV * penalty), logits_RV)


def filter_logits(logits_RV: Tensor, decoding: Decoding) -> Tensor:
    """Return probabilities [R, V] after temperature, top-k and top-p, in this order, as in transformers' sampler."""
    logits_RV = logits_RV / decoding.temperature
    if 0 < decoding.top_k < logits_RV.shape[1]:
        smallest = logits_RV.topk(decoding.top_k).values[:, -1:]
        logits_RV = logits_RV.masked_fill(logits_RV < smallest, -torch.inf)
    probs_RV = logits_RV.softmax(1)
    if decoding.top_p < 1:
        descending, order = probs_RV.sort(1, descending=True)
        beyond = descending.cumsum(1) - descending >= decoding.top_p
        probs_RV = probs_RV.masked_fill(beyond.gather(1, order.argsort(1)), 0)
        probs_RV = probs_RV / probs_RV.sum(1, keepdim=True)
    return probs_RV


def choose_tokens(logits_RV: Tensor, decoding: Decoding, uniform_R: Tensor) -> Tensor:
    """Return next tokens [R]: the likeliest when greedy, else the inverse of the cumulative distribution at `uniform_R`."""
    if decoding.temperature == 0:
        return logits_RV.argmax(1)
    cumulative = filter_logits(logits_RV, decoding).double().cumsum(1)
    chosen = torch.searchsorted(cumulative, uniform_R[:, None] * cumulative[:, -1:], right=True).squeeze(1)
    return chosen.clamp_(max=logits_RV.shape[1] - 1)


def uniform_numbers(seeds: Sequence[Sequence[int]], num_draws: int) -> Tensor:
    """Return random numbers in [0, 1), float64[B, K, num_draws], each draw of them from a generator of its own seed [B][K]."""
    drawn = [[np.random.Generator(np.random.Philox(seed)).random(num_draws) for seed in some] for some in seeds]
    return torch.from_numpy(np.array(drawn))
