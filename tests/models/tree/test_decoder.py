"""Sampling against transformers' own: greedy text token by token, frequencies, and a twin without a cache."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from rlaifv.models.prompting import EncodedPrompt, Prompter
from rlaifv.models.sampling import Decoding, Sampled, choose_tokens, filter_logits, penalize
from rlaifv.models.tree import decoder as decoder_module
from rlaifv.models.tree.decoder import BranchDecoder, expected_slots, sample_branches
from rlaifv.records import Prompt

GREEDY = Decoding(temperature=0, max_new_tokens=16)
NUM_WORDS = 131  # of the embedded world
ENDS = tuple(range(3, NUM_WORDS, 12))  # many, so that answers end early and at different lengths
SUPPRESSED = (0, 1, 2, 4)


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
    **options: Any,
) -> list[list[Sampled]]:
    results = dict(sample_branches(model, encoded, seeds, decoding, ends, suppressed, **options))
    return [results[k] for k in range(len(encoded))]


@torch.no_grad()
def draw_slowly(model: Any, prompt: EncodedPrompt, seed: int, decoding: Decoding) -> Sampled:
    """The twin: no cache, no batch, no padding; the whole sequence is run again for every token."""
    uniform = torch.from_numpy(np.random.Generator(np.random.Philox(seed)).random(decoding.max_new_tokens))
    ids: list[int] = []
    for step in range(decoding.max_new_tokens):
        logits = model(input_ids=torch.tensor([[*prompt.ids, *ids]]), **prompt.images).logits[:, -1]
        if decoding.repetition_penalty != 1:
            seen = torch.zeros_like(logits, dtype=torch.bool)
            seen[:, [*prompt.ids, *ids]] = True
            logits = penalize(logits, seen, decoding.repetition_penalty)
        logits[:, list(SUPPRESSED)] = -torch.inf
        ids.append(int(choose_tokens(logits, decoding, uniform[step : step + 1])))
        if ids[-1] in ENDS:
            break
    return Sampled(tuple(ids), ids[-1] in ENDS)


@pytest.mark.parametrize(("ends", "penalty"), [(ENDS, 1.0), ((3,), 1.0), ((3,), 1.5)])
def test_greedy_equals_generate(
    sharp: Any, encoded: list[EncodedPrompt], ends: tuple[int, ...], penalty: float
) -> None:
    """Prompts of four lengths in one batch, against `generate` on each of them alone."""
    assert len({len(one.ids) for one in encoded}) == 4
    answers = draw(sharp, encoded, [[0]] * 4, replace(GREEDY, repetition_penalty=penalty), ends)
    for one, (answer,) in zip(encoded, answers, strict=True):
        generated = sharp.generate(
            input_ids=torch.tensor([one.ids]),
            attention_mask=torch.ones(1, len(one.ids), dtype=torch.int64),
            **one.images,
            do_sample=False,
            repetition_penalty=penalty,
            max_new_tokens=GREEDY.max_new_tokens,
            eos_token_id=list(ends),
            pad_token_id=0,
            suppress_tokens=list(SUPPRESSED),
        )
        assert answer.token_ids == tuple(generated[0, len(one.ids) :].tolist())
        assert answer.finished == (answer.token_ids[-1] in ends)
    lengths = {len(answer.token_ids) for (answer,) in answers}
    assert len(lengths) > 1 if ends == ENDS else max(lengths) == GREEDY.max_new_tokens


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("decoding", [Decoding(max_new_tokens=12), Decoding(0.7, 0.9, 20, 12, repetition_penalty=1.2)])
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


SEVEN_SEEDS = [[10 * p + k for k in range(3)] for p in range(7)]


@pytest.fixture(scope="module")
def expected(sharp: Any, encoded: list[EncodedPrompt]) -> list[list[Sampled]]:
    """What the twin says to seven prompts."""
    decoding = Decoding(max_new_tokens=20)
    return [[draw_slowly(sharp, encoded[k % 4], seed, decoding) for seed in SEVEN_SEEDS[k]] for k in range(7)]


@pytest.mark.parametrize(
    ("num_rows", "steps", "share"), [(1, 1, 0.5), (2, 3, 0.0), (3, 1, 0.5), (3, 100, 1.0), (4, 3, 0.25), (7, 2, 0.25)]
)
def test_schedules_change_nothing(
    sharp: Any,
    encoded: list[EncodedPrompt],
    expected: list[list[Sampled]],
    monkeypatch: pytest.MonkeyPatch,
    num_rows: int,
    steps: int,
    share: float,
) -> None:
    """Fewer rows than prompts, so that rows are used again; and rounds in which branches go on after their end."""
    prompts, seeds, decoding = [encoded[k % 4] for k in range(7)], SEVEN_SEEDS, Decoding(max_new_tokens=20)
    changes = {"START_SHARE": share, "DROP_SHARE": share, "ROUND_STEPS_CPU": steps, "VIEW_SLOTS": 1 + steps}
    for name, value in changes.items():
        monkeypatch.setattr(decoder_module, name, value)
    budget = num_rows * expected_slots(max(len(one.ids) for one in encoded), 3, 20)
    order: list[int] = []
    decoders: list[BranchDecoder] = []

    class Spy(BranchDecoder):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            decoders.append(self)
            assert len(self.state.prompt) == num_rows

    monkeypatch.setattr(decoder_module, "BranchDecoder", Spy)
    results = {}
    for k, answers in sample_branches(sharp, prompts, seeds, decoding, ENDS, SUPPRESSED, budget):
        order.append(k)
        results[k] = answers
    assert [results[k] for k in range(7)] == expected
    assert sorted(order) == list(range(7))
    assert len({len(answer.token_ids) for some in expected for answer in some}) > 5
    assert num_rows < 7 or decoders[0].cache.num_rows < 7  # free rows are dropped in the end


def test_rows_grow_when_answers_are_longer_than_reckoned(sharp: Any, encoded: list[EncodedPrompt]) -> None:
    """Two prompts of one branch in slots for a few tokens, and seven branches that are never dropped."""
    decoding = Decoding(max_new_tokens=60)
    seeds = [list(range(7)), list(range(7, 14))]
    drawn = draw(sharp, encoded[:2], seeds, decoding, ends=())
    assert {len(answer.token_ids) for some in drawn for answer in some} == {60}
    assert drawn[1][3] == draw(sharp, encoded[1:2], [[10]], decoding, ends=())[0][0]


def test_a_stop_string_ends_an_answer(sharp: Any, encoded: list[EncodedPrompt]) -> None:
    """Text is that of the ids, as letters; whatever the rounds, ids go up to the token that completes the string."""
    seeds = [list(range(12))] * 4
    whole = draw(sharp, encoded, seeds, Decoding(max_new_tokens=16))
    letters = {token: chr(200 + token) for token in range(NUM_WORDS)}

    def decode(ids: Sequence[int]) -> str:
        return "".join(letters[token] for token in ids)

    longest = max(whole[2], key=lambda answer: len(answer.token_ids)).token_ids
    stop = decode(longest[4:6])
    decoding = Decoding(max_new_tokens=16, stop=(stop, "never"))
    stopped = draw(sharp, encoded, seeds, decoding, decode=decode)
    for some, those in zip(whole, stopped, strict=True):
        for long, short in zip(some, those, strict=True):
            place = decode(long.token_ids).find(stop)
            assert short == (long if place < 0 else Sampled(long.token_ids[: place + 2], finished=True))
    assert stopped != whole
    assert longest not in {answer.token_ids for answer in stopped[2]}


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
    counts = torch.bincount(torch.tensor([answer.token_ids[0] for answer in drawn]), minlength=NUM_WORDS).double()
    with torch.no_grad():
        logits = sharp(input_ids=torch.tensor([encoded[0].ids]), **encoded[0].images).logits[0, -1]
    logits[list(SUPPRESSED)] = -torch.inf
    expected = num_seeds * filter_logits(logits[None], decoding)[0].double()
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    observed, expected = observed[expected > 0], expected[expected > 0]
    statistic, freedom = ((observed - expected) ** 2 / expected).sum().item(), len(expected) - 1
    assert freedom >= 4
    assert abs(statistic - freedom) < 4 * (2 * freedom) ** 0.5


def test_positions_on_three_axes() -> None:
    """A small Qwen2-VL, and prompts of text, which its own `generate` numbers equally on all three axes."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 120}
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None}
    config = Qwen2VLConfig(
        text_config={**sizes, **heads, "rope_parameters": rope},
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2},
        **{f"{name}_token_id": 110 + k for k, name in enumerate(("image", "video", "vision_start", "vision_end"))},
    )
    model = Qwen2VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.dim() > 1 else 1)
    ids = [torch.randint(5, 100, (length,)).tolist() for length in (7, 12, 9)]
    prompts = [EncodedPrompt(tuple(one), {}) for one in ids]
    drawn = draw(model, prompts, [[0]] * 3, GREEDY, ends=(), suppressed=(), batch_tokens=40)
    for one, (answer,) in zip(ids, drawn, strict=True):
        given = torch.tensor([one])
        options = {"do_sample": False, "max_new_tokens": GREEDY.max_new_tokens, "pad_token_id": 0}
        expected = model.generate(input_ids=given, attention_mask=torch.ones_like(given), **options)
        assert answer.token_ids == tuple(expected[0, len(one) :].tolist())
    prefixes, rests = [EncodedPrompt(tuple(one[:-3]), {}) for one in ids], [[one[-3:]] for one in ids]
    assert draw(model, prefixes, [[0]] * 3, GREEDY, ends=(), suppressed=(), questions=rests) == drawn


