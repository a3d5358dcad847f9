"""Prompt sources: the protocol, and the source that reads a user's own files.

A list is JSON Lines, one object per line, or any other form that `prompt_lists` reads:

    {"id": "kitchen-1", "image": "photos/kitchen.jpg", "question": "What is on the table?"}

`image` is a path or a list of paths, relative to the image root, by default the list's folder. Images must lie inside
it after links are resolved, so that an untrusted list cannot open other files of this machine. `id` is a string or an
integer, by default the line number. `facts`, a text or a list of texts that are true of the images, are for reward models that
read them; `answer` is the right answer, for rewards that compare with it; `demonstration` is what a person answered, for
supervised fine-tuning. Of LLaVA conversations, it is the reply to the question. Other fields are ignored.
"""

import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rlaifv.data.image_root import path_inside
from rlaifv.data.images import MAX_BYTES, MAX_PIXELS, ImageError, check_header, load_image
from rlaifv.data.prompt_lists import Turns, read_entries
from rlaifv.records import Prompt

log = logging.getLogger(__name__)

MAX_QUESTION_CHARS = 20_000
MAX_ID_CHARS = 200


class PromptSource(Protocol):
    """Provides the prompts of each iteration. Deterministic: equal arguments give equal prompts in any process."""

    def prompts(self, iteration: int, num_prompts: int | None) -> list[Prompt]:
        """Return one iteration's training prompts, with distinct ids; None for an equal share of all."""

    def held_out(self) -> list[Prompt]:
        """Return the evaluation prompts, which are never trained on."""


class CheckedImages(NamedTuple):
    """Result of decoding every image of some prompts.

    good: the prompts whose images can all be decoded, in order
    dropped: number of dropped prompts by `ImageError.reason`
    sizes: (width, height) in pixels of every decoded image, as `load_image` orients it, by path
    """

    good: list[Prompt]
    dropped: Counter[str]
    sizes: dict[str, tuple[int, int]]


