"""Token ids, and the reference's log-prob of every token, for preferences and for labelled answers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from rlaifv.engines.local import LocalEngine
from rlaifv.engines.protocol import Advance
from rlaifv.models.digests import weights_digest
from rlaifv.records import LabelledAnswer, Pair, Prompt
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


class AnswerReferenceLogps(Stage):
    """Compute the reference's log-probs of labelled answers and of the mismatched answer after each prompt.

    A mismatched answer for which the model has no room after the prompt is left out.
    """

    name = "reference"
    reads = ("prompts", "labelled")
    writes = "labelled_answers"
    unit = "labelled"
    shard_factor = 2

    def __init__(self, policy: LocalEngine) -> None:
        self.policy = policy

    def producer(self) -> dict[str, str]:
        return {"policy": weights_digest(self.policy.model, is_cached=True)}

    def __call__(self, task: Task, prompts: Sequence[Prompt], labelled: Sequence[LabelledAnswer]) -> Made:
        """Return the answers with log-probs. A prompt's answers and the mismatched one are branches of one prefix."""
        by_id = {prompt.id: prompt for prompt in prompts}
        groups: dict[str, list[LabelledAnswer]] = {}
        for answer in labelled:
            groups.setdefault(answer.prompt_id, []).append(answer)
        num_tokens = {name: self.policy.num_tokens(by_id[name]) for name in groups}
        others = {name: self._fitting(num_tokens[name], group[0]) for name, group in groups.items()}
        answered = [
            (by_id[name], [one.token_ids for one in group] + [others[name]] * bool(others[name]))
            for name, group in groups.items()
        ]
        sizes = map(len, groups.values())
        logps = self.policy.completion_logps(
            answered, lambda num_finished: task.advance(sum(islice(sizes, num_finished)))
        )
        made = []
        for (name, group), values in zip(groups.items(), logps, strict=True):
            other = others[name]
            of_other = tuple(values[-1]) if other else ()
            made += [
                replace(
                    answer,
                    mismatched_token_ids=other,
                    reference_logps=tuple(of_answer),
                    mismatched_reference_logps=of_other,
                    prompt_tokens=num_tokens[name] + len(other),
                )
                for answer, of_answer in zip(
                    group, values, strict=False
                )  # the last values may be the mismatched answer's
            ]
        return Made(made)

    def _fitting(self, num_tokens: int, answer: LabelledAnswer) -> tuple[int, ...]:
        """Return the mismatched answer, or nothing if the model has no room for it after a prompt of so many tokens."""
        limit = self.policy.max_positions
        is_too_long = limit is not None and num_tokens + len(answer.mismatched_token_ids) > limit
        return () if is_too_long else answer.mismatched_token_ids


def encode_pair(policy: LocalEngine, prompt: Prompt, pair: Pair) -> tuple[Pair, str]:
    """Encode the answers that have no token ids yet.

    Returns:
        The pair, and why it cannot be used, if so: `no_history` or `too_long`.
    """
    sides = (pair.chosen, pair.chosen_token_ids), (pair.rejected, pair.rejected_token_ids)
    (chosen, not_chosen), (rejected, not_rejected) = (
        (ids, "") if ids else encode_answer(policy, prompt, text) for text, ids in sides
    )
    return replace(pair, chosen_token_ids=chosen, rejected_token_ids=rejected), not_chosen or not_rejected


def encode_answer(policy: LocalEngine, prompt: Prompt, text: str) -> tuple[tuple[int, ...], str]:
    """Return the token ids of an answer, and why it cannot be used, if so: `no_history` or `too_long`."""
    if prompt.history and not policy.prompter.template.has_history:
        return (), "no_history"
    ids, limit = policy.prompter.completion_ids(prompt, text.strip()), policy.max_positions
    return ids, "too_long" if limit is not None and policy.num_tokens(prompt) + len(ids) > limit else ""
