"""The local engine against plain forward passes: one per question, one per completion, nothing packed."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from rlaifv.engines import local as local_module
from rlaifv.engines.local import LocalEngine
from rlaifv.models.loading import select_trainable
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding
from rlaifv.models.tree import packing as tree_module
from rlaifv.models.tree.packing import PackedTrees, Tree, pack
from rlaifv.records import Prompt
from rlaifv.worlds.shapes_model import build_model
from tests.engines.plain import QUESTIONS, Asked, ask_plainly, assert_close, score_plainly, sharpened


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


def test_lengths_by_the_sizes_of_images_are_those_of_the_images(engine: LocalEngine, prompts: list[Prompt]) -> None:
    limit = engine.model.config.get_text_config().max_position_embeddings  # type: ignore[union-attr]
    needed = engine.num_tokens(prompts[0])
    sizes = {prompts[0].image_paths[0]: (192, 192)}
    assert engine.num_tokens(prompts[0], sizes) == needed
    engine.check_lengths(prompts[:1], limit - needed, sizes)
    with pytest.raises(ValueError, match=f"{prompts[0].id}' needs {needed} tokens .* has {limit} positions"):
        engine.check_lengths(prompts[:1], limit - needed + 1, sizes)


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


def test_a_model_without_its_adapters_is_the_one_they_were_put_on(
    processor: Any, prompter: Prompter, asked: Asked
) -> None:
    model = sharpened(build_model(processor.tokenizer, 64, 2, 1))
    before = LocalEngine(model, prompter).answer_probabilities(asked)
    policy = select_trainable(model, (), lora={"r": 4})
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter) if parameter.requires_grad else 0)
    with_them = LocalEngine(policy, prompter).answer_probabilities(asked)
    assert LocalEngine(policy, prompter, without_adapters=True).answer_probabilities(asked) == before != with_them
    assert LocalEngine(policy, prompter).answer_probabilities(asked) == with_them
    assert trained == {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
