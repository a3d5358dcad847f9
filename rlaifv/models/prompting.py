"""Encode questions about images as token ids. Untrusted texts are quoted (`models.quoting`)."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from rlaifv.data.images import MAX_BYTES, MAX_PIXELS, load_image
from rlaifv.models.chat_template import ChatTemplate
from rlaifv.models.quoting import Quoter
from rlaifv.records import Prompt

PIXEL_CACHE_BYTES = 256 * 2**20
# (width, height) in pixels of upright images, by path.
Sizes = Mapping[str, tuple[int, int]]
# What processors return about the text of their one call per image, which is not the prompt's text.
TEXT_NAMES = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "text_replacement_offsets")


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """Ids of one prompt, image placeholders expanded, up to where the answer starts; and the processor's image tensors."""

    ids: tuple[int, ...]
    images: dict[str, Tensor]


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
        self.template = ChatTemplate(processor)
        self.processor = processor
        self.max_pixels, self.max_bytes = max_pixels, max_bytes
        self.tokenizer = processor.tokenizer
        # What a template writes for an image, and the id that features replace: in Gemma 3 these are two tokens.
        self.image_token: str = processor.image_token
        self.image_token_id: int = processor.image_token_ids[0]
        self.quote = Quoter(self.tokenizer, self.template.sample, self.image_token, self.image_token_id)
        self._images: OrderedDict[tuple[str, ...], tuple[dict[str, Tensor], list[str]]] = OrderedDict()
        self._cached_bytes = 0
        self._expansions: dict[tuple[tuple[int, int], ...], list[str]] = {(): []}
        self._yes_no: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """Encode a prompt's own conversation.

        Raises:
            ImageError: an image of the prompt cannot be read.
            ValueError: the chat template takes no conversation of several turns.
        """
        images, expansions = self._load(prompt.image_paths)
        return EncodedPrompt(self._tokenize(self._rendered(prompt), expansions), images)

    def num_tokens(self, prompt: Prompt, sizes: Sizes) -> int:
        """Return the length of `encode(prompt).ids`, without a look at the images: only their sizes count.

        Args:
            prompt: whose question is asked.
            sizes: of its images.
        """
        of_images = tuple(sizes[path] for path in prompt.image_paths)
        if of_images not in self._expansions:
            blank = [Image.new("RGB", size) for size in of_images]
            self._expansions[of_images] = self._process(blank)[1]
        return len(self._tokenize(self._rendered(prompt), self._expansions[of_images]))

    def question_ids(self, prompt: Prompt, question: str) -> tuple[int, ...]:
        """Ids of another question about a prompt's images, as a conversation of its own: without system message or history."""
        _, expansions = self._load(prompt.image_paths)
        return self._tokenize(self.template.render(self.quote(question), len(prompt.image_paths)), expansions)

    def completion_ids(self, prompt: Prompt, answer: str) -> tuple[int, ...]:
        """Return ids of an answer that was not sampled here, end token included, as the template writes them after the prompt.

        Raises:
            ValueError: the template writes the prompt itself differently once an answer follows it.
        """
        _, expansions = self._load(prompt.image_paths)
        asked = self._tokenize(self._rendered(prompt), expansions)
        completion = _after(asked, self._tokenize(self._rendered(prompt, answer), expansions))
        end = self.tokenizer.eos_token_id
        return completion[: completion.index(end) + 1] if end in completion else (*completion, end)

    def yes_no_ids(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return first-token ids of {yes, Yes} and of {no, No}, found where an answer starts in the chat template.

        Raises:
            ValueError: the four are not distinct, so that one token could stand for both answers; or as `completion_ids`.
        """
        if self._yes_no is None:
            asked = self._tokenize(self.template.render("?", 0), [])
            first = {}
            for word in ("yes", "Yes", "no", "No"):
                first[word] = _after(asked, self._tokenize(self.template.render("?", 0, word), []))[0]
            if len(set(first.values())) < 4 or self.tokenizer.unk_token_id in first.values():
                raise ValueError(f"yes, Yes, no and No must start with four distinct tokens, but they are {first}.")
            self._yes_no = (first["yes"], first["Yes"]), (first["no"], first["No"])
        return self._yes_no

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of sampled ids, special tokens left out, surrounding white space removed."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def _rendered(self, prompt: Prompt, answer: str | None = None) -> str:
        """Return the prompt's conversation as text, all of its texts quoted."""
        system, history = self.quote(prompt.system), tuple(map(self.quote, prompt.history))
        quoted = None if answer is None else self.quote(answer)
        return self.template.render(self.quote(prompt.question), len(prompt.image_paths), quoted, system, history)

    def _tokenize(self, rendered: str, expansions: Sequence[str]) -> tuple[int, ...]:
        first, *pieces = rendered.split(self.image_token)
        text = first + "".join(image + piece for image, piece in zip(expansions, pieces, strict=True))
        starts_itself = bool(self.tokenizer.bos_token) and text.startswith(self.tokenizer.bos_token)
        return tuple(self.tokenizer(text, add_special_tokens=not starts_itself).input_ids)

    def _load(self, image_paths: tuple[str, ...]) -> tuple[dict[str, Tensor], list[str]]:
        """Preprocessed images, and the text that stands for each: placeholders and whatever a family puts around them."""
        if not image_paths:
            return {}, []
        if image_paths in self._images:
            self._images.move_to_end(image_paths)
            return self._images[image_paths]
        entry = self._process([load_image(path, self.max_pixels, self.max_bytes) for path in image_paths])
        self._images[image_paths] = entry
        self._cached_bytes += _num_bytes(entry[0])
        while self._cached_bytes > PIXEL_CACHE_BYTES and len(self._images) > 1:
            self._cached_bytes -= _num_bytes(self._images.popitem(last=False)[1][0])
        return entry

    def _process(self, images: list[Image.Image]) -> tuple[dict[str, Tensor], list[str]]:
        """All images at once, as some families number them or cut a lone image into tiles."""
        encoded = self.processor(
            text=[self.image_token * len(images)],
            images=[images],
            return_tensors="pt",
            return_text_replacement_offsets=True,
            add_special_tokens=False,
        )
        expansions = [found["replacement"] for found in encoded["text_replacement_offsets"][0]]
        return {name: tensor for name, tensor in encoded.items() if name not in TEXT_NAMES}, expansions


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
    """Join image tensors, one dict per prompt.

    Most lie along the first axis: [images, 3, H, W], or [patches of all images, D]. Those cut into tiles [N, tiles, 3, H, W]
    get zero tiles up to the most, which the model drops, and so do their masks [N, tiles, H, W]. Where `target_sizes` say
    which patches are whose, all patches lie side by side in one strip [1, 3, P, patches * P].
    """
    joined = {}
    for name in images[0] if images else ():
        tensors = [one[name] for one in images]
        if name == "pixel_values" and "target_sizes" in images[0]:
            joined[name] = torch.cat(tensors, -1)
            continue
        if tensors[0].dim() == 5 or name == "pixel_attention_mask":
            most = max(tensor.shape[1] for tensor in tensors)
            tensors = [pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, most - tensor.shape[1])) for tensor in tensors]
        joined[name] = torch.cat(tensors)
    return joined
