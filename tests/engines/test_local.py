"""The local engine against plain forward passes: one per question, one per completion, nothing packed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
)

from rlaifv.data.images import load_image
from rlaifv.engines import local as local_module
from rlaifv.engines.local import LocalEngine
from rlaifv.models import tree as tree_module
from rlaifv.models.families import FAMILIES
from rlaifv.models.loading import select_trainable
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding
from rlaifv.models.tree import PackedTrees, Tree, pack
from rlaifv.records import Prompt
from rlaifv.worlds.shapes_model import CHAT_TEMPLATE, build_model, build_tokenizer

QUESTIONS = (
    "Is there a red circle at the top left?",
    "Is there a red circle at the bottom?",
    "Is it a star?",
    "Is there a blue square at the top left? Please answer yes or no.",
    "What?",
)
Asked = list[tuple[Prompt, tuple[str, ...]]]


@pytest.fixture(scope="module")
def sharp(processor: Any) -> Any:
    """A small LLaVA with weights so large that its answers differ between questions and between pictures."""
    torch.manual_seed(0)
    return sharpened(build_model(processor.tokenizer, hidden_size=64, num_layers=2, vision_layers=1))


def sharpened(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    return model.eval()


@pytest.fixture
def engine(sharp: Any, prompter: Prompter) -> LocalEngine:
    return LocalEngine(sharp, prompter)


@pytest.fixture
def asked(prompts: list[Prompt]) -> Asked:
    """Different numbers of questions about four pictures."""
    return [(prompts[k], QUESTIONS[k : k + 1 + k]) for k in range(3)] + [(prompts[3], QUESTIONS[::-1])]


@torch.no_grad()
def ask_plainly(model: Any, processor: Any, prompt: Prompt, question: str) -> tuple[float, float]:
    """The twin: the processor's own batch of one, the model's plain forward, a softmax, and two sums over words."""
    content = [*({"type": "image"} for _ in prompt.image_paths), {"type": "text", "text": question}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    inputs = processor(text=text, images=[load_image(path) for path in prompt.image_paths], return_tensors="pt")
    probs = model(**inputs).logits[0, -1].softmax(0)
    p_yes, p_no = (
        sum(probs[processor.tokenizer.vocab[word]].item() for word in words)
        for words in ((" yes", " Yes"), (" no", " No"))
    )
    return p_yes, p_no


def assert_close(actual: Sequence[Sequence[Any]], expected: Sequence[Sequence[Any]], atol: float = 1e-6) -> None:
    assert [len(some) for some in actual] == [len(some) for some in expected]
    flat = [torch.tensor([pair for some in both for pair in some], dtype=torch.float64) for both in (actual, expected)]
    torch.testing.assert_close(*flat, rtol=1e-4, atol=atol)


def test_answers_equal_those_to_each_question_alone(engine: LocalEngine, processor: Any, asked: Asked) -> None:
    expected = [
        [ask_plainly(engine.model, processor, prompt, question) for question in questions]
        for prompt, questions in asked
    ]
    assert_close(engine.answer_probabilities(asked), expected)
    p_yes = torch.tensor([pair[0] for some in expected for pair in some])
    assert p_yes.std() / p_yes.mean() > 0.2  # the twin tells questions apart


@pytest.mark.parametrize(("batch_tokens", "tree_tokens"), [(1, 8192), (80, 8192), (16_384, 1), (16_384, 45), (90, 45)])
def test_answers_do_not_depend_on_budgets(
    sharp: Any,
    prompter: Prompter,
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
    batch_tokens: int,
    tree_tokens: int,
) -> None:
    expected = LocalEngine(sharp, prompter).answer_probabilities(asked)
    shapes: list[torch.Size] = []

    def spy(trees: Sequence[Tree], *options: Any) -> PackedTrees:
        packed = pack(trees, *options)
        shapes.append(packed.input_ids.shape)
        return packed

    engine = LocalEngine(sharp, prompter, batch_tokens)
    engine.check(asked[0][0])
    monkeypatch.setattr(tree_module, "pack", spy)
    monkeypatch.setattr(local_module, "MAX_TREE_TOKENS", tree_tokens)
    finished: list[int] = []
    actual = engine.answer_probabilities(asked, finished.append)
    assert_close(actual, expected)
    assert all(rows * length <= batch_tokens or rows == 1 for rows, length in shapes)
    assert max(length for _, length in shapes) <= max(tree_tokens, 40)  # the longest question takes 32
    assert sum(finished) == len(asked)


def test_answers_do_not_depend_on_order_or_neighbours(engine: LocalEngine, asked: Asked) -> None:
    expected = engine.answer_probabilities(asked)
    assert_close([engine.answer_probabilities([one])[0] for one in asked], expected)
    backwards = engine.answer_probabilities([(prompt, questions[::-1]) for prompt, questions in asked[::-1]])
    assert_close([some[::-1] for some in backwards[::-1]], expected)


def test_answers_are_about_the_picture(engine: LocalEngine, prompts: list[Prompt]) -> None:
    swapped = [Prompt(prompts[0].id, prompts[0].question, prompts[1].image_paths)]
    first, second = (engine.answer_probabilities([(prompt, QUESTIONS)])[0] for prompt in (prompts[0], swapped[0]))
    assert max(abs(a[0] - b[0]) / b[0] for a, b in zip(first, second, strict=True)) > 0.05


def test_questions_about_several_pictures(engine: LocalEngine, processor: Any, prompts: list[Prompt]) -> None:
    both = Prompt("both", "What is it?", (*prompts[0].image_paths, *prompts[1].image_paths))
    asked: Asked = [(both, QUESTIONS[:3]), (prompts[2], QUESTIONS[:2])]
    expected = [[ask_plainly(engine.model, processor, prompt, question) for question in some] for prompt, some in asked]
    assert_close(engine.answer_probabilities(asked), expected)


@torch.no_grad()
def score_plainly(engine: LocalEngine, prompt: Prompt, answer: Sequence[int]) -> list[float]:
    encoded = engine.prompter.encode(prompt)
    ids = [*encoded.ids, *answer]
    logps = engine.model(input_ids=torch.tensor([ids]), **encoded.images).logits[0].log_softmax(1)
    return [logps[j - 1, ids[j]].item() for j in range(len(encoded.ids), len(ids))]


@pytest.mark.parametrize("batch_tokens", [1, 100, 16_384])
def test_completion_logps_equal_those_of_separate_sequences(
    sharp: Any, prompter: Prompter, prompts: list[Prompt], batch_tokens: int
) -> None:
    engine = LocalEngine(sharp, prompter, batch_tokens)
    answers: list[list[tuple[int, ...]]] = [
        [(20, 21, 22, 3), (30,)],
        [(40, 41, 42, 43, 44, 3)],
        [(), (50, 51), (52, 53, 3)],
    ]
    finished: list[int] = []
    actual = engine.completion_logps(list(zip(prompts, answers, strict=False)), finished.append)
    expected = [
        [score_plainly(engine, prompt, ids) for ids in some] for prompt, some in zip(prompts, answers, strict=False)
    ]
    assert [[len(one) for one in some] for some in actual] == [[4, 1], [6], [0, 2, 3]]
    for some, those in zip(actual, expected, strict=True):
        assert_close(some, those, atol=1e-5)
    assert sum(finished) == 3


@pytest.mark.parametrize("batch_tokens", [1, 200, 16_384])
def test_samples_do_not_depend_on_the_batch(
    sharp: Any, prompter: Prompter, prompts: list[Prompt], batch_tokens: int
) -> None:
    decoding = Decoding(max_new_tokens=10)
    seeds = [[10 * k, 10 * k + 1] for k in range(len(prompts))]
    finished: list[int] = []
    drawn = LocalEngine(sharp, prompter, batch_tokens).sample(prompts, seeds, decoding, finished.append)
    alone = [LocalEngine(sharp, prompter).sample([p], [s], decoding)[0] for p, s in zip(prompts, seeds, strict=True)]
    assert drawn == alone
    assert sum(finished) == len(prompts)


def test_samples_hold_no_special_token_but_the_end(engine: LocalEngine, prompts: list[Prompt]) -> None:
    drawn = engine.sample(prompts[:1], [range(300)], Decoding(temperature=20.0, max_new_tokens=20))[0]
    special = set(engine.prompter.tokenizer.all_special_ids)
    assert not special & {token for answer in drawn for token in answer.token_ids[:-1]}
    assert special & {answer.token_ids[-1] for answer in drawn} == {engine.prompter.tokenizer.eos_token_id}
    assert {answer.finished for answer in drawn} == {True, False}


def test_end_tokens_of_the_generation_config_end_an_answer(
    engine: LocalEngine, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding = Decoding(max_new_tokens=10)
    (long,) = engine.sample(prompts[:1], [[5]], decoding)[0]
    stop = long.token_ids[4]
    monkeypatch.setattr(engine.model.generation_config, "eos_token_id", [stop])
    (short,) = engine.sample(prompts[:1], [[5]], decoding)[0]
    assert short.token_ids == long.token_ids[: long.token_ids.index(stop) + 1]
    assert short.finished


def test_a_prompt_too_long_for_the_model_is_named(engine: LocalEngine, prompts: list[Prompt]) -> None:
    limit = engine.model.config.get_text_config().max_position_embeddings  # type: ignore[union-attr]
    needed = engine.num_tokens(prompts[0])
    engine.check_lengths(prompts[:1], limit - needed)
    with pytest.raises(ValueError, match=f"{prompts[0].id}' needs {needed} tokens .* has {limit} positions"):
        engine.check_lengths(prompts[:1], limit - needed + 1)


def test_decode_leaves_special_tokens_out(engine: LocalEngine, prompts: list[Prompt]) -> None:
    ids = engine.prompter.completion_ids(prompts[0], "There is a red circle at the top left.")
    assert engine.decode(ids) == "There is a red circle at the top left."


def modes_of(model: torch.nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
def test_a_borrowed_model_comes_back_as_it_was(model: Any, prompter: Prompter, asked: Asked, mode: str) -> None:
    model.train(mode != "eval")
    if mode == "mixed":
        model.model.vision_tower.eval()
    before = modes_of(model)
    engine = LocalEngine(model, prompter)
    engine.answer_probabilities(asked)
    engine.completion_logps([(asked[0][0], [(20, 21)])])
    engine.sample([asked[0][0]], [[0]], Decoding(max_new_tokens=2))
    assert modes_of(model) == before
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_borrowed_model_comes_back_from_a_failure(
    model: Any, prompter: Prompter, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def fail(*_: Any, **__: Any) -> None:
        seen.extend((model.training, torch.is_grad_enabled()))
        raise RuntimeError("broken")

    monkeypatch.setattr(model.model, "forward", fail)
    model.train()
    engine = LocalEngine(model, prompter)
    with pytest.raises(RuntimeError, match="broken"):
        engine.answer_probabilities(asked)
    with pytest.raises(RuntimeError, match="broken"):
        engine.completion_logps([(asked[0][0], [(20, 21)])])
    with pytest.raises(RuntimeError, match="broken"):
        engine.sample([asked[0][0]], [[0]], Decoding(max_new_tokens=2))
    assert seen == [False] * 6
    assert all(modes_of(model).values())
    assert torch.is_grad_enabled()


def test_dropout_is_off_while_a_model_is_borrowed(model: Any, prompter: Prompter, asked: Asked) -> None:
    adapted = select_trainable(model, (), lora={"r": 4, "lora_dropout": 0.9})
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.add_(torch.randn_like(parameter) if parameter.requires_grad else 0)
    engine = LocalEngine(adapted.train(), prompter)
    once, again = (engine.answer_probabilities(asked) for _ in range(2))
    assert once == again
    assert adapted.training


def test_adapters_take_part(processor: Any, prompter: Prompter, asked: Asked) -> None:
    torch.manual_seed(1)
    policy = select_trainable(sharpened(build_model(processor.tokenizer, 64, 2, 1)), (), lora={"r": 4})
    untrained = LocalEngine(policy, prompter).answer_probabilities(asked)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter) if parameter.requires_grad else 0)
    trained = LocalEngine(policy, prompter).answer_probabilities(asked)
    expected = [[ask_plainly(policy, processor, prompt, question) for question in some] for prompt, some in asked]
    assert_close(trained, expected)
    assert abs(trained[0][0][0] - untrained[0][0][0]) > 1e-4


@pytest.fixture(scope="module")
def anyres() -> tuple[Any, Any]:
    """A small LLaVA-NeXT and its processor: an overview and up to four tiles of nine patches, newlines between rows."""
    grids = [[48, 96], [96, 48], [96, 96]]
    tokenizer = build_tokenizer()
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, image_grid_pinpoints=grids
        ),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(num_hidden_layers=1, image_size=48, patch_size=16, projection_dim=64, **sizes),
        text_config=LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=2, num_key_value_heads=2, **sizes),
        image_token_index=tokenizer.vocab["<image>"],
        image_grid_pinpoints=grids,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    return sharpened(LlavaNextForConditionalGeneration(config)), processor


@pytest.fixture
def photographs(tmp_path: Path) -> list[Prompt]:
    """Pictures of several shapes, which LLaVA-NeXT cuts into different numbers of tiles and tokens."""
    prompts = []
    for k, size in enumerate(((90, 40), (95, 95), (30, 90), (64, 50))):
        path = tmp_path / f"{k}.png"
        noise = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(k))
        Image.fromarray(noise.to(torch.uint8).numpy()).save(path)
        prompts.append(Prompt(f"photograph-{k}", "What is it?", (str(path),)))
    return prompts


def test_llava_next_answers_as_it_does_to_each_question_alone(
    anyres: tuple[Any, Any], photographs: list[Prompt]
) -> None:
    model, processor = anyres
    engine = LocalEngine(model, Prompter(processor))
    several = Prompt("several", "What is it?", tuple(path for p in photographs[:2] for path in p.image_paths))
    asked: Asked = [(prompt, QUESTIONS) for prompt in (*photographs, several)]
    tiles = [engine.prompter.encode(prompt).images["pixel_values"].shape[1] for prompt in photographs]
    assert tiles == [3, 5, 3, 5]
    expected = [[ask_plainly(model, processor, prompt, question) for question in some] for prompt, some in asked]
    assert_close(engine.answer_probabilities(asked), expected)
    p_yes = torch.tensor([[pair[0] for pair in some] for some in expected])
    assert (p_yes.std(0) / p_yes.mean(0)).max() > 0.05  # the pictures matter


def test_llava_next_samples_do_not_depend_on_the_batch(anyres: tuple[Any, Any], photographs: list[Prompt]) -> None:
    model, processor = anyres
    engine = LocalEngine(model, Prompter(processor))
    seeds = [[k, k + 10] for k in range(4)]
    together = engine.sample(photographs, seeds, Decoding(max_new_tokens=8))
    alone = [engine.sample([photographs[k]], [seeds[k]], Decoding(max_new_tokens=8))[0] for k in range(4)]
    assert together == alone


def spoil(attention_mask: torch.Tensor) -> torch.Tensor:
    """Every token sees every other one, as in a family that ignores its mask."""
    return torch.ones_like(attention_mask)


def test_the_first_tree_is_compared_with_separate_sequences(
    sharp: Any,
    prompter: Prompter,
    prompts: list[Prompt],
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A model whose trees differ is run on separate sequences from then on, and gives the right answers."""
    expected = LocalEngine(sharp, prompter).answer_probabilities(asked)
    assert not caplog.records
    monkeypatch.setattr(tree_module, "attention_masks", lambda model, allowed, *positions: spoil(allowed))
    engine = LocalEngine(sharp, prompter, batch_tokens=300)
    assert_close(engine.answer_probabilities(asked), expected)
    assert engine.packer.separately
    (warning,) = caplog.records
    assert "in this 'llava' model (float32); it is run on separate sequences" in warning.getMessage()
    assert float(warning.getMessage().split("differ by ")[1].split()[0]) > 0.01
    logps = engine.completion_logps([(prompts[0], [(20, 21, 22, 3), (30,)])])
    assert_close(logps[0], [score_plainly(engine, prompts[0], ids) for ids in ((20, 21, 22, 3), (30,))], atol=1e-5)
    assert len(caplog.records) == 1  # checked once