def check_images(prompts: Sequence[Prompt], max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> CheckedImages:
    """Decode every image once, and separate the usable prompts from counts of the unusable ones by reason.

    Every unusable prompt is logged as a one-sentence warning and dropped without replacement.
    """
    checked = CheckedImages([], Counter(), {})
    for prompt in prompts:
        try:
            for path in prompt.image_paths:
                if path not in checked.sizes:
                    checked.sizes[path] = load_image(path, max_pixels, max_bytes).size
        except ImageError as error:
            log.warning("Prompt %s is dropped: %s", prompt.id, error)
            checked.dropped[error.reason] += 1
        else:
            checked.good.append(prompt)
    return checked


def check_images_of(source: PromptSource, prompts: Sequence[Prompt]) -> CheckedImages:
    """Check images by their source's limits, if it has any, else by the default limits."""
    check: Callable[[Sequence[Prompt]], CheckedImages] = getattr(source, "check_images", check_images)
    return check(prompts)


class SharedPrompts:
    """A list of prompts shared by the iterations.

    Each iteration gets a new slice of a seeded shuffle. With `reuse_prompts`, slices continue into further shuffles
    once all prompts are used; a prompt that then occurs twice in one iteration gets a different id the second time. The
    question of a held-out prompt about the same images is never trained on, whatever its id; its images may be.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        *,
        path: str,
        num_iterations: int,
        seed: int,
        num_held_out: int,
        reuse_prompts: bool,
        max_pixels: int,
        max_bytes: int,
    ) -> None:
        """Set the held-out prompts aside.

        Args:
            prompts: all of them, with distinct ids.
            path: name of the prompts in messages.
            num_iterations: number of iterations that share the prompts.
            seed: of the shuffles; the first k held-out prompts are the same for every `num_held_out` of at least k.
            num_held_out: number of evaluation prompts.
            reuse_prompts: whether prompts may be used again once all have been used.
            max_pixels: see `load_image`.
            max_bytes: see `load_image`.

        Raises:
            ValueError: a number is too small, or no prompts would be left to train on.
        """
        self.path = path
        self.num_iterations = num_iterations
        self.seed = seed
        self.reuse_prompts = reuse_prompts
        self.max_pixels = max_pixels
        self.max_bytes = max_bytes
        if num_iterations < 1 or num_held_out < 0:
            raise ValueError(
                f"num_iterations has to be at least 1 and num_held_out at least 0, "
                f"but they are {num_iterations} and {num_held_out}."
            )
        order = random.Random(f"{seed}/held_out").sample(range(len(prompts)), len(prompts))
        # Only prompts with images: a model answers held-out prompts and is asked about their images.
        held_out = set([k for k in order if prompts[k].image_paths][:num_held_out])
        self._held_out = [prompt for k, prompt in enumerate(prompts) if k in held_out]
        asked = {prompt.asks for prompt in self._held_out}
        self._training = [prompt for prompt in prompts if prompt.asks not in asked]
        if not self._training:
            raise ValueError(
                f"{path} has {len(prompts)} prompts, so holding out {num_held_out} of them leaves none to train on."
            )

    def held_out(self) -> list[Prompt]:
        """Return the evaluation prompts in file order."""
        return list(self._held_out)

    def prompts(self, iteration: int, num_prompts: int | None) -> list[Prompt]:
        """Return one iteration's training prompts.

        Args:
            iteration: from 0 to `num_iterations` - 1.
            num_prompts: number of prompts; None divides all prompts equally among the iterations, to within one.

        Raises:
            ValueError: the iteration does not exist, or without `reuse_prompts` all iterations together need more
                prompts than there are.
        """
        num_iterations, available = self.num_iterations, len(self._training)
        if not 0 <= iteration < num_iterations:
            raise ValueError(f"Iteration {iteration} is not one of the {num_iterations} iterations, counted from 0.")
        if num_prompts is None and available >= num_iterations:
            start, stop = available * iteration // num_iterations, available * (iteration + 1) // num_iterations
            return self._slice(start, stop)
        wanted = 1 if num_prompts is None else num_prompts
        if wanted < 1:
            raise ValueError(f"num_prompts has to be at least 1, but it is {num_prompts}.")
        if wanted * num_iterations > available and not self.reuse_prompts:
            raise ValueError(
                f"{num_iterations} iterations of {wanted} prompts need {wanted * num_iterations}, but {self.path} has "
                f"{available} to train on; lower iteration.num_prompts or set data.reuse_prompts=true."
            )
        return self._slice(wanted * iteration, wanted * (iteration + 1))

    def check_images(self, prompts: Sequence[Prompt]) -> CheckedImages:
        """Call the function `check_images` with the limits of this source."""
        return check_images(prompts, self.max_pixels, self.max_bytes)

    def _slice(self, start: int, stop: int) -> list[Prompt]:
        size = len(self._training)
        chosen: dict[str, Prompt] = {}
        for shuffle in range(start // size, (stop - 1) // size + 1):
            order = random.Random(f"{self.seed}/{shuffle}").sample(self._training, size)
            for prompt in order[max(start - shuffle * size, 0) : stop - shuffle * size]:
                unique_id = prompt.id
                while unique_id in chosen:
                    unique_id += f"~{shuffle}"
                chosen[unique_id] = replace(prompt, id=unique_id)
        return list(chosen.values())


class FilesSource(SharedPrompts):
    """Prompts from a file.

    The whole list is read and checked on construction, where an invalid line or a missing image is an error. An
    existing but damaged image only drops its prompt later (`check_images`), unless no image has a readable header.
    """

    def __init__(
        self,
        *,
        path: str,
        num_iterations: int,
        seed: int,
        num_held_out: int = 0,
        reuse_prompts: bool = False,
        max_pixels: int = MAX_PIXELS,
        max_bytes: int = MAX_BYTES,
        image_root: str | None = None,
        turns: Turns = "first",
    ) -> None:
        """Read and check the list at `path`; for `image_root` and `turns` see `read_prompts`, else `SharedPrompts`.

        Raises:
            ValueError: the file cannot be read, a line is invalid (the message names file, line and field), or no
                prompts would be left to train on.
        """
        self.image_root = image_root
        self.turns = turns
        prompts = read_prompts(path, image_root, turns)
        super().__init__(
            prompts,
            path=path,
            num_iterations=num_iterations,
            seed=seed,
            num_held_out=num_held_out,
            reuse_prompts=reuse_prompts,
            max_pixels=max_pixels,
            max_bytes=max_bytes,
        )
        self._refuse_unreadable(prompts)

    def _refuse_unreadable(self, prompts: Sequence[Prompt]) -> None:
        errors: list[ImageError] = []
        paths = dict.fromkeys(path for prompt in prompts for path in prompt.image_paths)
        for path in paths:
            try:
                check_header(path, self.max_pixels, self.max_bytes)
            except ImageError as error:
                errors.append(error)
        if len(errors) == len(paths):
            raise ValueError(f"None of the {len(paths)} images of {self.path} is usable; about the first: {errors[0]}")
        if errors:
            log.warning(
                "%d of the %d images of %s are unusable and will cost their prompts; about the first: %s",
                len(errors),
                len(paths),
                self.path,
                errors[0],
            )


def read_prompts(path: str | Path, image_root: str | Path | None = None, turns: Turns = "first") -> list[Prompt]:
    """Read a list of prompts in order.

    Args:
        path: the file, in any form that `prompt_lists` reads.
        image_root: directory that holds all images, relative to the list's directory; None for the list's directory.
        turns: which questions of a conversation to use: the first, or all.

    Returns:
        Prompts whose image paths are real paths, with links resolved.

    Raises:
        ValueError: the file cannot be read or has no prompts, the root is not a directory, or a line is not a JSON
            object, lacks a field, has a field of the wrong type, empty or too long, repeats an id, or names an image
            that does not exist or lies outside the root.
    """
    folder = Path(os.path.realpath(Path(path).parent / Path(image_root or "").expanduser()))
    if not folder.is_dir():
        raise ValueError(f"data.image_root={image_root} is not a directory.")
    prompts: list[Prompt] = []
    line_of_id: dict[str, int] = {}
    for number, where, fields in read_entries(path, turns):
        prompt = _parse(fields, number, folder, where)
        first = line_of_id.setdefault(prompt.id, number)
        if first != number:
            kind = where.partition(" ")[0]
            raise ValueError(f"Field 'id' in {where} repeats {prompt.id!r} from {kind} {first}.")
        prompts.append(prompt)
    if not prompts:
        raise ValueError(f"The prompt list {path} has no prompts.")
    return prompts


def _parse(fields: dict[str, Any], number: int, folder: Path, where: str) -> Prompt:
    for name in ("image", "question"):
        if name not in fields:
            raise ValueError(f"Field {name!r} is missing in {where}.")
    identifier = fields.get("id", number)
    if type(identifier) is int:
        identifier = str(identifier)
    images = fields["image"] if isinstance(fields["image"], list) else [fields["image"]]
    if not images:
        raise ValueError(f"Field 'image' is empty in {where}.")
    image_paths = tuple(_image_path(_text(image, "image", where), folder, where) for image in images)
    identifier, question = _text(identifier, "id", where), _text(fields["question"], "question", where)
    facts = fields.get("facts") or []
    facts = tuple(_text(fact, "facts", where) for fact in (facts if isinstance(facts, list) else [facts]))
    answer, demonstration = (
        "" if fields.get(name) in (None, "") else _text(fields[name], name, where)
        for name in ("answer", "demonstration")
    )
    if not identifier.isprintable():
        raise ValueError(f"Field 'id' in {where} has characters that cannot be printed: {identifier!r}.")
    limited = [("id", identifier, MAX_ID_CHARS), ("question", question, MAX_QUESTION_CHARS)]
    limited += [("answer", answer, MAX_QUESTION_CHARS), ("demonstration", demonstration, MAX_QUESTION_CHARS)]
    limited += [("facts", fact, MAX_QUESTION_CHARS) for fact in facts]
    for name, text, limit in limited:
        if len(text) > limit:
            raise ValueError(f"Field {name!r} in {where} has {len(text)} characters, more than the {limit} allowed.")
    return Prompt(identifier, question, image_paths, facts=facts, answer=answer, demonstration=demonstration)


def _image_path(image: str, folder: Path, where: str) -> str:
    """Return the real path of an image in `folder`, checked before any file is opened or even looked for."""
    named, found = folder / image, path_inside(folder, image)
    if found is None:
        raise ValueError(
            f"Field 'image' in {where} names {named}, which lies outside {folder}; data.image_root=DIR allows another place."
        )
    if not os.path.isfile(found):
        raise ValueError(f"Field 'image' in {where} names {named}, which is not an existing file.")
    return str(found)


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        kinds = {
            "id": "a string or an integer",
            "image": "a path or a list of paths",
            "facts": "a string or a list of strings",
        }
        raise ValueError(
            f"Field {name!r} in {where} has to be {kinds.get(name, 'a string')}, but it is of type {type(value).__name__}."
        )
    if not value.strip():
        raise ValueError(f"Field {name!r} is empty in {where}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"Field {name!r} in {where} has half of a surrogate pair, which is no text.") from error
    return value