def test_suppressed_tokens_never_appear(sharp: Any, encoded: list[EncodedPrompt]) -> None:
    hot = Decoding(temperature=5.0, max_new_tokens=8)
    seeds = [range(100)]
    free = draw(sharp, encoded[:1], seeds, hot, ends=(3,), suppressed=())
    suppressed = range(5, NUM_WORDS, 2)
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


@pytest.mark.parametrize("decoding", [GREEDY, Decoding(0.9, 0.9, 20, 7, repetition_penalty=1.3)])
@pytest.mark.parametrize("cut", [1, 4])
def test_questions_that_share_a_prefix_are_answered_as_alone(
    sharp: Any, encoded: list[EncodedPrompt], decoding: Decoding, cut: int
) -> None:
    """Of different numbers and lengths, one of them empty; their own tokens may be ends, and are no answers."""
    rests = [
        [one.ids[-cut:], ()[:cut], (ENDS[0], ENDS[1], *one.ids[-3:])][: k + 1] for k, one in enumerate(encoded[:3])
    ]
    prefixes = [EncodedPrompt(one.ids[:-cut], one.images) for one in encoded[:3]]
    seeds = [[10 * p + k for k in range(len(some))] for p, some in enumerate(rests)]
    together = draw(sharp, prefixes, seeds, decoding, questions=rests)
    alone = [
        [
            draw_slowly(sharp, EncodedPrompt((*prefix.ids, *ids), prefix.images), seed, decoding)
            for ids, seed in zip(of_prefix, some, strict=True)
        ]
        for prefix, of_prefix, some in zip(prefixes, rests, seeds, strict=True)
    ]
    assert together == alone
    assert [len(some) for some in together] == [1, 2, 3]
    assert len({len(answer.token_ids) for some in together for answer in some}) > 1


def test_a_stop_string_is_looked_for_behind_the_question(sharp: Any, encoded: list[EncodedPrompt]) -> None:
    (free,) = draw(sharp, encoded[:1], [[0]], GREEDY, (NUM_WORDS + 9,))
    said = free[0].token_ids
    stop = f" {said[3]} "
    prefix = EncodedPrompt(encoded[0].ids[:-2], encoded[0].images)
    rest = [encoded[0].ids[-2:]]
    ((answer,),) = draw(
        sharp, [prefix], [[0]], replace(GREEDY, stop=(stop,)), (NUM_WORDS + 9,), questions=[rest],
        decode=lambda ids: "".join(f" {token} " for token in ids),
    )  # fmt: skip
    assert answer == Sampled(said[: said.index(said[3]) + 1], True)
