"""A committed iteration's pairs as a map-style data set, and the order in which an epoch reads them."""

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Dataset, Sampler

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


class PairBatchSampler(Sampler[list[int]]):
    """Batches of a fixed number of pairs in a seeded order that keeps the pairs of a prompt together.

    Ranks take every n-th batch of the same order; batches that would leave some ranks with fewer than others are dropped,
    so at most `world_size` - 1 of them, and none on one rank.

    Args:
        prompt_ids: the prompt of each pair, in data set order.
        batch_size: pairs per batch and rank; the last batch may be smaller.
        seed: of the order; differs between epochs.
        num_done: batches of this rank that were read before, by a run that is resumed; they count, but are not read again.

    Raises:
        ValueError: fewer batches than ranks; a trainer would take a loader without batches for the end of the run.
    """

    def __init__(
        self,
        prompt_ids: Sequence[str],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        num_done: int = 0,
    ) -> None:
        groups: dict[str, list[int]] = {}
        for index, prompt_id in enumerate(prompt_ids):
            groups.setdefault(prompt_id, []).append(index)
        order = list(groups.values())
        random.Random(seed).shuffle(order)
        flat = [index for group in order for index in group]
        batches = [flat[k : k + batch_size] for k in range(0, len(flat), batch_size)]
        if len(batches) < world_size:
            raise ValueError(
                f"{len(batches)} batches cannot be shared out among {world_size} processes; lower learner.batch_size="
                f"{batch_size}, make more pairs, or run fewer processes."
            )
        even = len(batches) - len(batches) % world_size if world_size > 1 else len(batches)
        self.batches = batches[rank:even:world_size]
        self.num_done = num_done

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches[self.num_done :])
