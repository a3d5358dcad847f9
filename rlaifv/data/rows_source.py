"""Published preference data as a source: of prompts, and of the pairs that come with them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rlaifv.data.images import MAX_BYTES, MAX_PIXELS
from rlaifv.data.rows import Row
from rlaifv.data.sources import SharedPrompts
from rlaifv.data.tables import Table
from rlaifv.records import Prompt
from rlaifv.runtime import progress_bar
from rlaifv.store.atomic import make_directory, publish

# First bytes of a file, and how its name ends.
SIGNATURES = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG": "png",
    b"RIFF": "webp",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
}


class RowsSource(SharedPrompts):
    """Prompts, and pairs, from data in one of the formats of `data.rows`.

    All rows are read and checked when the source is made; rows with the same question about the same images are one prompt,
    so none is used twice. Embedded images are told apart by SHA-256 then, and written to
    `directory/<sha256>.<ending>` only when a prompt that has them is asked for.
    """

    def __init__(
        self,
        *,
        form: str,
        path: str,
        directory: str | Path,
        num_iterations: int,
        seed: int,
        revision: str | None = None,
        split: str = "train",
        streaming: bool = False,
        num_rows: int | None = None,
        image_root: str | None = None,
        num_held_out: int = 0,
        reuse_prompts: bool = False,
        max_pixels: int = MAX_PIXELS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Read all rows. What data to read is as for `Table`, how iterations share them as for `SharedPrompts`.

        `directory` is where embedded images are written, made if missing.

        Raises:
            ValueError: the data cannot be read, or a row is wrong (named with data, row and column).
        """
        self.table = Table(
            form,
            path,
            revision=revision,
            split=split,
            streaming=streaming,
            num_rows=num_rows,
            image_root=image_root,
        )
        self.directory = Path(directory).absolute()
        self._embedded: dict[str, tuple[int, int]] = {}
        self._answers: dict[tuple[str, tuple[str, ...]], list[Row]] = {}
        self._first_without_answers: int | None = None
        prompts, self.digest = self._read()
        super().__init__(
            prompts,
            path=self.table.name,
            num_iterations=num_iterations,
            seed=seed,
            num_held_out=num_held_out,
            reuse_prompts=reuse_prompts,
            max_pixels=max_pixels,
            max_bytes=max_bytes,
        )

    def prompts(self, iteration: int, num_prompts: int | None) -> list[Prompt]:
        """See `SharedPrompts`; their embedded images lie in `directory` afterwards."""
        return self._written(super().prompts(iteration, num_prompts))

    def held_out(self) -> list[Prompt]:
        """See `SharedPrompts`; their embedded images lie in `directory` afterwards."""
        return self._written(super().held_out())

    def answers(self, prompt: Prompt) -> list[Row]:
        """The rows of a prompt, whose ids are unique; without images, which are the prompt's.

        Raises:
            ValueError: a row of the data has no chosen and rejected answer.
        """
        if self._first_without_answers is not None:
            raise ValueError(
                f"Columns 'chosen' and 'rejected' are missing in row {self._first_without_answers} of {self.table.name}, "
                "so it is no pair to train on."
            )
        return self._answers[prompt.question, prompt.image_paths]

    def _read(self) -> tuple[list[Prompt], str]:
        """Distinct prompts in the order of the rows, and a digest of all that was read; remembers what belongs to them."""
        digest = hashlib.sha256()
        prompts: dict[tuple[str, tuple[str, ...]], Prompt] = {}
        ids: set[str] = set()
        for number, row in enumerate(_with_progress(self.table)):
            row_id = row.id if row.id not in ids else f"{row.id}~row-{number}"
            ids.add(row_id)
            paths = tuple(self._path(image, number, k) for k, image in enumerate(row.images))
            key = row.question, paths
            prompts.setdefault(key, Prompt(row_id, *key))
            self._answers.setdefault(key, []).append(replace(row, id=row_id, images=()))
            if row.chosen is None and self._first_without_answers is None:
                self._first_without_answers = number
            names = [Path(path).name for path in paths]
            digest.update(repr((row_id, row.question, names, row.chosen, row.rejected)).encode())
        if not prompts:
            raise ValueError(f"{self.table.name} has no rows.")
        return list(prompts.values()), digest.hexdigest()

    def _path(self, image: str | bytes, row: int, number: int) -> str:
        if isinstance(image, str):
            return image
        path = str(self.directory / f"{hashlib.sha256(image).hexdigest()}.{ending(image)}")
        self._embedded.setdefault(path, (row, number))
        return path

    def _written(self, prompts: list[Prompt]) -> list[Prompt]:
        paths = dict.fromkeys(path for prompt in prompts for path in prompt.image_paths if path in self._embedded)
        missing = [path for path in paths if not Path(path).exists()]
        if missing:
            make_directory(self.directory)
        for path in missing:
            row, number = self._embedded[path]
            content = self.table[row].images[number]
            assert isinstance(content, bytes)
            with publish(Path(path)) as temporary:
                temporary.write_bytes(content)
        return prompts


def ending(content: bytes) -> str:
    """How the name of an image file ends, by its first bytes; "img" where they are of no known format.

    >>> ending(b"GIF89a..."), ending(b"<html>")
    ('gif', 'img')
    """
    return next((name for start, name in SIGNATURES.items() if content.startswith(start)), "img")


def _with_progress(table: Sequence[Row]) -> Iterator[Row]:
    """The rows of a table, with a bar, as images of a large one take minutes to go through."""
    with progress_bar() as bars:
        task = bars.add_task("read data", total=len(table), note="")
        for number, row in enumerate(table, start=1):
            yield row
            if number % 100 == 0 or number == len(table):
                bars.update(task, completed=number)
