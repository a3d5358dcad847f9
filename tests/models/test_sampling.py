"""Sampling against transformers' own: greedy text token by token, filters, frequencies, and a twin without a cache."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from rlaifv.models import sampling as sampling_module
from rlaifv.models.prompting import EncodedPrompt, Prompter, stack_images
from rlaifv.models.sampling import Decoding, Sampled, choose_tokens, filter_logits, sample_branches
from rlaifv.records import Prompt
from rlaifv.worlds.shapes_model import build_model

GREEDY = Decoding(temperature=0, max_new_tokens=16)
ENDS = tuple(range(3, 129, 12))  # many, so that answers end early and at different lengths
SUPPRESSED = (0, 1, 2, 4)


@pytest.fixture(scope="module")
def sharp(processor: Any) -> Any:
    """A small LLaVA with weights so large that its next tokens depend on all that came before."""
    torch.manual_seed(0)
    model = build_model(processor.tokenizer, hidden_size=64, num_layers=2, vision_layers=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    return model


@pytest.fixture(scope="module")
def encoded(processor: Any, prompts: list[Prompt]) -> list[EncodedPrompt]:
    prompter = Prompter(processor)
    questions = (
        "What is it?",
        "What is in the image? Describe the picture in detail.",
        "Describe the image in detail.",
        "?",
    )
    return [
        prompter.encode(Prompt(prompt.id, question, prompt.image_paths))
        for prompt, question in zip(prompts, questions, strict=False)
    ]


def draw(
    model: Any,
    encoded: Sequence[EncodedPrompt],
    seeds: Sequence[Sequence[int]],
    decoding: Decoding,
    ends: Sequence[int] = ENDS,
    suppressed: Sequence[int] = SUPPRESSED,
) -> list[list[Sampled]]:
    return sample_branches(
        model, [one.ids for one in encoded], stack_images(encoded), seeds, decoding, ends, suppressed_ids=suppressed
    )


@torch.no_grad()
def draw_slowly(model: Any, prompt: EncodedPrompt, seed: int, decoding: Decoding) -> Sampled:
    """The twin: no cache, no batch, no padding; the whole sequence is run again for every token."""
    uniform = torch.from_numpy(np.random.Generator(np.random.Philox(seed)).random(decoding.max_new_tokens))
    ids: list[int] = []
    for step in range(decoding.max_new_tokens):
        logits = model(input_ids=torch.tensor([[*prompt.ids, *ids]]), **prompt.images).logits[:, -1]
        logits[:, list(SUPPRESSED)] = -torch.inf
        ids.append(int(choose_tokens(logits, decoding, uniform[step : step + 1])))
        if ids[-1] in ENDS:
            break
    return Sampled(tuple(ids), ids[-1] in ENDS)


@pytest.mark.parametrize("ends", [ENDS, (3,)])
def test_greedy_equals_generate(sharp: Any, encoded: list[EncodedPrompt], ends: tuple[int, ...]) -> None:
    """Prompts of four lengths in one batch, against `generate` on each of them alone."""
    assert len({len(one.ids) for one in encoded}) == 4
    answers = draw(sharp, encoded, [[0]] * 4, GREEDY, ends)
    for one, (answer,) in zip(encoded, answers, strict=True):
        generated = sharp.generate(
            input_ids=torch.tensor([one.ids]),
            attention_mask=torch.ones(1, len(one.ids), dtype=torch.int64),
            **one.images,
            do_sample=False,
            max_new_tokens=GREEDY.max_new_tokens,
            eos_token_id=list(ends),
            pad_token_id=0,
            suppress_tokens=list(SUPPRESSED),
        )
        assert answer.token_ids == tuple(generated[0, len(one.ids) :].tolist())
        assert answer.finished == (answer.token_ids[-1] in ends)
    lengths = {len(answer.token_ids) for (answer,) in answers}
    assert len(lengths) > 1 if ends == ENDS else lengths == {GREEDY.max_new_tokens}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "decoding", [Decoding(max_new_tokens=12), Decoding(temperature=0.7, top_p=0.9, top_k=20, max_new_tokens=12)]
)
def test_sampled_text_equals_the_twin(
    sharp: Any, encoded: list[EncodedPrompt], decoding: Decoding, attention: str
) -> None:
    seeds = [[10 * p + k for k in range(4)] for p in range(4)]
    sharp.set_attn_implementation(attention)
    try:
        answers = draw(sharp, encoded, seeds, decoding)
        expected = [
            [draw_slowly(sharp, one, seed, decoding) for seed in some] for one, some in zip(encoded, seeds, strict=True)
        ]
    finally:
        sharp.set_attn_implementation("sdpa")
    assert answers == expected
    assert len({answer.token_ids for some in answers for answer in some}) > 8
    assert {answer.finished for some in answers for answer in some} == {True, False}


def test_an_answer_depends_on_its_prompt_and_seed_alone(sharp: Any, encoded: list[EncodedPrompt]) -> None:
    decoding = Decoding(max_new_tokens=12)
    seeds = [[10 * p + k for k in range(3)] for p in range(4)]
    together = draw(sharp, encoded, seeds, decoding)
    alone = [[draw(sharp, [encoded[p]], [[seed]], decoding)[0][0] for seed in seeds[p]] for p in range(4)]
    backwards = draw(sharp, encoded[::-1], [some[::-1] for some in seeds[::-1]], decoding)
    assert together == alone
    assert [some[::-1] for some in backwards[::-1]] == together
    assert draw(sharp, encoded[:1], [[7, 7]], decoding)[0][0] == draw(sharp, encoded[:1], [[7, 8]], decoding)[0][0]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_dropping_ended_rows_changes_nothing(
    sharp: Any, encoded: list[EncodedPrompt], monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    decoding = Decoding(max_new_tokens=20)
    seeds = [[10 * p + k for k in range(5)] for p in range(4)]
    monkeypatch.setattr(sampling_module, "COMPACT_SHARE", 2.0)
    kept = draw(sharp, encoded, seeds, decoding)
    monkeypatch.setattr(sampling_module, "COMPACT_SHARE", share)
    assert draw(sharp, encoded, seeds, decoding) == kept
    assert len({len(answer.token_ids) for some in kept for answer in some}) > 5


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(max_new_tokens=1),
        Decoding(temperature=0.5, max_new_tokens=1),
        Decoding(temperature=1.5, top_k=12, max_new_tokens=1),
        Decoding(top_p=0.6, max_new_tokens=1),
    ],
)
def test_frequencies_follow_the_distribution(sharp: Any, encoded: list[EncodedPrompt], decoding: Decoding) -> None:
    """Pearson's statistic over 4,000 seeds; its mean is the degrees of freedom d, its deviation the root of 2 d."""
    num_seeds = 4000
    (drawn,) = draw(sharp, encoded[:1], [range(num_seeds)], decoding)
    counts = torch.bincount(torch.tensor([answer.token_ids[0] for answer in drawn]), minlength=129).double()
    with torch.no_grad():
        logits = sharp(input_ids=torch.tensor([encoded[0].ids]), **encoded[0].images).logits[0, -1]
    logits[list(SUPPRESSED)] = -torch.inf
    expected = num_seeds * by_transformers(logits[None], decoding)[0].double()
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    observed, expected = observed[expected > 0], expected[expected > 0]
    statistic, freedom = ((observed - expected) ** 2 / expected).sum().item(), len(expected) - 1
    assert freedom >= 4
    assert abs(statistic - freedom) < 4 * (2 * freedom) ** 0.5


