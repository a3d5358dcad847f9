"""Chat templates and answers, against the processors' own output."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import normalizers

from rlaifv.data.images import load_image
from rlaifv.models.prompting import Prompter
from rlaifv.records import Prompt
from rlaifv.worlds.shapes_model import CHAT_TEMPLATE, build_processor
from tests.models.processors import EOS


def prompter_with(template: str) -> Prompter:
    processor = build_processor()
    processor.chat_template = template
    return Prompter(processor)


def test_ids_and_pixels_are_those_of_the_processor(processor: Any, prompter: Prompter, prompts: list[Prompt]) -> None:
    prompt = prompts[0]
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt.question}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    expected = processor(text=text, images=load_image(prompt.image_paths[0]), return_tensors="pt")
    encoded = prompter.encode(prompt)
    assert list(encoded.ids) == expected["input_ids"][0].tolist()
    assert encoded.images.keys() == {"pixel_values"}
    assert torch.equal(encoded.images["pixel_values"], expected["pixel_values"])


@pytest.mark.parametrize("answer", ["There is a red circle at the top left.", "A blue star is not a ring, is it?", ""])
def test_completions_decode_to_the_answer(prompter: Prompter, prompts: list[Prompt], answer: str) -> None:
    ids = prompter.completion_ids(prompts[0], answer)
    assert ids[-1] == EOS
    assert ids.count(EOS) == 1
    assert prompter.decode(ids) == answer
    whole = prompter.processor.apply_chat_template(
        [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompts[0].question}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ],
        tokenize=False,
    )
    expected = prompter.tokenizer(whole.replace("<image>", "<image>" * 9)).input_ids
    assert [*prompter.encode(prompts[0]).ids, *ids] == expected


def test_an_end_token_is_added_where_the_template_writes_none(prompts: list[Prompt]) -> None:
    prompter = prompter_with(CHAT_TEMPLATE.replace("</s>", ""))
    assert prompter.completion_ids(prompts[0], "A red circle.")[-1] == EOS


def test_what_a_template_writes_after_the_end_is_cut(prompts: list[Prompt]) -> None:
    prompter = prompter_with(CHAT_TEMPLATE.replace("</s>", "</s>\n"))
    ids = prompter.completion_ids(prompts[0], "A red circle.")
    assert ids == Prompter(build_processor()).completion_ids(prompts[0], "A red circle.")


@pytest.mark.parametrize(
    "change",
    [
        lambda template: "{% if messages|length > 1 %}Answer: {% endif %}" + template,
        lambda template: template.replace("'ASSISTANT:'", "'ASSISTANT: '").replace("ASSISTANT:{% e", "ASSISTANT: {% e"),
    ],
    ids=["text_before", "space_that_merges_into_the_answer"],
)
def test_a_template_that_changes_the_prompt_is_refused(prompts: list[Prompt], change: Callable[[str], str]) -> None:
    prompter = prompter_with(change(CHAT_TEMPLATE))
    with pytest.raises(ValueError, match="renders a prompt differently once an answer follows"):
        prompter.completion_ids(prompts[0], "A red circle.")
    with pytest.raises(ValueError, match="renders a prompt differently once an answer follows"):
        prompter.yes_no_ids()


def test_a_template_may_write_the_first_token_itself(prompter: Prompter, prompts: list[Prompt]) -> None:
    itself = prompter_with("<s>" + CHAT_TEMPLATE)
    assert itself.encode(prompts[0]).ids == prompter.encode(prompts[0]).ids
    assert itself.yes_no_ids() == prompter.yes_no_ids()


def test_yes_and_no_are_the_tokens_that_start_an_answer(prompter: Prompter) -> None:
    words = [[prompter.tokenizer.convert_ids_to_tokens(token) for token in ids] for ids in prompter.yes_no_ids()]
    assert words == [[" yes", " Yes"], [" no", " No"]]


def test_a_tokenizer_that_merges_case_is_refused() -> None:
    processor = build_processor()
    processor.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ValueError, match="yes, Yes, no and No must start with four distinct tokens"):
        Prompter(processor).yes_no_ids()


def test_a_tokenizer_that_lacks_a_word_is_refused() -> None:
    processor = build_processor()
    processor.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("Yes", "Yea")
    with pytest.raises(ValueError, match="four distinct tokens, but they are"):
        Prompter(processor).yes_no_ids()


def test_a_processor_without_a_template_is_refused() -> None:
    processor = build_processor()
    processor.chat_template = None
    with pytest.raises(ValueError, match=r"no chat template.*put a chat_template\.jinja beside its weights"):
        Prompter(processor)
