"""Read a benchmark's questions, all or some, grouped by image."""

import hashlib
import json
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from rlaifv.benchmarks.protocol import Benchmark, Given, Item
from rlaifv.data.image_root import path_inside
from rlaifv.data.images import ImageError, check_header
from rlaifv.models.sampling import Decoding
from rlaifv.records import Prompt
from rlaifv.runtime.seeds import derive_seed
from rlaifv.store.atomic import make_directory, publish

DIGEST_CHARS = 16


@dataclass(frozen=True, slots=True)
class Asking:
    """Settings for asking a model a benchmark's questions.

    suffix: appended to every question
    num_items: questions at least, of whole images, the same ones every time; None for all
    max_new_tokens: of an answer, where less than the benchmark's own
    shard_items: questions at least to a shard, which is what a crash can cost
    seed: of answers that are drawn, where a benchmark has them drawn
    """

    suffix: str = ""
    num_items: int | None = None
    max_new_tokens: int | None = None
    shard_items: int = 256
    seed: int = 0

    def decoding(self, benchmark: Benchmark) -> Decoding:
        """Return the benchmark's own, with answers no longer than asked for."""
        own = benchmark.decoding.max_new_tokens
        return replace(benchmark.decoding, max_new_tokens=min(own, self.max_new_tokens or own))


@dataclass(frozen=True, slots=True)
class AskedImage:
    """The questions about the same images."""

    prompt: Prompt
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Questions:
    """What a model is asked: `items` in the benchmark's order, the same by their `images`, and whether some are left out."""

    items: tuple[Item, ...]
    images: tuple[AskedImage, ...]
    is_part: bool

    @property
    def digest(self) -> str:
        """Of ids, questions, and the names or bytes of their images."""
        asked = hashlib.sha256()
        for item in self.items:
            images = [name if isinstance(name, str) else hashlib.sha256(name).hexdigest() for name in item.images]
            asked.update(json.dumps([item.id, item.question, images]).encode() + b"\n")
        return asked.hexdigest()[:DIGEST_CHARS]


def questions_of(benchmark: Benchmark, given: Given, how: Asking, pictures: Path) -> Questions:
    """Return the questions of a benchmark, by their images, each of which can be read.

    Args:
        benchmark: whose they are.
        given: its files; with `allow_incomplete`, questions whose images cannot be read are left out.
        how: how many of them.
        pictures: where pictures are written that lie in the question file.

    Raises:
        ValueError: the files are not the benchmark's, or an image is missing or damaged; the message names the first.
    """
    every = benchmark.items(given)
    by_images: dict[tuple[str | bytes, ...] | str, list[Item]] = {}
    for item in every:
        by_images.setdefault(item.images or item.id, []).append(item)  # questions without images are alone
    chosen = list(by_images.values())
    if how.num_items is not None:
        in_order = sorted(chosen, key=lambda items: derive_seed("benchmark", benchmark.name, items[0].id))
        counts = accumulate(map(len, in_order))
        number = next((k for k, count in enumerate(counts, start=1) if count >= how.num_items), len(in_order))
        kept = {items[0].id for items in in_order[:number]}
        chosen = [items for items in chosen if items[0].id in kept]
    asked, faults = [], []
    for items in chosen:
        try:
            paths = tuple(_path(name, given, benchmark, pictures) for name in items[0].images)
            for path in paths:
                check_header(path)
            asked.append(AskedImage(Prompt(items[0].id, "", paths), tuple(items)))
        except ImageError as error:
            faults.append(f"Question {items[0].id} of benchmark={benchmark.name}: {error}")
    if faults and not given.allow_incomplete:
        more = f" So it is with {len(faults) - 1} more images." if len(faults) > 1 else ""
        raise ValueError(f"{faults[0]}{more} allow_incomplete=true leaves their questions out, and says so.")
    if not asked:
        raise ValueError(f"There is no question of benchmark={benchmark.name} to ask. {' '.join(faults[:1])}".strip())
    ids = {id(item) for one in asked for item in one.items}
    items_asked = tuple(item for item in every if id(item) in ids)
    return Questions(items_asked, tuple(asked), len(items_asked) < len(every))


def _path(name: str | bytes, given: Given, benchmark: Benchmark, pictures: Path) -> str:
    if isinstance(name, bytes):
        path = (pictures / hashlib.sha256(name).hexdigest()[:32]).absolute()
        if not path.exists():
            make_directory(path.parent)
            with publish(path) as temporary:
                temporary.write_bytes(name)
        return str(path)
    if given.images is None:
        raise ValueError(f"images=… must be given for benchmark={benchmark.name}: the directory that {name} lies in.")
    inside = path_inside(given.images, name)
    if inside is None:
        raise ValueError(f"The image {name} of benchmark={benchmark.name} does not lie in {given.images}.")
    return str(inside)
