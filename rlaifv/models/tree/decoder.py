"""Decoding on the tree: the answers to a prompt are branches of one row, whose prefix is run and stored once.

    row        prefix of a prompt │ tokens of its branches, step by step          (slots of `BranchCache`)
    queries    the last token of each branch that has not ended, at most Q of a row
    mask       a branch sees its prefix and its own tokens

Every step is the stock model on [P, Q] tokens, so attention to a prefix is one product for all answers to it. When all
branches of a row have ended, the row is given to a waiting prompt. Within a round of steps nothing waits for the device:
which branches have ended is read between rounds, and what they said after their end is cut off.

A branch draws with random numbers of its own seed, so that its text depends on neither its neighbours nor their order.
A model that cannot run on trees gets one row per answer and makes its own masks.

Shapes: as in `branch_state`; B prompts that start, T tokens of the longest of them, D hidden size.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from rlaifv.models.prompting import EncodedPrompt, stack_images
from rlaifv.models.sampling import Decoding, Sampled, choose_tokens, penalize, uniform_numbers
from rlaifv.models.tree.attention import (
    attention_masks,
    image_arguments,
    open_images,
    prefix_positions,
    stock_arguments,
    uses_mrope,
)
from rlaifv.models.tree.cache import BranchCache
from rlaifv.models.tree.packing import batches_by_tokens
from rlaifv.models.tree.state import SHARED, Lanes, RowState

# Steps of a round. A CPU has nothing to wait for.
ROUND_STEPS, ROUND_STEPS_CPU = 8, 1
# Share of the rows that must be free before waiting prompts start, so that several do; and, once none waits, before free
# rows are dropped, which copies the few rows behind them.
START_SHARE, DROP_SHARE = 0.25, 0.1
# Attention reads this many slots more at a time, so that the shapes of most steps equal those before.
VIEW_SLOTS = 16


def expected_slots(prefix_tokens: int, num_branches: int, max_new_tokens: int) -> int:
    """Return the slots that a prompt is expected to take: half of its answers' maximum, since most end early."""
    return prefix_tokens + num_branches * max_new_tokens // 2


