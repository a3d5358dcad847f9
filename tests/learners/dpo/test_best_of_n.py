"""Scores by hand, who is picked, and that tokens reach both models as they should."""

from collections.abc import Sequence
from typing import Any

import pytest

from rlaifv.engines.local import LocalEngine
from rlaifv.learners.dpo.best_of_n import Candidates, sample_candidates
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding, Sampled
from rlaifv.records import Prompt, Response

PROMPT = Prompt("p", "What is it?", ())


def candidates(*rows: tuple[int, float, float]) -> Candidates:
    """From (tokens, policy log-prob, reference log-prob) of each."""
    responses = tuple(
        Response(f"p/{k}", "p", "word " * row[0], tuple(range(row[0])), True, k) for k, row in enumerate(rows)
    )
    counts, policy, reference = zip(*rows, strict=True)
    return Candidates(PROMPT, responses, counts, policy, reference)


def test_scores_by_hand() -> None:
    """beta 0.5: log ratios 2 and -6 of 4 and 3 tokens."""
    two = candidates((4, -8.0, -10.0), (3, -9.0, -3.0))
    assert two.scores("mean", 0.5) == [0.25, -1.0]
    assert two.scores("sum", 0.5) == [1.0, -3.0]
    assert two.scores("perplexity") == [-2.0, -3.0]
    with pytest.raises(ValueError, match="has to be one of mean, sum, perplexity, but it is 'median'"):
        two.scores("median")  # type: ignore[arg-type]


def test_the_sum_prefers_short_answers_where_the_mean_does_not() -> None:
    """Every token loses a little under the policy: the longer, the worse the sum, while the longest is best per token."""
    three = candidates((10, -22.0, -20.0), (5, -11.0, -10.0), (30, -33.0, -30.0))
    assert three.best("sum") == 1
    assert three.best("mean") == 2


def test_the_best_of_some_is_among_them_and_the_first_of_equals() -> None:
    four = candidates((1, 0.0, -1.0), (1, 0.0, -9.0), (1, 0.0, -2.0), (1, 0.0, -2.0))
    assert four.best() == 1
    assert four.best(among=slice(2, 4)) == 2
    assert four.best(among=slice(0, 1)) == 0


@pytest.fixture
def engine(model: Any, prompter: Prompter) -> LocalEngine:
    return LocalEngine(model, prompter)


def test_candidates_are_scored_as_they_were_drawn(engine: LocalEngine, prompts: list[Prompt]) -> None:
    found = sample_candidates(prompts[:2], engine, engine, engine, Decoding(max_new_tokens=8), 3, seed=5)
    assert [one.prompt for one in found] == prompts[:2]
    for one in found:
        assert one.policy_logps == one.reference_logps
        assert one.num_tokens == tuple(len(response.token_ids) for response in one.responses)
        alone = [engine.completion_logps([(one.prompt, [response.token_ids])])[0][0] for response in one.responses]
        assert one.policy_logps == pytest.approx([sum(logps) for logps in alone], abs=1e-4)


class Says:
    """Draws given texts; it has tokens of its own, which mean nothing to the scorers."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def sample(self, prompts: Sequence[Prompt], seeds: Any, *_: Any) -> list[list[Sampled]]:
        return [[Sampled((k,), True) for k in range(len(some))] for some in seeds]

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.texts[token_ids[0]]


def test_answers_of_another_model_are_read_as_text(engine: LocalEngine, prompts: list[Prompt]) -> None:
    says = Says("There is a red circle.", "  ", "A star.")
    (found,) = sample_candidates(prompts[:1], says, engine, engine, Decoding(), 3, seed=0)
    assert [response.text for response in found.responses] == ["There is a red circle.", "A star."]
    expected = [engine.prompter.completion_ids(prompts[0], response.text) for response in found.responses]
    assert found.num_tokens == tuple(map(len, expected))
    logps = engine.completion_logps([(prompts[0], expected)])[0]
    assert found.policy_logps == pytest.approx([sum(some) for some in logps], abs=1e-5)


def test_a_prompt_without_any_text_is_named(engine: LocalEngine, prompts: list[Prompt]) -> None:
    with pytest.raises(ValueError, match=f"None of the 2 answers to prompt '{prompts[0].id}' has any text"):
        sample_candidates(prompts[:1], Says("", " "), engine, engine, Decoding(), 2, seed=0)
