"""Best of N: sample answers to a prompt, and keep the one that alignment has raised most (RLAIF-V, section 3.4).

DPO leaves its reward in the two models (arXiv 2305.18290, section 4): r(y) = beta * log(policy(y|x) / reference(y|x)). All
candidates for a prompt hang from one prefix in each model. Shapes: N candidates of a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from rlaifv.engines.protocol import Advance, Sampler, ignore_progress
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding
from rlaifv.records import Prompt, Response
from rlaifv.stages.generate import generate

Form = Literal["mean", "sum", "perplexity"]


class Scorer(Protocol):
    """A model that says how likely given answers are."""

    prompter: Prompter

    def completion_logps(
        self, completions: Sequence[tuple[Prompt, Sequence[Sequence[int]]]], advance: Advance = ignore_progress
    ) -> list[list[list[float]]]:
        """Return the log-prob of every token of every completion of each prompt."""
        ...


@dataclass(frozen=True, slots=True)
class Candidates:
    """Answers to one prompt with what both models think of them.

    policy_logps, reference_logps: summed over the tokens of each answer, of which there are `num_tokens`
    """

    prompt: Prompt
    responses: tuple[Response, ...]
    num_tokens: tuple[int, ...]
    policy_logps: tuple[float, ...]
    reference_logps: tuple[float, ...]

    def scores(self, form: Form = "mean", beta: float = 0.1) -> list[float]:
        """Return one score per candidate, the highest is the best.

        mean         beta / T * log(policy / reference) of T tokens, the paper's
        sum          the same without the division by T, which prefers short answers
        perplexity   log(policy) / T, which needs no reference

        Raises:
            ValueError: an unknown form.
        """
        if form not in get_args(Form):
            raise ValueError(f"The form of the score has to be one of {', '.join(get_args(Form))}, but it is {form!r}.")
        rows = zip(self.num_tokens, self.policy_logps, self.reference_logps, strict=True)
        if form == "perplexity":
            return [policy / count for count, policy, _ in rows]
        return [beta * (policy - reference) / (count if form == "mean" else 1) for count, policy, reference in rows]

    def best(self, form: Form = "mean", among: slice = slice(None)) -> int:
        """Return the index of the best of some candidates, the first of equals."""
        scores = self.scores(form)
        return max(range(len(scores))[among], key=lambda k: scores[k])


def sample_candidates(
    prompts: Sequence[Prompt],
    source: Sampler,
    policy: Scorer,
    reference: Scorer,
    decoding: Decoding,
    num_candidates: int,
    seed: int,
    advance: Advance = ignore_progress,
) -> list[Candidates]:
    """Draw N answers per prompt from `source`, which may be any model, and score them with the aligned and the base model.

    Answers without text take no part; a prompt that has no others raises a ValueError.
    """
    drawn: dict[str, list[Response]] = {prompt.id: [] for prompt in prompts}
    for response in generate(prompts, source, decoding, num_candidates, seed, advance):
        if response.text.strip():
            drawn[response.prompt_id].append(response)
    if empty := [prompt_id for prompt_id, some in drawn.items() if not some]:
        raise ValueError(f"None of the {num_candidates} answers to prompt {empty[0]!r} has any text.")
    of_policy = _token_ids(policy, source, prompts, drawn)
    policy_logps = policy.completion_logps(of_policy)
    reference_logps = reference.completion_logps(_token_ids(reference, source, prompts, drawn))
    return [
        Candidates(
            prompt,
            tuple(drawn[prompt.id]),
            tuple(len(ids) for ids in of_policy[k][1]),
            tuple(map(sum, policy_logps[k])),
            tuple(map(sum, reference_logps[k])),
        )
        for k, prompt in enumerate(prompts)
    ]


def _token_ids(
    scorer: Scorer, source: Sampler, prompts: Sequence[Prompt], drawn: dict[str, list[Response]]
) -> list[tuple[Prompt, list[tuple[int, ...]]]]:
    """Return answers as the scorer reads them: the very tokens that were drawn where it has the same ones, else their text."""
    own = getattr(source, "prompter", None)
    is_same = own is not None and own.tokenizer.get_vocab() == scorer.prompter.tokenizer.get_vocab()
    return [
        (
            prompt,
            [
                response.token_ids if is_same else scorer.prompter.completion_ids(prompt, response.text)
                for response in drawn[prompt.id]
            ],
        )
        for prompt in prompts
    ]
