"""The first stage: take an iteration's prompts from a source, without those whose images cannot be read."""

from rlaifv.data.sources import PromptSource, check_images_of
from rlaifv.engines.local import LocalEngine
from rlaifv.records import Prompt
from rlaifv.stages.stage import ITERATION, Made, Stage, Task


class TakePrompts(Stage):
    """Take prompts from a source.

    Args:
        source: where prompts come from.
        policy: engine whose model must have room for a prompt and an answer.
        num_prompts: prompts per iteration; None leaves the number to the source.
        max_drop_rate: largest share of prompts with unreadable images.
        max_new_tokens: longest answer that will be sampled; None if no answers are sampled.
    """

    name = "prompts"
    writes = "prompts"
    unit = ITERATION

    def __init__(
        self,
        source: PromptSource,
        policy: LocalEngine,
        num_prompts: int | None,
        max_drop_rate: float,
        max_new_tokens: int | None = None,
    ) -> None:
        self.source = source
        self.policy = policy
        self.num_prompts = num_prompts
        self.max_drop_rate = max_drop_rate
        self.max_new_tokens = max_new_tokens
        self._wanted: list[Prompt] = []

    def open(self, iteration: int) -> None:
        """Ask the source, which also restores drawn or unpacked images that were lost since."""
        self._wanted = self.source.prompts(iteration, self.num_prompts)

    def producer(self) -> dict[str, str]:
        return {"prompts": f"num_prompts={self.num_prompts}, max_drop_rate={self.max_drop_rate}"}

    def __call__(self, task: Task) -> Made:
        """Return the prompts with readable images.

        Raises:
            ValueError: a prompt leaves no room for the longest answer, or too many images are unreadable.
        """
        good, drops, sizes = check_images_of(self.source, self._wanted)
        if self.max_new_tokens is not None:
            self.policy.check_lengths(good, self.max_new_tokens, sizes)
        num_wanted, num_dropped = len(self._wanted), len(self._wanted) - len(good)
        if num_dropped > self.max_drop_rate * num_wanted:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in drops.most_common())
            raise ValueError(
                f"{num_dropped} of the {num_wanted} prompts of iteration {task.iteration} have unreadable images "
                f"({reasons}), more than iteration.max_drop_rate={self.max_drop_rate} allows."
            )
        return Made(good, drops)
