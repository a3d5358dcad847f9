"""From rollouts to packed trees: all answers to a prompt in a batch share one prefix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlaifv.engines.local import LocalEngine
from rlaifv.models.prompting import stack_images
from rlaifv.models.tree.packing import Branch, PackedTrees, Tree
from rlaifv.records import Prompt, Rollout


class RolloutBatch:
    """One training batch of N answers with S tokens. An ordinary class, so that precision plugins do not round it.

    Attributes:
        trees: the packed prefixes and answers; each answer is one branch.
        images: image arguments of the model's forward.
        old_logps: float32[S], of the policy that sampled the answers, in the order of the branches.
        advantages: float32[N].
        record_ids: of the rollouts.
    """

    __slots__ = ("advantages", "images", "old_logps", "record_ids", "trees")

    def __init__(
        self,
        trees: PackedTrees,
        images: dict[str, Tensor],
        old_logps: Tensor,
        advantages: Tensor,
        record_ids: tuple[str, ...],
    ) -> None:
        self.trees = trees
        self.images = images
        self.old_logps = old_logps
        self.advantages = advantages
        self.record_ids = record_ids

    def to(self, device: torch.device) -> "RolloutBatch":
        return RolloutBatch(
            self.trees.to(device),
            {name: tensor.to(device) for name, tensor in self.images.items()},
            self.old_logps.to(device),
            self.advantages.to(device),
            self.record_ids,
        )


class RolloutCollator:
    """Build batches from (prompt, rollout) items.

    Args:
        policy: engine of the policy. It encodes prompts, and says whether its model is run on trees.
        row_tokens: most tokens of a row that several trees share; a row always has room for the longest tree.
    """

    table = "rollouts"

    def __init__(self, policy: LocalEngine, row_tokens: int = 0) -> None:
        self.policy = policy
        self.row_tokens = row_tokens

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Compare a tree with separate sequences; the run may have been resumed without running the policy yet."""
        self.policy.check(next((prompt for prompt in prompts if prompt.image_paths), prompts[0]))

    @staticmethod
    def check_record(record: Rollout) -> None:
        """Raise ValueError for a rollout without one log-prob per token."""
        if not record.token_ids or len(record.logps) != len(record.token_ids):
            raise ValueError(f"Rollout {record.id!r} does not hold one log-prob for each of its tokens.")

    def __call__(self, items: Sequence[tuple[Prompt, Rollout]]) -> RolloutBatch:
        by_prompt: dict[str, list[Rollout]] = {}
        prompts = {prompt.id: prompt for prompt, _ in items}
        for prompt, rollout in items:
            by_prompt.setdefault(prompt.id, []).append(rollout)
        encoded = [self.policy.prompter.encode(prompts[prompt_id]) for prompt_id in by_prompt]
        packed = self.policy.packer(
            [
                Tree(prefix.ids, [Branch(rollout.token_ids) for rollout in some])
                for prefix, some in zip(encoded, by_prompt.values(), strict=True)
            ],
            self.row_tokens,
        )
        rollouts = [rollout for some in by_prompt.values() for rollout in some]
        return RolloutBatch(
            trees=packed,
            images=stack_images([encoded[k] for k in packed.tree_order]),
            old_logps=torch.tensor([logp for rollout in rollouts for logp in rollout.logps], dtype=torch.float32),
            advantages=torch.tensor([rollout.advantage for rollout in rollouts], dtype=torch.float32),
            record_ids=tuple(rollout.id for rollout in rollouts),
        )