def test_every_use_of_an_engine_checks_first(
    sharp: Any, prompter: Prompter, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_module, "attention_masks", lambda model, allowed, *positions: spoil(allowed))
    uses: list[Any] = [
        lambda engine: engine.check(prompts[0]),
        lambda engine: engine.sample(prompts[:1], [[0]], Decoding(max_new_tokens=1)),
        lambda engine: engine.completion_logps([(prompts[0], [(20,)])]),
        lambda engine: engine.answer_probabilities([(prompts[0], QUESTIONS)]),
    ]
    for use in uses:
        engine = LocalEngine(sharp, prompter)
        use(engine)
        assert engine.packer.separately


def test_trees_in_half_precision_pass(model: Any, prompter: Prompter, prompts: list[Prompt]) -> None:
    engine = LocalEngine(sharpened(model).bfloat16(), prompter)
    engine.check(prompts[0])
    assert not engine.packer.separately


def test_an_unknown_family_is_run_on_separate_sequences(
    sharp: Any, prompter: Prompter, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = LocalEngine(sharp, prompter).answer_probabilities(asked)
    monkeypatch.delitem(FAMILIES, "llava")
    engine = LocalEngine(sharp, prompter)
    assert engine.packer.separately
    assert_close(engine.answer_probabilities(asked), expected)


class Scarce:
    """Memory that runs out where more than `most` tokens are run at a time."""

    def __init__(self, engine: LocalEngine, most: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        def within(work: Any) -> Any:
            def run(*arguments: Any, **options: Any) -> Any:
                made = work(*arguments, **options)
                if engine.batch_tokens > most:
                    yield next(iter(made))  # after a part of it was done
                    raise error
                yield from made

            return run

        monkeypatch.setattr(local_module, "batches_by_tokens", within(local_module.batches_by_tokens))
        monkeypatch.setattr(local_module, "sample_branches", within(local_module.sample_branches))


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried to allocate"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_where_memory_runs_out_fewer_tokens_are_run_and_nothing_changes(
    sharp: Any,
    prompter: Prompter,
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """Answers, judgements and log-probs; the progress counts every prompt once."""

    def results(engine: LocalEngine) -> list[Any]:
        prompts = [prompt for prompt, _ in asked]
        made: list[Any] = []
        for work in (
            lambda advance: engine.sample(prompts, [[5, 6]] * 4, Decoding(max_new_tokens=6), advance),
            lambda advance: engine.answer_probabilities(asked, advance),
            lambda advance: engine.completion_logps([(prompt, [(20, 21)]) for prompt in prompts], advance),
        ):
            finished: list[int] = []
            made.append(work(finished.append))
            assert sum(finished) == 4
        return made

    expected = results(LocalEngine(sharp, prompter, 400))
    engine = LocalEngine(sharp, prompter, 400)
    Scarce(engine, 100, error, monkeypatch)
    samples, judged, logps = results(engine)
    assert engine.batch_tokens == 100
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "engine.batch_tokens is 200 from now on" in caplog.text
    assert samples == expected[0]
    assert_close(judged, expected[1])
    torch.testing.assert_close(logps, expected[2])


def test_memory_that_is_never_enough_is_said_in_one_sentence(
    engine: LocalEngine, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scarce(engine, 0, OUT_OF_MEMORY[0], monkeypatch)
    with pytest.raises(
        ValueError, match=r"with engine.batch_tokens=16384, and still does with 256 \(CUDA out of memory"
    ):
        engine.answer_probabilities(asked)


def test_other_errors_are_not_tried_again(engine: LocalEngine, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    Scarce(engine, 0, RuntimeError("shapes differ"), monkeypatch)
    with pytest.raises(RuntimeError, match="shapes differ"):
        engine.answer_probabilities(asked)
    assert engine.batch_tokens == 16_384
