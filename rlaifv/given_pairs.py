"""Pairs that the data come with, in the place of the loop's own: offline preference training.

The rest is the loop's: the reference's log-probs are computed once, by the policy as it is when an iteration begins, and lie
in the pairs' shards; a manifest says what made them; training and resuming do not know the difference.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rlaifv.data.rows import Row
from rlaifv.data.sources import PromptSource
from rlaifv.loop import FeedbackLoop, cut
from rlaifv.records import Pair, Prompt
from rlaifv.runtime import StageBars
from rlaifv.store.manifest import Manifest


@runtime_checkable
class PairSource(PromptSource, Protocol):
    """A source whose prompts come with answers. `digest` changes with anything that a pair is made of."""

    digest: str

    def answers(self, prompt: Prompt) -> list[Row]:
        """The preferences of one of its prompts."""


@dataclass
class GivenPairs(FeedbackLoop):
    """Each iteration takes fresh prompts of a `PairSource`, and all pairs of each; nothing is sampled or judged.

    Nobody counted rejected claims, so both scores of a pair are 0.
    """

    def _make(self, iteration: int, manifest: Manifest, shards: Sequence[Sequence[Prompt]]) -> dict[str, float]:
        """Pairs with the reference's log-probs. Raises ValueError where a prompt with an answer is too long for the model."""
        prompts = {prompt.id: prompt for shard in shards for prompt in shard}
        rows, drops = self._rows(list(prompts.values()))
        pair_shards = cut(rows, 2 * self.settings.shard_prompts)
        with StageBars(f"iteration {iteration + 1}") as bars, bars.stage("reference", len(rows)) as advance:
            for k in self._mine(manifest, "pairs", len(pair_shards), advance, pair_shards):
                pairs = [self._pair(prompt, row) for prompt, row in pair_shards[k]]
                with_logps = self._with_reference_logps(prompts, pairs, advance)
                manifest.put("pairs", k, with_logps, drops if k == 0 else {})
        words = {side: sum(len(getattr(row, side).split()) for _, row in rows) for side in ("chosen", "rejected")}
        return {
            "pairs_kept": float(len(rows)),
            **{f"length/{side}_words": total / max(len(rows), 1) for side, total in words.items()},
            **{f"dropped/{reason}": float(count) for reason, count in drops.items()},
            "seconds/reference": bars.seconds["reference"],
        }

    def _producer(self) -> dict[str, str]:
        assert isinstance(self.source, PairSource)
        return {**super()._producer(), "data": self.source.digest}

    def _rows(self, prompts: list[Prompt]) -> tuple[list[tuple[Prompt, Row]], Counter[str]]:
        """Preferences between different answers."""
        assert isinstance(self.source, PairSource)
        drops: Counter[str] = Counter()
        kept = []
        for prompt in prompts:
            for row in self.source.answers(prompt):
                if (row.chosen or "").strip() == (row.rejected or "").strip():
                    drops["identical"] += 1
                else:
                    kept.append((prompt, row))
        return kept, drops

    def _pair(self, prompt: Prompt, row: Row) -> Pair:
        assert row.chosen is not None
        assert row.rejected is not None
        chosen, rejected = (
            self.policy.prompter.completion_ids(prompt, answer.strip()) for answer in (row.chosen, row.rejected)
        )
        self.policy.check_lengths([prompt], max(len(chosen), len(rejected)))
        pair_id = f"{prompt.id}/{row.id}"
        ids = (pair_id, prompt.id, f"{pair_id}/chosen", f"{pair_id}/rejected")
        return Pair(*ids, row.chosen, row.rejected, chosen, rejected, 0.0, 0.0)
