"""Chat templates: how a question about images becomes token ids. Untrusted text is quoted here and nowhere else."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlaifv.data.images import MAX_BYTES, MAX_PIXELS, load_image
from rlaifv.records import Prompt

PIXEL_CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """Ids of one prompt, image placeholders expanded, up to where the answer starts; and the processor's image tensors.

    positions: int64[3, n] where the model numbers its n ids on three axes, else None
    """

    ids: tuple[int, ...]
    images: dict[str, Tensor]
    positions: Tensor | None = None


class Prompter:
    """Encodes prompts with a model's own processor and chat template.

    Images are decoded and preprocessed once; up to `PIXEL_CACHE_BYTES` of them stay in memory, least recently used last.

    Args:
        processor: of the model.
        max_pixels: largest picture that is decoded, see `load_image`.
        max_bytes: largest file that is opened.

    Raises:
        ValueError: the processor has no chat template.
    """

    def __init__(self, processor: Any, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> None:
        if not getattr(processor, "chat_template", None) and not getattr(processor.tokenizer, "chat_template", None):
            raise ValueError(
                "The model's processor has no chat template, so its prompts cannot be built; "
                "put a chat_template.jinja beside its weights."
            )
        self.processor = processor
        self.max_pixels, self.max_bytes = max_pixels, max_bytes
        self.tokenizer = processor.tokenizer
        self.image_token: str = processor.image_token
        self.image_token_id: int = self.tokenizer.convert_tokens_to_ids(self.image_token)
        # Turn markers may be special without being listed as such, as <|start_header_id|> is in Llama 3.
        added = (token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special)
        self._special_tokens = sorted({*self.tokenizer.all_special_tokens, *added, self.image_token})
        self._images: OrderedDict[tuple[str, ...], tuple[dict[str, Tensor], list[int]]] = OrderedDict()
        self._cached_bytes = 0
        self._yes_no: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """Encode a prompt's own question.

        Raises:
            ImageError: an image of the prompt cannot be read.
        """
        images, _ = self._load(prompt.image_paths)
        return EncodedPrompt(self.question_ids(prompt, prompt.question), images)

    def question_ids(self, prompt: Prompt, question: str) -> tuple[int, ...]:
        """Ids of another question about a prompt's images, as a conversation of its own."""
        _, token_counts = self._load(prompt.image_paths)
        return self._tokenize(self._render(question, len(prompt.image_paths)), token_counts)

    def completion_ids(self, prompt: Prompt, answer: str) -> tuple[int, ...]:
        """Ids of an answer that was not sampled here, end token included, as the template writes them after the prompt.

        Raises:
            ValueError: the template writes the prompt itself differently once an answer follows it.
        """
        _, token_counts = self._load(prompt.image_paths)
        asked = self.question_ids(prompt, prompt.question)
        rendered = self._render(prompt.question, len(prompt.image_paths), answer)
        completion = _after(asked, self._tokenize(rendered, token_counts))
        end = self.tokenizer.eos_token_id
        return completion[: completion.index(end) + 1] if end in completion else (*completion, end)

    def yes_no_ids(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """First-token ids of {yes, Yes} and of {no, No}, found where an answer starts in the chat template.

        Raises:
            ValueError: the four are not distinct, so that one token could stand for both answers; or as `completion_ids`.
        """
        if self._yes_no is None:
            asked = self._tokenize(self._render("?", 0), [])
            first = {}
            for word in ("yes", "Yes", "no", "No"):
                first[word] = _after(asked, self._tokenize(self._render("?", 0, word), []))[0]
            if len(set(first.values())) < 4 or self.tokenizer.unk_token_id in first.values():
                raise ValueError(f"yes, Yes, no and No must start with four distinct tokens, but they are {first}.")
            self._yes_no = (first["yes"], first["Yes"]), (first["no"], first["No"])
        return self._yes_no

    def quote(self, text: str) -> str:
        """Neutralise the tokenizer's special tokens in untrusted text, so that it cannot open a turn or add an image."""
        for token in self._special_tokens:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """Text of sampled ids, special tokens left out, surrounding white space removed."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def _render(self, question: str, num_images: int, answer: str | None = None) -> str:
        content = [*({"type": "image"} for _ in range(num_images)), {"type": "text", "text": self.quote(question)}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": self.quote(answer)}]})
        return self.processor.apply_chat_template(messages, add_generation_prompt=answer is None, tokenize=False)

    def _tokenize(self, rendered: str, token_counts: Sequence[int]) -> tuple[int, ...]:
        pieces = rendered.split(self.image_token)
        text = pieces[0] + "".join(
            self.image_token * count + piece for count, piece in zip(token_counts, pieces[1:], strict=True)
        )
        starts_itself = bool(self.tokenizer.bos_token) and text.startswith(self.tokenizer.bos_token)
        return tuple(self.tokenizer(text, add_special_tokens=not starts_itself).input_ids)

    def _load(self, image_paths: tuple[str, ...]) -> tuple[dict[str, Tensor], list[int]]:
        """Preprocessed images and the number of placeholder tokens of each."""
        if not image_paths:
            return {}, []
        if image_paths in self._images:
            self._images.move_to_end(image_paths)
            return self._images[image_paths]
        # One image at a time tells how many placeholder tokens each one takes.
        encoded = [
            self.processor(
                text=self.image_token,
                images=[load_image(path, self.max_pixels, self.max_bytes)],
                return_tensors="pt",
                add_special_tokens=False,
            )
            for path in image_paths
        ]
        counts = [int((one["input_ids"] == self.image_token_id).sum()) for one in encoded]
        names = [name for name in encoded[0] if name not in ("input_ids", "attention_mask", "token_type_ids")]
        entry = _concatenate([{name: one[name] for name in names} for one in encoded]), counts
        self._images[image_paths] = entry
        self._cached_bytes += _num_bytes(entry[0])
        while self._cached_bytes > PIXEL_CACHE_BYTES and len(self._images) > 1:
            self._cached_bytes -= _num_bytes(self._images.popitem(last=False)[1][0])
        return entry


def _after(asked: tuple[int, ...], whole: tuple[int, ...]) -> tuple[int, ...]:
    if whole[: len(asked)] != asked:
        raise ValueError("The chat template renders a prompt differently once an answer follows it.")
    return whole[len(asked) :]


def _num_bytes(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def stack_images(encoded: Sequence[EncodedPrompt]) -> dict[str, Tensor]:
    """Concatenate image tensors in the order of the prompts, as a model's forward takes them."""
    return _concatenate([prompt.images for prompt in encoded if prompt.images])


def _concatenate(images: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join image tensors; those cut into tiles [N, tiles, 3, H, W] get zero tiles up to the most, which the model drops."""
    joined = {}
    for name in images[0] if images else ():
        tensors = [one[name] for one in images]
        if tensors[0].dim() == 5:
            most = max(tensor.shape[1] for tensor in tensors)
            tensors = [pad(tensor, (0, 0) * 3 + (0, most - tensor.shape[1])) for tensor in tensors]
        joined[name] = torch.cat(tensors)
    return joined
