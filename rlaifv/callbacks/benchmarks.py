"""Ask a few questions of benchmarks before every iteration and after the last."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from rlaifv.benchmarks.answering import asked_by, run_benchmark
from rlaifv.benchmarks.outcome import check_given, fingerprint, flat_metrics, needs_reviews
from rlaifv.benchmarks.places import given_in
from rlaifv.benchmarks.questions import Asking, questions_of
from rlaifv.benchmarks.registry import benchmark
from rlaifv.callbacks.iteration import parts
from rlaifv.engines.local import LocalEngine
from rlaifv.models.digests import weights_digest
from rlaifv.runtime.console import StageBars
from rlaifv.runtime.ranks import rank
from rlaifv.runtime.stopping import or_stop, wait_until
from rlaifv.store.atomic import make_directory, write_json

DIRECTORY = "evaluations"


class BenchmarkCallback(Callback):
    """Runs benchmarks when the policy is measured, and logs `benchmark/<name>/<metric>`.

    `observers.held_out.HeldOut` calls `measure`. Results are in `evaluations/NNN-benchmarks.json` and are made once. The
    questions are the same every time.

    Args:
        names: of the benchmarks, without those that need reviews.
        data_root: holds the user's copy of each in a directory of its name.
        num_items: questions of each at least, of whole images; None for all.
        max_new_tokens: of an answer, where less than the benchmark's own.
        suffix: appended to every question.
        pictures: where pictures are written that lie in question files.
        parsers: how answers are read, by benchmark, where it is not the official way.

    Raises:
        ValueError: a name is unknown, or files are missing or not of the benchmark; before anything else is loaded.
    """

    def __init__(
        self,
        names: Sequence[str],
        data_root: str,
        num_items: int | None,
        max_new_tokens: int | None,
        suffix: str,
        pictures: str,
        parsers: Mapping[str, str],
    ) -> None:
        if not names or len({*names}) < len(names):
            raise ValueError(
                f"evaluation.benchmarks.names={list(names)} must name at least one benchmark, and none twice."
            )
        for name, value in (("num_items", num_items), ("max_new_tokens", max_new_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"evaluation.benchmarks.{name}={value} must be at least 1.")
        for name in parsers:
            benchmark(name)  # one that there is
        self.how = Asking(suffix, num_items, max_new_tokens)
        self.asked = []
        for name in names:
            one = benchmark(name)
            if needs_reviews(one):
                raise ValueError(f"evaluation.benchmarks.names has {name}, which needs reviews; use tools/evaluate.py.")
            given = replace(given_in(one, Path(data_root).expanduser()), parser=parsers.get(name, "official"))
            check_given(one, given)
            self.asked.append((one, given, questions_of(one, given, self.how, Path(pictures))))

    def measure(self, iteration: int, engine: LocalEngine, run_dir: Path) -> None:
        """Run all of them after `iteration` iterations, unless that was done before. Called on every rank."""
        path = benchmarks_path(run_dir, iteration)
        if path.exists():
            return
        if rank() > 0:
            wait_until(path.exists)
            return
        digest = weights_digest(engine.model)
        results = {}
        name = f"iteration {iteration}" if iteration else "base model "
        with StageBars(name, phase="measure") as bars:
            for one, given, questions in self.asked:
                by = fingerprint(asked_by(questions, digest, self.how, self.how.decoding(one)))
                place = path.parent / "benchmarks" / f"{iteration:03d}" / f"{one.name}-{by}"
                with bars.stage(one.name, len(questions.items)) as advance:
                    results[one.name] = run_benchmark(
                        one, given, questions, engine, digest, place, self.how, or_stop(advance)
                    )
        make_directory(path.parent)
        write_json(path, {"num_iterations": iteration, "model_sha256": digest, "benchmarks": results})

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data, _ = parts(trainer, pl_module)
        if data.epoch == 0:
            self._log(trainer, data.iteration)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data, _ = parts(trainer, pl_module)
        if data.iteration == data.num_iterations:
            self._log(trainer, data.iteration)

    def _log(self, trainer: L.Trainer, iteration: int) -> None:
        path = benchmarks_path(Path(trainer.default_root_dir), iteration)
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
            metrics = {
                f"benchmark/{name}/{metric}": value
                for name, result in found.items()
                for metric, value in flat_metrics(result["metrics"])
                if value is not None
            }
            for logger in trainer.loggers if metrics else ():
                logger.log_metrics(metrics, step=trainer.global_step)


def benchmarks_path(run_dir: Path, iteration: int) -> Path:
    """Return what benchmarks said after `iteration` iterations."""
    return run_dir / DIRECTORY / f"{iteration:03d}-benchmarks.json"
