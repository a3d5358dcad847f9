"""Sampling on the tree: each prompt's prefix is run once, and its answers are decoded as branches of the forked cache.

A branch draws from random numbers of its own seed, so that its text depends on neither its neighbours nor their order.

Shapes: P prompts, K answers each, R rows still being decoded, L tokens of a row, V vocabulary, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Rows that have ended are dropped from the batch once they make up this share of it.
COMPACT_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are drawn. Temperature 0 is greedy; `top_k` 0 and `top_p` 1 leave the distribution whole."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.max_new_tokens < 1:
            raise ValueError(
                f"Decoding needs temperature >= 0, 0 < top_p <= 1, top_k >= 0 and max_new_tokens >= 1, but got {self}."
            )


@dataclass(frozen=True, slots=True)
class Sampled:
    """Emitted ids, the end token included if there was one (`finished`)."""

    token_ids: tuple[int, ...]
    finished: bool


def filter_logits(logits_RV: Tensor, decoding: Decoding) -> Tensor:
    """Probabilities [R, V] after temperature, top-k and top-p, in this order, as in transformers' sampler."""
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
    """Next tokens [R]: the likeliest when greedy, else the inverse of the cumulative distribution at `uniform_R`."""
    if decoding.temperature == 0:
        return logits_RV.argmax(1)
    cumulative = filter_logits(logits_RV, decoding).double().cumsum(1)
    chosen = torch.searchsorted(cumulative, uniform_R[:, None] * cumulative[:, -1:], right=True).squeeze(1)
    return chosen.clamp_(max=logits_RV.shape[1] - 1)


@torch.no_grad()
def sample_branches(
    model: Any,
    prefixes: Sequence[Sequence[int]],
    images: dict[str, Tensor],
    seeds: Sequence[Sequence[int]],
    decoding: Decoding,
    end_ids: Sequence[int],
    suppressed_ids: Sequence[int],
    pad_id: int = 0,
) -> list[list[Sampled]]:
    """Draw K answers for each of P prompts.

    Args:
        model: Hugging Face image-text-to-text model in evaluation mode.
        prefixes: ids of each prompt.
        images: image arguments of the model's forward, in the order of the prompts.
        seeds: K seeds for each prompt.
        decoding: how tokens are drawn.
        end_ids: tokens that end an answer.
        suppressed_ids: tokens that may never be emitted (image placeholders, padding); they would break later prompts.
        pad_id: fills the left of shorter prompts.

    Returns:
        K answers for each prompt.
    """
    device = model.device
    num_prompts, num_branches = len(prefixes), len(seeds[0])
    hidden, seen, cache = _run_prefixes(model, prefixes, images, num_branches, pad_id)
    head = model.get_output_embeddings()
    uniform = _uniform([seed for some in seeds for seed in some], decoding.max_new_tokens).to(device)
    rows = torch.arange(num_prompts * num_branches, device=device)
    ended = torch.zeros_like(rows, dtype=torch.bool)
    emitted: list[list[int]] = [[] for _ in rows]
    finished = [False] * len(rows)
    ends = torch.tensor(list(end_ids), device=device)
    for step in range(decoding.max_new_tokens):
        logits_RV = head(hidden).float()
        logits_RV[:, list(suppressed_ids)] = -torch.inf
        tokens = choose_tokens(logits_RV, decoding, uniform[rows, step])
        now_ended = ~ended & torch.isin(tokens, ends)
        for row, token, was_ended, ends_now in zip(
            rows.tolist(), tokens.tolist(), ended.tolist(), now_ended.tolist(), strict=True
        ):
            if not was_ended:
                emitted[row].append(token)
                finished[row] = ends_now
        ended |= now_ended
        if ended.all() or step + 1 == decoding.max_new_tokens:
            break
        if ended.float().mean() >= COMPACT_SHARE:
            keep = (~ended).nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            rows, tokens, seen, ended = rows[keep], tokens[keep], seen[keep], ended[keep]
        seen = torch.cat([seen, torch.ones_like(seen[:, :1])], 1)
        hidden = _run_tokens(model, tokens, seen, cache)
    results = [Sampled(tuple(ids), end) for ids, end in zip(emitted, finished, strict=True)]
    return [results[p * num_branches : (p + 1) * num_branches] for p in range(num_prompts)]


def _run_prefixes(
    model: Any, prefixes: Sequence[Sequence[int]], images: dict[str, Tensor], num_branches: int, pad_id: int
) -> tuple[Tensor, Tensor, Any]:
    """Run each prefix once and fork it: last hidden states [R, D], which tokens are seen [R, L], and the cache."""
    longest = max(len(ids) for ids in prefixes)
    padded = torch.tensor([[pad_id] * (longest - len(ids)) + list(ids) for ids in prefixes], device=model.device)
    seen = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prefixes], device=model.device)
    output = model.base_model(
        input_ids=padded,
        attention_mask=seen,
        position_ids=(seen.cumsum(1) - 1).clamp(min=0),
        use_cache=True,
        **{name: tensor.to(model.device) for name, tensor in images.items()},
    )
    output.past_key_values.batch_repeat_interleave(num_branches)
    hidden = output.last_hidden_state[:, -1].repeat_interleave(num_branches, 0)
    return hidden, seen.repeat_interleave(num_branches, 0), output.past_key_values


def _run_tokens(model: Any, tokens: Tensor, seen: Tensor, cache: Any) -> Tensor:
    """Append one token [R] to each row of the cache; hidden states [R, D]."""
    return model.base_model(
        input_ids=tokens[:, None],
        attention_mask=seen,
        position_ids=seen.sum(1, keepdim=True) - 1,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1]


def _uniform(seeds: Sequence[int], num_draws: int) -> Tensor:
    """Random numbers in [0, 1), float64[R, num_draws], each row from a generator of its own seed."""
    return torch.from_numpy(np.stack([np.random.Generator(np.random.Philox(seed)).random(num_draws) for seed in seeds]))