@torch.no_grad()
def sample_branches(
    model: Any,
    prompts: Sequence[EncodedPrompt],
    seeds: Sequence[Sequence[int]],
    decoding: Decoding,
    end_ids: Sequence[int],
    suppressed_ids: Sequence[int] = (),
    batch_tokens: int = 16_384,
    separately: bool = False,
    decode: Callable[[Sequence[int]], str] | None = None,
    questions: Sequence[Sequence[Sequence[int]]] | None = None,
) -> Iterator[tuple[int, list[Sampled]]]:
    """Draw answers to each prompt: one for each of its seeds.

    Args:
        model: Hugging Face image-text-to-text model in evaluation mode.
        prompts: at least one.
        seeds: for each prompt, at most K of them.
        decoding: how tokens are drawn.
        end_ids: tokens that end an answer.
        suppressed_ids: tokens that may never be emitted (image placeholders, padding); they would break later prompts.
        batch_tokens: bound of all rows' slots, as `expected_slots` reckons them, and of the prefix tokens run at a time.
        separately: whether each answer has a row and a prefix of its own.
        decode: text of ids, white space at its ends included; needed for `decoding.stop` only.
        questions: for each seed of each prompt, ids that its branch begins with, and that its answer follows: the rest of a
            question whose beginning is the prompt. They are read one a step, beside those of all other branches. Not
            together with `separately`.

    Yields:
        Index of a prompt and its answers, as they are finished.
    """
    num_branches = max(map(len, seeds))
    longest = max((len(ids) for some in questions or () for ids in some), default=0)
    slots = expected_slots(max(len(prompt.ids) for prompt in prompts), num_branches, decoding.max_new_tokens)
    slots += num_branches * longest
    options = (decoding, end_ids, suppressed_ids, separately, decode, longest)
    if not separately:
        questions = questions or [[()] * len(some) for some in seeds]
        yield from _decode_all(model, prompts, seeds, questions, slots, batch_tokens, *options)
        return
    assert questions is None
    # Prompt by prompt: rows are equally long then, so that the masks which the model makes for a batch hold for each.
    num_rows = max(1, batch_tokens // slots)
    for k, prompt in enumerate(prompts):
        answers: list[Sampled] = []
        for some in (seeds[k][j : j + num_rows] for j in range(0, len(seeds[k]), num_rows)):
            single, nothing = [[seed] for seed in some], [[()]] * len(some)
            done = dict(_decode_all(model, [prompt] * len(some), single, nothing, slots, batch_tokens, *options))
            answers += [done[j][0] for j in range(len(some))]
        yield k, answers


def _decode_all(
    model: Any,
    prompts: Sequence[EncodedPrompt],
    seeds: Sequence[Sequence[int]],
    questions: Sequence[Sequence[Sequence[int]]],
    num_slots: int,
    batch_tokens: int,
    *options: Any,
) -> Iterator[tuple[int, list[Sampled]]]:
    num_rows = max(1, min(len(prompts), batch_tokens // num_slots))
    decoder = BranchDecoder(model, num_rows, num_slots, max(map(len, seeds)), *options)
    waiting = deque(range(len(prompts)))
    while waiting or len(decoder.state.busy):
        free, share = decoder.state.free, len(decoder.state.free) / len(decoder.state.prompt)
        if waiting and share >= START_SHARE:
            started = [waiting.popleft() for _ in range(min(len(free), len(waiting)))]
            for batch in batches_by_tokens([len(prompts[k].ids) for k in started], batch_tokens):
                some = [started[j] for j in batch]
                asked = [prompts[k] for k in some], [seeds[k] for k in some], [questions[k] for k in some]
                decoder.start(free[batch], some, *asked)
        elif not waiting and share >= DROP_SHARE:
            decoder.drop_free_rows()
        decoder.run_round()
        yield from decoder.finished()


class BranchDecoder:
    """Decodes prompts in `num_rows` rows of `num_slots` slots to begin with, whose branches begin with questions of at most
    `question_tokens` tokens; the rest is as for `sample_branches`.
    """

    def __init__(
        self,
        model: Any,
        num_rows: int,
        num_slots: int,
        num_branches: int,
        decoding: Decoding,
        end_ids: Sequence[int],
        suppressed_ids: Sequence[int],
        separately: bool,
        decode: Callable[[Sequence[int]], str] | None,
        question_tokens: int = 0,
    ) -> None:
        self.model, self.decoding, self.separately, self.decode = model, decoding, separately, decode
        self.device, self.head = model.device, model.get_output_embeddings()
        vocab_size = self.head.weight.shape[0] if decoding.repetition_penalty != 1 else 0
        self.cache = BranchCache(num_rows, num_slots)
        self.num_tokens = question_tokens + decoding.max_new_tokens
        self.state = RowState.empty(num_rows, num_slots, num_branches, self.num_tokens, vocab_size, self.device)
        self.ends, self.suppressed = (
            torch.tensor(list(ids), dtype=torch.int64, device=self.device) for ids in (end_ids, suppressed_ids)
        )
        self.end_ids = frozenset(end_ids)
        self.position_axes: tuple[int, ...] = ()

    def start(
        self,
        rows: NDArray[np.int64],
        indices: Sequence[int],
        prompts: Sequence[EncodedPrompt],
        seeds: Sequence[Sequence[int]],
        questions: Sequence[Sequence[Sequence[int]]],
    ) -> None:
        """Run the prefixes of prompts into free rows, and draw the first token of each of their branches."""
        lengths = np.array([len(prompt.ids) for prompt in prompts])
        longest = int(lengths.max())
        self._reserve(longest)
        # Padding is on the right, where causal attention does not see it; any token but a placeholder will do.
        padded = [[*prompt.ids, *[prompt.ids[-1]] * (longest - len(prompt.ids))] for prompt in prompts]
        ids_BT = torch.tensor(padded, device=self.device)
        images = image_arguments(self.model, stack_images(prompts))
        found = prefix_positions(self.model, [prompt.ids for prompt in prompts], images)
        next_position_B = torch.stack([positions.max() + 1 for positions in found])
        positions = torch.stack([pad(one, (0, longest - one.shape[-1])) for one in found], -2)
        self.position_axes = tuple(positions.shape[:-2])
        rows_B, last_B = (torch.from_numpy(array).to(self.device) for array in (rows, lengths - 1))
        self.cache.place(rows_B, torch.arange(longest, device=self.device).expand_as(ids_BT), view_slots=0)
        hidden_BTD = self._run_prefixes(ids_BT, positions.to(self.device), last_B, images)
        num_branches = self.state.closed.shape[1]
        filled = [[*some, *[0] * (num_branches - len(some))] for some in seeds]
        uniform = uniform_numbers(filled, self.decoding.max_new_tokens)
        self.state.begin(
            rows, np.array(indices), lengths, next_position_B.to(self.device), uniform.to(self.device), ids_BT
        )
        self.state.read(rows, questions)
        self._draw(
            hidden_BTD[torch.arange(len(rows), device=self.device), last_B].repeat_interleave(num_branches, 0),
            rows_B.repeat_interleave(num_branches),
            torch.arange(num_branches, device=self.device).repeat(len(rows)),
        )
        self.state.age[rows] += 1
        self.state.ages[rows_B] += 1

    def _run_prefixes(self, ids_BT: Tensor, positions: Tensor, last_B: Tensor, images: dict[str, Tensor]) -> Tensor:
        """Return hidden states [B, T, D] of prefixes padded on the right, where only padding sees padding."""
        places_BT = torch.arange(ids_BT.shape[1], device=self.device).expand_as(ids_BT)
        if self.separately:
            arguments = stock_arguments(self.model, ids_BT, places_BT <= last_B[:, None])
        else:
            causal = places_BT[:, None, :, None] >= places_BT[:, None, None, :]
            allowed = open_images(self.model, causal, ids_BT, places_BT)
            mask = attention_masks(self.model, allowed, places_BT, places_BT)
            arguments = {"attention_mask": mask, "position_ids": positions}
        hidden_BTD = self.model.base_model(
            input_ids=ids_BT, past_key_values=self.cache, use_cache=True, **arguments, **images
        ).last_hidden_state
        if uses_mrope(self.model):  # what it noted about these prompts must not reach the next ones
            self.model.base_model.rope_deltas = None
        return hidden_BTD

    def run_round(self) -> None:
        """Append a few tokens to every branch that is not known to have ended."""
        state = self.state
        steps = ROUND_STEPS_CPU if self.device.type == "cpu" else ROUND_STEPS
        steps = min(steps, self.num_tokens - int(state.age[state.busy].max()))
        lanes = Lanes.of(state.closed, self.device)
        for _ in range(steps):
            hidden_RD = self._run_tokens(lanes)
            self._draw(hidden_RD, lanes.rows, lanes.branches)
            state.age += 1
            state.ages += 1

    def finished(self) -> Iterator[tuple[int, list[Sampled]]]:
        """Yield index and answers of each prompt whose branches have all ended, and free its row."""
        state = self.state
        was_closed, state.closed = state.closed, state.ended.cpu().numpy().copy()
        if self.decoding.stop:
            self._find_stops(was_closed)
        is_done = state.closed.all(1) | (state.age >= self.num_tokens)
        rows = state.busy[is_done[state.busy]]
        if not len(rows):
            return
        emitted = state.emitted[torch.from_numpy(rows).to(self.device)].tolist()
        for row, of_row in zip(rows, emitted, strict=True):
            answers = (self._answer(row, k, ids) for k, ids in enumerate(of_row[: state.num_branches[row]]))
            cuts = zip(answers, state.stops[row], strict=False)
            yield int(state.prompt[row]), [self._cut(ids, stop) for ids, stop in cuts]
        state.release(rows)

    def _run_tokens(self, lanes: Lanes) -> Tensor:
        """Run the last token of each live branch; hidden states [R, D]."""
        state, (num_rows, width) = self.state, lanes.owner.shape
        more = 1 if self.separately else VIEW_SLOTS
        view = -(-(int(state.used.max()) + width) // more) * more
        self._reserve(view)
        slots_PQ = state.slots[:, None] + lanes.offsets
        order_PQ = (state.length + state.ages - 1)[:, None].expand(-1, width)
        positions_PQ = (state.next_position + state.ages - 1)[:, None].expand(-1, width)
        state.owner.scatter_(1, slots_PQ, lanes.owner)
        state.order.scatter_(1, slots_PQ, order_PQ)
        owner_PS = state.owner[:, :view]
        allowed = (owner_PS == SHARED)[:, None] | (owner_PS[:, None] == lanes.owner[:, :, None])
        ids_PQ = torch.zeros_like(lanes.owner)
        ids_PQ.view(-1)[lanes.places] = state.emitted[lanes.rows, lanes.branches, state.ages[lanes.rows] - 1]
        self.cache.place(torch.arange(num_rows, device=self.device), slots_PQ, view)
        hidden_PQD = self.model.base_model(
            input_ids=ids_PQ,
            position_ids=positions_PQ.expand(*self.position_axes, num_rows, width),
            attention_mask=self._masks(allowed, order_PQ, state.order[:, :view]),
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        state.slots += lanes.num_slots
        state.used += lanes.num_live
        return hidden_PQD.flatten(0, 1)[lanes.places]

    def _masks(self, allowed_PQS: Tensor, order_PQ: Tensor, order_PS: Tensor) -> Any:
        if self.separately:  # one answer to a row, so that what it may see is what is seen of the row
            return allowed_PQS[:, 0].long()
        return attention_masks(self.model, allowed_PQS[:, None], order_PQ, order_PS)

    def _draw(self, hidden_RD: Tensor, rows_R: Tensor, branches_R: Tensor) -> None:
        """Draw the next token of each branch."""
        state, ages_R = self.state, self.state.ages[rows_R]
        logits_RV = self.head(hidden_RD).float()
        if state.seen.numel():
            logits_RV = penalize(logits_RV, state.seen[rows_R, branches_R], self.decoding.repetition_penalty)
        logits_RV[:, self.suppressed] = -torch.inf
        spoken_R = ages_R - state.question_lengths[rows_R, branches_R]
        draws_R = state.uniform[rows_R, branches_R, spoken_R.clamp(0, self.decoding.max_new_tokens - 1)]
        tokens_R = choose_tokens(logits_RV, self.decoding, draws_R)
        if self.num_tokens > self.decoding.max_new_tokens:
            tokens_R = torch.where(spoken_R < 0, state.emitted[rows_R, branches_R, ages_R], tokens_R)
        state.emitted[rows_R, branches_R, ages_R] = tokens_R
        is_last_R = torch.isin(tokens_R, self.ends) & (spoken_R >= 0)
        state.ended[rows_R, branches_R] |= is_last_R | (spoken_R + 1 >= self.decoding.max_new_tokens)
        if state.seen.numel():
            state.seen[rows_R, branches_R, tokens_R] = True

    def _reserve(self, num_slots: int) -> None:
        self.cache.reserve(num_slots)
        self.state.widen(self.cache.num_slots)

    def drop_free_rows(self) -> None:
        """Drop free rows: rows at the end move into them."""
        busy = self.state.busy
        rows = np.arange(len(busy))
        rows[self.state.prompt[: len(busy)] < 0] = busy[busy >= len(busy)]
        self.state.keep_rows(rows)
        self.cache.keep_rows(torch.from_numpy(rows).to(self.device))

    def _answer(self, row: int, branch: int, emitted: list[int]) -> list[int]:
        """Return the ids that a branch has emitted after its question, including the end token and anything after it."""
        begin = self.state.questions[row, branch]
        return emitted[begin : min(self.state.age[row], begin + self.decoding.max_new_tokens)]

    def _cut(self, ids: list[int], stop: int) -> Sampled:
        """What a branch said up to its end, or up to the end of a stop string, which is `stop` tokens if there is one."""
        end = next((n + 1 for n, token in enumerate(ids) if token in self.end_ids), 0)
        length = stop or end
        return Sampled(tuple(ids[:length] if length else ids), finished=bool(length))

    def _find_stops(self, was_closed: NDArray[np.bool_]) -> None:
        """Close branches whose text now contains a stop string."""
        assert self.decode is not None
        state = self.state
        emitted = state.emitted.cpu()
        for row, k in zip(*np.nonzero(~was_closed), strict=True):
            ids = self._cut(self._answer(row, k, emitted[row, k].tolist()), stop=0).token_ids
            if self.decoding.stops(self.decode(ids)):
                state.stops[row, k] = next(n for n in range(len(ids) + 1) if self.decoding.stops(self.decode(ids[:n])))
                state.closed[row, k] = True
                state.ended[row, k] = True
