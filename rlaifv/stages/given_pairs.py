"""Pairs that the data come with, in the place of the loop's own: offline preference training.

The rest is the loop's: the reference's log-probs are computed once, by the policy as it is when an iteration begins, and lie
in the pairs' shards; a manifest says what made them; training and resuming do not know the difference.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rlaifv.data.rows import Row
from rlaifv.data.sources import PromptSource
from rlaifv.loop import FeedbackLoop, cut
from rlaifv.models.prompting import Sizes
from rlaifv.records import Pair, Prompt
from rlaifv.runtime.console import StageBars
from rlaifv.runtime.ranks import rank
from rlaifv.store.manifest import Manifest, TooFewPairs

logger = logging.getLogger(__name__)


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
        """Pairs with the reference's log-probs. Raises TooFewPairs where none can be trained on."""
        prompts = {prompt.id: prompt for shard in shards for prompt in shard}
        rows, identical = self._rows(list(prompts.values()))
        pair_shards = cut(rows, 2 * self.settings.shard_prompts)
        with StageBars(f"iteration {iteration + 1}") as bars, bars.stage("reference", len(rows)) as advance:
            for k in self._mine(manifest, "pairs", len(pair_shards), advance, pair_shards):
                pairs, drops = self._pairs(pair_shards[k])
                advance(len(pair_shards[k]) - len(pairs))
                with_logps = self._with_reference_logps(prompts, pairs, advance)
                manifest.put("pairs", k, with_logps, drops + identical if k == 0 else drops)
        kept: list[Pair] = manifest.records("pairs")
        drops = Counter[str]()
        for shard in manifest.shards("pairs"):
            drops.update(shard.drops if shard else {})
        self._say(iteration, len(kept), drops)
        words = {side: sum(len(getattr(pair, side).split()) for pair in kept) for side in ("chosen", "rejected")}
        return {
            "pairs_kept": float(len(kept)),
            **{f"length/{side}_words": total / max(len(kept), 1) for side, total in words.items()},
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

    def _check_lengths(self, prompts: Sequence[Prompt], sizes: Sizes) -> None:
        """No answer is sampled, so each pair is held against the model's positions when its answers are encoded."""

    def _pairs(self, rows: Sequence[tuple[Prompt, Row]]) -> tuple[list[Pair], Counter[str]]:
        """Encoded pairs; those that the model or its chat template cannot take as they are, are dropped and counted.

        Nothing is ever cut off a pair: neither an answer's end nor a part of an image.
        """
        drops: Counter[str] = Counter()
        pairs = []
        for prompt, row in rows:
            if prompt.history and not self.policy.prompter.template.has_history:
                drops["no_history"] += 1
                continue
            pair = self._pair(prompt, row)
            longest = max(len(pair.chosen_token_ids), len(pair.rejected_token_ids))
            limit = self.policy.max_positions
            if limit is not None and self.policy.num_tokens(prompt) + longest > limit:
                drops["too_long"] += 1
            else:
                pairs.append(pair)
        return pairs, drops

    def _say(self, iteration: int, num_kept: int, drops: Counter[str]) -> None:
        """Log what was dropped and what to do about it; refuse an iteration of which nothing is left."""
        remedies = {
            "too_long": f"too long for the model's {self.policy.max_positions} positions with the images; shorten the texts, "
            "or give fewer or smaller images",
            "no_history": "of several turns, which the model's chat template does not take; give another "
            "chat_template.jinja, or leave them out",
            "identical": "whose answers are equal",
        }
        reasons = [f"{_counted(drops[name])} {remedies[name]}" for name in remedies if drops[name]]
        if not num_kept:
            raise TooFewPairs(f"No pair of iteration {iteration} can be trained on: {'. '.join(reasons)}.")
        if rank() == 0:
            for reason in reasons:
                logger.warning("Dropped from iteration %d: %s.", iteration, reason)

    def _pair(self, prompt: Prompt, row: Row) -> Pair:
        assert row.chosen is not None
        assert row.rejected is not None
        chosen, rejected = (
            self.policy.prompter.completion_ids(prompt, answer.strip()) for answer in (row.chosen, row.rejected)
        )
        pair_id = f"{prompt.id}/{row.id}"
        ids = (pair_id, prompt.id, f"{pair_id}/chosen", f"{pair_id}/rejected")
        return Pair(*ids, row.chosen, row.rejected, chosen, rejected, 0.0, 0.0)


def _counted(number: int) -> str:
    return f"{number} pair{'' if number == 1 else 's'}"
