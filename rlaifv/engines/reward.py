"""A reward model in this process, run on prefix trees: all answers to a prompt are branches of one prefix."""

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor, nn

from rlaifv.engines.local import LocalEngine
from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.models.digests import tensors_digest
from rlaifv.models.reward_head import RewardHead, RewardSpec
from rlaifv.models.tree.packing import Branch, Tree, hidden_states
from rlaifv.records import Prompt

# Ids of an answer, and the places in it that are scored.
Scored = tuple[Sequence[int], Sequence[int]]


class RewardEngine:
    """Scores answers.

    Args:
        engine: runs the backbone.
        head: reads its hidden states.
        spec: what it scores, and whether it reads facts.
    """

    def __init__(self, engine: LocalEngine, head: RewardHead, spec: RewardSpec) -> None:
        self.engine = engine
        self.head = head
        self.spec = spec

    @property
    def modules(self) -> list[nn.Module]:
        """What has to be moved to a device."""
        return [self.engine.model, self.head]

    def digest(self) -> str:
        """Return the digest of all weights."""
        tensors = {
            f"{k}.{name}": t
            for k, module in enumerate(self.modules)
            for name, t in module.state_dict(keep_vars=True).items()
        }
        return tensors_digest(tensors, is_cached=True)

    def scores(
        self, answered: Sequence[tuple[Prompt, Sequence[Scored]]], advance: Advance = ignore_progress
    ) -> list[list[Tensor]]:
        """Score answers at some of their tokens.

        Args:
            answered: prompts, each with its answers: their ids, and the places at which they are scored.
            advance: counts prompts.

        Returns:
            For each prompt and answer float32[places, H], or float32[places, H, C] if classes are scored.

        Raises:
            ValueError: the model reads facts, but a prompt has none.
        """
        return self.engine.within_memory(partial(self._scores, answered, False), advance)

    def values(
        self, answered: Sequence[tuple[Prompt, Sequence[Sequence[int]]]], advance: Advance = ignore_progress
    ) -> list[list[Tensor]]:
        """Return what a critic, whose head has one score, expects before each token of each answer: float32[tokens]."""
        scored = [(prompt, [(ids, range(len(ids))) for ids in some]) for prompt, some in answered]
        found = self.engine.within_memory(partial(self._scores, scored, True), advance)
        return [[values[:, 0] for values in of_prompt] for of_prompt in found]

    def _scores(
        self, answered: Sequence[tuple[Prompt, Sequence[Scored]]], is_before: bool, advance: Advance
    ) -> list[list[Tensor]]:
        engine, asked = self.engine, [self.spec.asked(prompt) for prompt, _ in answered]
        if asked:
            engine.check(next((prompt for prompt in asked if prompt.image_paths), asked[0]))
        trees = [
            Tree(engine.prompter.encode(prompt).ids, tuple(Branch(ids) for ids, _ in some))
            for prompt, (_, some) in zip(asked, answered, strict=True)
        ]
        results: list[list[Tensor]] = []
        with engine.borrowed() as model:
            for batch, packed, images in engine.batches(model, trees, asked):
                places = packed.score_index if is_before else packed.own_index
                found: Any = self.head(hidden_states(model, packed, images, places)).cpu()
                branches = iter(packed.split(found))
                for k in batch:
                    some = answered[k][1]
                    results.append([b[list(at)] for b, (_, at) in zip(islice(branches, len(some)), some, strict=True)])
                advance(len(batch))
        return results
