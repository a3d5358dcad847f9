"""The interface of observers, which watch the loop and change none of its records."""

from rlaifv.stages.stage import Stage
from rlaifv.store.iteration import Iteration


class Observer:
    """Hooks of the loop, called on every rank unless a hook says otherwise. They do nothing by default."""

    def on_start(self, work: Iteration) -> None:
        """The prompts are stored; no other stage has begun."""

    def on_shard(self, work: Iteration, stage: Stage, shard: int) -> None:
        """A stage has made a shard, which is stored next. Called on the rank that made it."""

    def statistics(self, work: Iteration) -> dict[str, float]:
        """Return figures for statistics.json. All stages are done, and nothing is committed. Called on the first rank.

        Raises:
            ValueError: the iteration cannot be trained on; it is not committed.
        """
        return {}
