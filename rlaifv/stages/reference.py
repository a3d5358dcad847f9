"""Preferences in, trainable pairs out: token ids, and the reference's log-prob of every token."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from rlaifv.engines.local import LocalEngine
from rlaifv.engines.protocol import Advance
from rlaifv.models.digests import weights_digest
from rlaifv.records import Pair, Prompt
from rlaifv.stages.stage import Made, Stage, Task


class ReferenceLogps(Stage):
    """Compute the reference's log-probs; the reference is the policy as it is now.

    Preferences that the data came with are texts and are encoded first. Those that the model or its chat template cannot take
    are dropped: `too_long` for the model's positions, `no_history` for several turns that the template does not take.
    Nothing is ever cut off, neither the end of an answer nor a part of an image.
    """

    name = "reference"
    reads = ("prompts", "preferences")
    writes = "pairs"
    unit = "preferences"
    shard_factor = 2

    def __init__(self, policy: LocalEngine) -> None:
        self.policy = policy

    def producer(self) -> dict[str, str]:
        return {"policy": weights_digest(self.policy.model, is_cached=True)}

    def __call__(self, task: Task, prompts: Sequence[Prompt], preferences: Sequence[Pair]) -> Made:
        by_id = {prompt.id: prompt for prompt in prompts}
        drops: Counter[str] = Counter()
        pairs = []
        for preference in preferences:
            pair, reason = encode_pair(self.policy, by_id[preference.prompt_id], preference)
            if reason:
                drops[reason] += 1
            else:
                pairs.append(pair)
        task.advance(len(preferences) - len(pairs))
        return Made(self._with_logps(by_id, pairs, task.advance), drops)

    def _with_logps(self, prompts: dict[str, Prompt], pairs: Sequence[Pair], advance: Advance) -> list[Pair]:
        """Run all answers to a prompt as branches of one prefix, each once, however many pairs it is in."""
        answers: dict[str, dict[tuple[int, ...], None]] = {}
        for pair in pairs:
            answers.setdefault(pair.prompt_id, {}).update(
                dict.fromkeys((pair.chosen_token_ids, pair.rejected_token_ids))
            )
        counts = Counter(pair.prompt_id for pair in pairs)
        num_pairs = (counts[prompt_id] for prompt_id in answers)
        logps = self.policy.completion_logps(
            [(prompts[prompt_id], list(some)) for prompt_id, some in answers.items()],
            lambda num_finished: advance(sum(islice(num_pairs, num_finished))),
        )
        found = {
            (prompt_id, ids): tuple(values)
            for (prompt_id, some), of_prompt in zip(answers.items(), logps, strict=True)
            for ids, values in zip(some, of_prompt, strict=True)
        }
        num_tokens = {prompt_id: self.policy.num_tokens(prompts[prompt_id]) for prompt_id in answers}
        return [
            replace(
                pair,
                chosen_reference_logps=found[pair.prompt_id, pair.chosen_token_ids],
                rejected_reference_logps=found[pair.prompt_id, pair.rejected_token_ids],
                prompt_tokens=num_tokens[pair.prompt_id],
            )
            for pair in pairs
        ]


def encode_pair(policy: LocalEngine, prompt: Prompt, pair: Pair) -> tuple[Pair, str]:
    """Encode the answers that have no token ids yet.

    Returns:
        The pair, and why it cannot be used, if so: `no_history` or `too_long`.
    """
    if pair.chosen_token_ids and pair.rejected_token_ids:
        return pair, ""
    prompter, limit = policy.prompter, policy.max_positions
    if prompt.history and not prompter.template.has_history:
        return pair, "no_history"
    chosen = pair.chosen_token_ids or prompter.completion_ids(prompt, pair.chosen.strip())
    rejected = pair.rejected_token_ids or prompter.completion_ids(prompt, pair.rejected.strip())
    longest = max(len(chosen), len(rejected))
    is_too_long = limit is not None and policy.num_tokens(prompt) + longest > limit
    return replace(pair, chosen_token_ids=chosen, rejected_token_ids=rejected), "too_long" if is_too_long else ""
