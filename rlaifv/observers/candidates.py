"""Candidates: trainable weights stored within an iteration and measured on held-out prompts, of which the best goes on.

    iterations/000/candidates/start.safetensors           what the iteration began with, where the policy labels itself
                              start.json                  what was measured of it
                              step=000012.safetensors     what trains, after 12 optimizer steps of the run
                              step=000012.json            its digest and what was measured of it; written last
                   candidates.json                        all of them, and which one went on

All candidates of an iteration have one labeler. Where the policy labels itself that is the policy as the iteration began, as
for the iteration's pairs: those weights are put in while candidates' claims are judged. Nothing is measured twice: a record
is known again by the digest of the weights, so a resumed run that makes the same steps finds the same candidates.

At most the start, the best of earlier passes and the candidates of the present one lie on the disk; after the choice only
the start and the chosen one do, until the next iteration has chosen, as long as a run may have to go back.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

from torch import Tensor

from rlaifv.engines.protocol import Advance, Labeler, ignore_progress
from rlaifv.models.trained import on_host, other_weights, read_trained, trained_digest, write_trained
from rlaifv.observers.held_out import HeldOut
from rlaifv.observers.selection import CLAIMS, Candidate, choose, claims_enough
from rlaifv.records import Prompt
from rlaifv.runtime.phases import timed
from rlaifv.runtime.ranks import rank
from rlaifv.runtime.stopping import wait_until
from rlaifv.store.atomic import failpoint, make_directory, write_json
from rlaifv.store.manifest import iteration_directory
from rlaifv.store.run_dir import require_space

logger = logging.getLogger(__name__)

START = "start"


@dataclass(frozen=True, slots=True)
class AtStart:
    """A policy as labeler, with the weights that its iteration began with."""

    engine: Labeler
    model: Any
    path: Path
    digest: str

    def answer_probabilities(
        self, asked: Sequence[tuple[Prompt, Sequence[str]]], advance: Advance = ignore_progress
    ) -> list[list[tuple[float, float]]]:
        """See `protocol.Labeler`."""
        with other_weights(self.model, self.path, self.digest):
            return self.engine.answer_probabilities(asked, advance)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Take and compare candidates of the policy. Called on every rank; the first one measures and writes.

    Attributes:
        held_out: measures them, on the held-out prompts that select.
        min_free_bytes: free disk space below which none is stored.
    """

    held_out: HeldOut
    min_free_bytes: int = 0

    def directory(self, iteration: int) -> Path:
        """Return the directory of an iteration's candidates."""
        return iteration_directory(self.held_out.run_dir, iteration) / "candidates"

    def begin(self, iteration: int, step: int) -> Candidate:
        """Measure the policy at an iteration's start, and store its weights if they will judge the candidates."""
        return self._take(iteration, START, step, 0.0, self.held_out.labeler, self._labels_itself)

    def take(
        self, iteration: int, step: int, epoch: float, previous: int, masters: Mapping[str, Tensor] | None = None
    ) -> Candidate:
        """Store and measure the current policy, unless that was done before.

        Args:
            iteration: counted from 0.
            step: optimizer steps of the run so far.
            epoch: passes over the iteration's pairs so far.
            previous: step of the candidate before, or of the pass's begin. Between the two there is none; one that is there
                was taken by another number of processes, whose steps were given up.
            masters: of 16-bit weights, by name, to be stored in their place.

        Raises:
            Stopped: a signal came while it was measured.
            OSError: there is no room for it.
        """
        if rank() == 0:
            for other in self.taken(iteration):
                if previous < other.step < step:
                    self._remove(iteration, other.step, record=True)
            self._prune(iteration, [c for c in self.taken(iteration) if c.epoch <= ceil(epoch) - 1])
        return self._take(iteration, _name(step), step, epoch, self._labeler(iteration), True, masters)

    def taken(self, iteration: int) -> list[Candidate]:
        """Return the candidates of an iteration that were measured, by step."""
        paths = sorted(self.directory(iteration).glob("step=*.json"))
        return sorted(map(_read, paths), key=lambda candidate: candidate.step)

    def choose(self, iteration: int, step: int) -> Candidate:
        """Choose the candidate that goes on after an iteration ending at `step`; write candidates.json. First rank only."""
        start = _read(self.directory(iteration) / f"{START}.json")
        taken = [candidate for candidate in self.taken(iteration) if candidate.step <= step]
        there = [c for c in taken if self._weights(iteration, _name(c.step)).exists()]
        rules = self.held_out.selection
        chosen = choose(there, start, rules)
        if rules.by != "last" and not claims_enough(chosen, start, rules):
            logger.warning(
                "None of %d candidates of iteration %d makes iteration.selection.min_claims=%g of the %.2f claims an answer "
                "at its start; the one that makes the most, %.2f, goes on.",
                *(len(taken), iteration + 1, rules.min_claims, start.metrics[CLAIMS], chosen.metrics[CLAIMS]),
            )
        failpoint("candidates.choose")
        result = {"by": rules.by, "min_claims": rules.min_claims, "chosen": chosen.step, "start": asdict(start)}
        path = self.directory(iteration).with_suffix(".json")
        write_json(path, result | {"candidates": [asdict(candidate) for candidate in taken]})
        return chosen

    @timed("candidates")
    def load(self, iteration: int, step: int) -> dict[str, Tensor]:
        """Load a candidate into the policy, on every rank. Returns its stored tensors, masters included.

        Raises:
            ValueError: its weights are not those that were measured.
        """
        digest = _read(self._record(iteration, _name(step))).digest
        return read_trained(self.held_out.policy.model, self._weights(iteration, _name(step)), digest)

    def tidy(self, iteration: int, is_over: bool = False) -> None:
        """Remove weights that no resumed run needs, once a checkpoint holds the choice of `iteration`.

        Those are all of earlier iterations, and of this one all but its start and its choice; these too where the run is
        over.
        """
        if rank() > 0 or iteration < 0:
            return
        for earlier in range(iteration + is_over):
            for path in self.directory(earlier).glob("*.safetensors"):
                path.unlink()
        chosen = self.directory(iteration).with_suffix(".json")
        if chosen.exists() and not is_over:
            kept = _name(json.loads(chosen.read_text(encoding="utf-8"))["chosen"])
            for path in self.directory(iteration).glob("step=*.safetensors"):
                if path.stem != kept:
                    path.unlink()

    @property
    def _labels_itself(self) -> bool:
        return getattr(self.held_out.labeler, "model", None) is self.held_out.policy.model

    def _labeler(self, iteration: int) -> Labeler:
        engine = self.held_out.labeler
        if not self._labels_itself or rank() > 0:
            return engine
        digest = _read(self._record(iteration, START)).digest
        return AtStart(engine, self.held_out.policy.model, self._weights(iteration, START), digest)

    @timed("candidates")
    def _take(
        self,
        iteration: int,
        name: str,
        step: int,
        epoch: float,
        labeler: Labeler,
        keep: bool,
        masters: Mapping[str, Tensor] | None = None,
    ) -> Candidate:
        record, weights = self._record(iteration, name), self._weights(iteration, name)
        tensors = on_host(self.held_out.policy.model)
        digest = trained_digest(self.held_out.policy.model, tensors)
        if rank() > 0:
            wait_until(lambda: _is_known(record, digest))
            return _read(record)
        is_known = _is_known(record, digest)
        if not is_known:  # else what is about to be written would pass for what it says
            record.unlink(missing_ok=True)
        if keep and not (is_known and weights.exists()):
            require_space(self.held_out.run_dir, self.min_free_bytes)
            failpoint("candidates.store")
            make_directory(weights.parent)
            of_masters = {name: master.cpu() for name, master in (masters or {}).items()}
            write_trained(tensors | of_masters, weights)
        if is_known:
            return _read(record)
        prompts = self.held_out.prompts(for_choice=True)
        if not prompts:
            raise ValueError("No held-out prompt with an image that can be read is left to choose candidates on.")
        failpoint("candidates.measure")
        measured = Candidate(step, epoch, digest, self.held_out.evaluate(prompts, labeler).metrics)
        make_directory(record.parent)
        write_json(record, asdict(measured))
        return measured

    def _prune(self, iteration: int, some: Sequence[Candidate]) -> None:
        """Remove the weights of all but the best of some candidates."""
        there = [c for c in some if self._weights(iteration, _name(c.step)).exists()]
        if len(there) > 1:
            best = choose(there, _read(self._record(iteration, START)), self.held_out.selection)
            for other in there:
                if other.step != best.step:
                    self._remove(iteration, other.step)

    def _remove(self, iteration: int, step: int, record: bool = False) -> None:
        if record:
            self._record(iteration, _name(step)).unlink()
        self._weights(iteration, _name(step)).unlink(missing_ok=True)

    def _record(self, iteration: int, name: str) -> Path:
        return self.directory(iteration) / f"{name}.json"

    def _weights(self, iteration: int, name: str) -> Path:
        return self.directory(iteration) / f"{name}.safetensors"


def _name(step: int) -> str:
    return f"step={step:06d}"


def _read(path: Path) -> Candidate:
    try:
        return Candidate.parse(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged, or not a file of this kind: {error!r}.") from error


def _is_known(path: Path, digest: str) -> bool:
    return path.exists() and _read(path).digest == digest