def by_transformers(logits: torch.Tensor, decoding: Decoding) -> torch.Tensor:
    """Probabilities after transformers' own warpers, in the order in which `generate` applies them."""
    ids = torch.zeros(len(logits), 1, dtype=torch.int64)
    logits = TemperatureLogitsWarper(decoding.temperature)(ids, logits)
    if decoding.top_k:
        logits = TopKLogitsWarper(decoding.top_k)(ids, logits)
    if decoding.top_p < 1:
        logits = TopPLogitsWarper(decoding.top_p)(ids, logits)
    return logits.softmax(1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 7, 500])
@pytest.mark.parametrize("top_p", [0.05, 0.6, 0.95, 1.0])
def test_filters_agree_with_transformers(temperature: float, top_k: int, top_p: float) -> None:
    logits = 3 * torch.randn(100, 50, generator=torch.Generator().manual_seed(0))
    logits[:, 5] = -torch.inf
    decoding = Decoding(temperature, top_p, top_k)
    probs = filter_logits(logits, decoding)
    torch.testing.assert_close(probs, by_transformers(logits, decoding), rtol=1e-5, atol=1e-7)
    assert not probs[:, 5].any()


def test_tokens_are_chosen_where_the_cumulative_distribution_passes() -> None:
    """Probabilities 1/2, 0, 1/4, 1/4: sums 0.5, 0.5, 0.75, 1."""
    logits = torch.tensor([0.5, 0.0, 0.25, 0.25]).log().expand(6, 4)
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 1 - 2**-53], dtype=torch.float64)
    assert choose_tokens(logits, Decoding(), uniform).tolist() == [0, 0, 2, 2, 3, 3]
    assert choose_tokens(logits.flip(1), Decoding(), uniform).tolist() == [0, 1, 3, 3, 3, 3]
    impossible = torch.tensor([[-torch.inf, 0.0, 0.0]])
    assert choose_tokens(impossible, Decoding(), torch.zeros(1, dtype=torch.float64)).tolist() == [1]
    assert choose_tokens(logits, Decoding(temperature=0), uniform).tolist() == [0] * 6
    assert choose_tokens(logits, Decoding(top_k=1), uniform).tolist() == [0] * 6


def test_suppressed_tokens_never_appear(sharp: Any, encoded: list[EncodedPrompt]) -> None:
    hot = Decoding(temperature=5.0, max_new_tokens=8)
    seeds = [range(100)]
    free = draw(sharp, encoded[:1], seeds, hot, ends=(3,), suppressed=())
    suppressed = range(5, 129, 2)
    bound = draw(sharp, encoded[:1], seeds, hot, ends=(3,), suppressed=suppressed)
    assert {token for answer in free[0] for token in answer.token_ids} & set(suppressed)
    assert not {token for answer in bound[0] for token in answer.token_ids} & set(suppressed)


def test_an_answer_is_finished_if_it_ends_in_time(sharp: Any, encoded: list[EncodedPrompt]) -> None:
    for max_new_tokens in (1, 4, 12):
        answers = draw(sharp, encoded, [range(20)] * 4, Decoding(max_new_tokens=max_new_tokens))
        assert [len(some) for some in answers] == [20] * 4
        for answer in (answer for some in answers for answer in some):
            assert not set(answer.token_ids[:-1]) & set(ENDS)
            assert answer.finished == (answer.token_ids[-1] in ENDS)
            assert (
                len(answer.token_ids) == max_new_tokens
                if not answer.finished
                else len(answer.token_ids) <= max_new_tokens
            )
        assert {answer.finished for some in answers for answer in some} == {True, False}


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"max_new_tokens": 0}]
)
def test_senseless_decoding_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"temperature >= 0, 0 < top_p <= 1"):
        Decoding(**wrong)
