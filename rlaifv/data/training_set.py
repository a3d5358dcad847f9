"""A committed iteration's pairs as a map-style data set, and the order in which an epoch reads them."""

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Dataset, Sampler

from rlaifv.models.tree.packing import batches_by_tokens
from rlaifv.records import Pair, Prompt


class PreferenceDataset(Dataset[tuple[Prompt, Pair]]):
    """Pairs with their prompts.

    Raises:
        ValueError: a pair without one reference log-prob per token, or of a prompt that is not there.
    """

    def __init__(self, prompts: Sequence[Prompt], pairs: Sequence[Pair]) -> None:
        self.prompts = {prompt.id: prompt for prompt in prompts}
        self.pairs = list(pairs)
        for pair in self.pairs:
            if pair.prompt_id not in self.prompts:
                raise ValueError(f"Pair {pair.id!r} belongs to prompt {pair.prompt_id!r}, which the iteration lacks.")
            counts = len(pair.chosen_reference_logps), len(pair.rejected_reference_logps)
            if counts != (len(pair.chosen_token_ids), len(pair.rejected_token_ids)) or 0 in counts:
                raise ValueError(f"Pair {pair.id!r} does not hold one reference log-prob for each of its tokens.")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Prompt, Pair]:
        pair = self.pairs[index]
        return self.prompts[pair.prompt_id], pair


# Prompts that are sorted by length among themselves; more would mix less, fewer would pad more.
WINDOW_PROMPTS = 512


class PairBatchSampler(Sampler[list[int]]):
    """Batches of pairs in a seeded order that keeps the pairs of a prompt together.

    A batch has a fixed number of pairs, or as many as fit a number of tokens; those are of prompts of similar length, so that
    little of it is padding. Ranks take every n-th batch of the same order; batches that would leave some ranks with fewer
    than others are dropped, so at most `world_size` - 1 of them, and none on one rank.

    Args:
        pairs: in data set order; their `prompt_tokens` matter where `batch_tokens` is given.
        batch_size: pairs per batch and rank; the last batch may be smaller.
        seed: of the order; differs between epochs.
        batch_tokens: instead of `batch_size`, bound of the tokens of a batch, padding included, which one pair may exceed;
            0 is none.
        num_done: batches of this rank that were read before, by a run that is resumed; they count, but are not read again.

    Raises:
        ValueError: fewer batches than ranks; a trainer would take a loader without batches for the end of the run.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        batch_tokens: int = 0,
        num_done: int = 0,
    ) -> None:
        groups: dict[str, list[int]] = {}
        for index, pair in enumerate(pairs):
            groups.setdefault(pair.prompt_id, []).append(index)
        order = list(groups.values())
        rng = random.Random(seed)
        rng.shuffle(order)
        if batch_tokens:
            batches = _batches_by_tokens(pairs, order, batch_tokens, rng, world_size)
        else:
            flat = [index for group in order for index in group]
            batches = [flat[k : k + batch_size] for k in range(0, len(flat), batch_size)]
        if len(batches) < world_size:
            bound = f"learner.batch_tokens={batch_tokens}" if batch_tokens else f"learner.batch_size={batch_size}"
            raise ValueError(
                f"{len(batches)} batches cannot be shared out among {world_size} processes; lower {bound}, make more pairs, "
                "or run fewer processes."
            )
        even = len(batches) - len(batches) % world_size if world_size > 1 else len(batches)
        self.batches = batches[rank:even:world_size]
        self.num_done = num_done

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches[self.num_done :])


def _batches_by_tokens(
    pairs: Sequence[Pair], groups: Sequence[list[int]], max_tokens: int, rng: random.Random, world_size: int
) -> list[list[int]]:
    """Batches of trees of similar size, in a random order; batches that ranks run at the same time are neighbours in size."""
    trees = [tree for group in groups for tree in _trees(pairs, group, max_tokens)]
    batches: list[list[int]] = []
    for start in range(0, len(trees), WINDOW_PROMPTS):
        window = sorted(trees[start : start + WINDOW_PROMPTS], key=lambda tree: -tree[0])
        for some in batches_by_tokens([size for size, _ in window], max_tokens):
            batches.append([index for k in some for index in window[k][1]])
    steps = [batches[k : k + world_size] for k in range(0, len(batches), world_size)]
    whole = [step for step in steps if len(step) == world_size]
    rng.shuffle(whole)
    rest = [step for step in steps if len(step) < world_size]
    return [batch for step in whole + rest for batch in step]


def _trees(pairs: Sequence[Pair], group: Sequence[int], max_tokens: int) -> Iterator[tuple[int, list[int]]]:
    """A prompt's pairs in trees of at most `max_tokens`, one pair at least, with their sizes."""
    size, some = 0, list[int]()
    for index in group:
        answers = len(pairs[index].chosen_token_ids) + len(pairs[index].rejected_token_ids)
        if some and size + answers > max_tokens:
            yield size, some
            some = []
        size = size + answers if some else pairs[index].prompt_tokens + answers
        some.append(index)
    yield size, some
