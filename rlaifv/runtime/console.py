"""Console logging, and progress bars for long operations."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from transformers.utils.logging import disable_progress_bar

from rlaifv.runtime.phases import timed
from rlaifv.runtime.ranks import rank

# Without a terminal Rich assumes 80 columns; our tables need 100.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)


def set_up_logging(verbose: bool = False) -> None:
    """Set up one-line console messages; libraries log from warnings on.

    Known harmless library warnings are silenced here, each with its reason, and nowhere else.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # unencodable characters must not end the run
    handler = RichHandler(console=console, show_path=False, show_time=False, rich_tracebacks=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("rlaifv").setLevel(logging.DEBUG if verbose else logging.INFO)
    for name in ("lightning.pytorch", "lightning.fabric", "transformers", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR if not verbose else logging.INFO)
    if not verbose:
        disable_progress_bar()  # weight loading shows one bar per file
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Pairs are few and already encoded; on small configurations worker processes cost more than they save.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # A run directory that holds committed iterations is not empty when training starts.
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*Experiment logs directory.*")
    # The data module counts the batches of an epoch, and its loader skips those already read.
    warnings.filterwarnings("ignore", message=".*ended before the epoch ended and your dataloader is.*")
    # Lightning's own use of torch's pytree module.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    # Deprecations between transformers and peft, which users cannot act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")
    # Epochs of few steps are normal here: the logger writes at every step and at the end of every epoch.
    warnings.filterwarnings(
        "ignore", message=".*The number of training batches.*is smaller than the logging interval.*"
    )


class _Rate(ProgressColumn):
    """Finished units per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="cyan")


class StageBars:
    """Progress bars of an operation in stages, one below the other; `seconds` holds the duration of each stage.

    Args:
        title: prefix of each stage's name.
        phase: phase of the run's clock that all stages count towards; by default each stage is its own phase.
    """

    def __init__(self, title: str, phase: str | None = None) -> None:
        self.title = title
        self.phase = phase
        self.seconds: dict[str, float] = {}
        self._bars = progress_bar()

    def __enter__(self) -> "StageBars":
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar and yield the function that advances it."""
        task = self._bars.add_task(f"{self.title}  {name:<9}", total=total, note="")
        began = time.perf_counter()
        with timed(self.phase or name):
            yield lambda num_finished: self._bars.advance(task, num_finished)
        self.seconds[name] = time.perf_counter() - began


def progress_bar() -> Progress:
    """Return a progress bar in the common layout: description, bar, count, rate, elapsed and remaining time."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=rank() != 0,
    )
