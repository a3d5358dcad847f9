"""Published preference data as a source of prompts and of their pairs."""

import hashlib
import logging
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from rlaifv.data.drops import Drops
from rlaifv.data.formats.pictures import ending
from rlaifv.data.formats.turns import RowError
from rlaifv.data.images import MAX_BYTES, MAX_PIXELS
from rlaifv.data.rows import Row
from rlaifv.data.sources import SharedPrompts
from rlaifv.data.tables import Table
from rlaifv.records import Asks, Prompt
from rlaifv.runtime.console import progress_bar
from rlaifv.store.atomic import make_directory, publish

log = logging.getLogger(__name__)


class RowsSource(SharedPrompts):
    """A source of prompts and pairs from data in one of the formats of `data.rows`.

    All rows are read and checked on construction; unusable rows are dropped and counted, up to a maximum fraction. Rows
    with the same conversation about the same images share one prompt, so none is used twice. Embedded images are
    identified by SHA-256, and written to `directory/<sha256>.<ending>` only when a prompt that uses them is requested.
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
        run: str = "full",
        max_drop_rate: float = 0.0,
        max_pixels: int = MAX_PIXELS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Read all rows. Data arguments are as for `Table`, those of sharing prompts as for `SharedPrompts`.

        Arguments of this class only: `directory` is where embedded images are written, created if missing. If `run` is
        train, rows need answers but no image; otherwise they need an image, since their prompts are answered.
        `max_drop_rate` is the largest fraction of rows that may be dropped.

        Raises:
            ValueError: the data cannot be read, too many rows are unusable (the message counts them by reason and names
                data, row and column of the first of each), or there are too few prompts with images to hold out.
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
        self.run, self.max_drop_rate = run, max_drop_rate
        self._embedded: dict[str, tuple[int, int]] = {}
        self._answers: dict[Asks, list[Row]] = {}
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
        if len(self._held_out) < num_held_out:
            raise ValueError(
                f"data.num_held_out={num_held_out} needs as many prompts with an image, but {self.table.name} has "
                f"{len(self._held_out)}."
            )

    def prompts(self, iteration: int, num_prompts: int | None) -> list[Prompt]:
        """See `SharedPrompts`; also writes the prompts' embedded images to `directory`."""
        return self._written(super().prompts(iteration, num_prompts))

    def held_out(self) -> list[Prompt]:
        """See `SharedPrompts`; also writes the prompts' embedded images to `directory`."""
        return self._written(super().held_out())

    def answers(self, prompt: Prompt) -> list[Row]:
        """Return the rows of a prompt, with unique ids and without images, which belong to the prompt.

        Raises:
            ValueError: a row of the data has no chosen and rejected answer.
        """
        if self._first_without_answers is not None:
            raise ValueError(
                f"Columns 'chosen' and 'rejected' are missing in row {self._first_without_answers} of {self.table.name}, "
                "so it is no pair to train on."
            )
        return self._answers[prompt.asks]

    def _read(self) -> tuple[list[Prompt], str]:
        """Return the distinct prompts in row order and a digest of all data; record the rows and images of each."""
        digest = hashlib.sha256()
        prompts: dict[Asks, Prompt] = {}
        ids: set[str] = set()
        drops = Drops()
        for number, found in enumerate(_with_progress(self.table)):
            row = found if isinstance(found, RowError) else self._usable(found, number)
            if isinstance(row, RowError):
                drops.add(row)
                continue
            row_id = row.id if row.id not in ids else f"{row.id}~row-{number}"
            ids.add(row_id)
            paths = tuple(self._path(image, number, k) for k, image in enumerate(row.images))
            prompt = Prompt(row_id, row.question, paths, row.system, row.history)
            prompts.setdefault(prompt.asks, prompt)
            self._answers.setdefault(prompt.asks, []).append(replace(row, id=row_id, images=()))
            if row.chosen is None and self._first_without_answers is None:
                self._first_without_answers = number
            names = [Path(path).name for path in paths]
            before = (row.system, row.history) if row.system or row.history else ()
            digest.update(repr((row_id, row.question, names, row.chosen, row.rejected, *before)).encode())
        self._tell(drops, prompts.values())
        return list(prompts.values()), digest.hexdigest()

    def _usable(self, row: Row, number: int) -> Row | RowError:
        """Return the row, or the reason why this kind of run cannot use it."""
        where = f"row {number} of {self.table.name}"
        if self.run == "train" and row.chosen is None:
            return RowError(
                f"Columns 'chosen' and 'rejected' are missing in {where}, so it is no pair to train on.", "no_answers"
            )
        if self.run != "train" and not row.images:
            return RowError(f"There is no image in {where}.", "no_image")
        return row

    def _tell(self, drops: Drops, prompts: Collection[Prompt]) -> None:
        """Report dropped and text-only rows. Raises ValueError if too many were dropped."""
        if not len(self.table):
            raise ValueError(f"{self.table.name} has no rows.")
        drops.check(self.table.name, len(self.table), self.max_drop_rate)
        num_texts = sum(len(self._answers[prompt.asks]) for prompt in prompts if not prompt.image_paths)
        if num_texts:
            log.info(
                "%d of the %d rows of %s have no image and are trained on as text.",
                num_texts,
                len(self.table),
                self.table.name,
            )

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


def _with_progress(table: Table) -> Iterator[Row | RowError]:
    """Yield the rows of a table with a progress bar, since reading the images of a large one takes minutes."""
    with progress_bar() as bars:
        task = bars.add_task("read data", total=len(table), note="")
        for number, row in enumerate(table.rows_and_errors(), start=1):
            yield row
            if number % 100 == 0 or number == len(table):
                bars.update(task, completed=number)
