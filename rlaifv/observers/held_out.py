"""Measure a policy on held-out prompts: greedy answers, the labeler's view of them, and the truth where it is known."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torchmetrics.functional.classification import binary_accuracy

from rlaifv.data.sources import PromptSource, check_images_of
from rlaifv.engines.local import LocalEngine
from rlaifv.engines.protocol import Advance, Labeler, Sampler, ignore_progress
from rlaifv.metrics.hallucination import HallucinationRate
from rlaifv.metrics.known_objects import benchmark_rates
from rlaifv.metrics.truth import KnownObjects, Truth
from rlaifv.models.sampling import Decoding
from rlaifv.observers.observer import Observer
from rlaifv.observers.selection import SelectionRules
from rlaifv.records import Claim, Judgement, Prompt, Response
from rlaifv.runtime.console import StageBars
from rlaifv.runtime.phases import timed
from rlaifv.runtime.ranks import rank
from rlaifv.runtime.stopping import or_stop, wait_until
from rlaifv.stages.dividers.protocol import AnyDivider, NotDivided, divide_all
from rlaifv.stages.generate import generate
from rlaifv.stages.score import QUESTION_SUFFIX, ask, score
from rlaifv.store.atomic import failpoint, make_directory, write_json
from rlaifv.store.iteration import Iteration


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Numbers by metric name, and a few answered prompts with their judged claims, ready for JSON."""

    metrics: dict[str, float]
    examples: list[dict[str, Any]]


class Measurement(Protocol):
    """Something else that is measured whenever the policy is, such as benchmarks."""

    def measure(self, iteration: int, engine: LocalEngine, run_dir: Path) -> None:
        """Measure the policy after `iteration` iterations, unless that was done before. Called on every rank."""
        ...


class AskedLabeler(Protocol):
    """A labeler and how it is asked, see `rlaifv.engines.labeler.LabelerModule`."""

    engine: Labeler
    question_suffix: str
    other_forms: tuple[str, ...]


@dataclass
class HeldOut(Observer):
    """Measure the policy before each iteration; `measure` is also called after the last one.

    Attributes:
        run_dir: results go to `evaluations/NNN.json`.
        source: gives the held-out prompts.
        policy: engine of the policy.
        labeler: judges the claims of its answers.
        divider: makes the claims.
        max_new_tokens: longest answer.
        truth: what is true of the prompts' images, if known.
        num_examples: answered prompts that are kept for the report; None measures candidates only.
        selection: with candidates, half of the prompts select among them, and the other half is reported.
        measurements: measured as well.
    """

    run_dir: Path
    source: PromptSource
    policy: LocalEngine
    labeler: AskedLabeler
    divider: AnyDivider
    max_new_tokens: int
    truth: Truth | None = None
    num_examples: int | None = 8
    selection: SelectionRules = field(default_factory=SelectionRules)
    measurements: Sequence[Measurement] = ()

    def on_start(self, work: Iteration) -> None:
        self.measure(work.number)

    @timed("measure")
    def measure(self, iteration: int) -> None:
        """Measure the policy after `iteration` iterations, unless that was done before. Called on every rank."""
        path = evaluation_path(self.run_dir, iteration)
        is_wanted = self.num_examples is not None and not path.exists()
        prompts = self.prompts(for_choice=False) if is_wanted else []
        if prompts and rank() > 0:
            wait_until(path.exists)
        elif prompts:
            failpoint("loop.measure")
            name = f"iteration {iteration}" if iteration else "base model "
            with StageBars(name) as bars, bars.stage("measure", len(prompts)) as advance:
                result = self.evaluate(prompts, self.labeler.engine, advance)
            make_directory(path.parent)
            write_json(path, {"num_iterations": iteration, "metrics": result.metrics, "examples": result.examples})
        for one in self.measurements:
            one.measure(iteration, self.policy, self.run_dir)

    def prompts(self, for_choice: bool) -> list[Prompt]:
        """Return held-out prompts with readable images.

        With candidate selection: the half that selects candidates if `for_choice`, else the half for reporting. Without it,
        all of them.
        """
        prompts = self.source.held_out()
        if self.selection.per_epoch:
            prompts = prompts[::2] if for_choice else prompts[1::2]
        return check_images_of(self.source, prompts).good

    def evaluate(self, prompts: Sequence[Prompt], labeler: Labeler, advance: Advance = ignore_progress) -> Evaluation:
        """Measure the policy as it is, with claims judged by `labeler`. Raises Stopped when a signal asks to stop."""
        return evaluate(
            prompts,
            self.policy,
            labeler,
            self.divider,
            self.max_new_tokens,
            self.truth,
            self.num_examples or 0,
            question_suffix=self.labeler.question_suffix,
            advance=or_stop(advance),
            other_forms=self.labeler.other_forms,
        )


def evaluation_path(run_dir: Path, iteration: int) -> Path:
    """Return the file with the measurement after `iteration` iterations."""
    return run_dir / "evaluations" / f"{iteration:03d}.json"


def evaluate(
    prompts: Sequence[Prompt],
    policy: Sampler,
    labeler: Labeler,
    divider: AnyDivider,
    max_new_tokens: int,
    truth: Truth | None,
    num_examples: int = 8,
    question_suffix: str = QUESTION_SUFFIX,
    advance: Advance = ignore_progress,
    other_forms: Sequence[str] = (),
) -> Evaluation:
    """Answer each prompt greedily, divide the answers into claims and judge them.

    Rates by the labeler (`rejected/response`, `rejected/mention`) exist for any prompts; those by the truth
    (`hallucination/*`, `coverage`, `labeler/accuracy`) where there is one, and the benchmarks' (`known_objects`) where it
    knows objects by name. The labeler never sees the truth. Answers that the divider failed at are left out of the rates, and
    `not_divided` is their share where it may fail.

    Raises:
        ValueError: the divider failed at all of them.
    """
    responses = generate(prompts, policy, Decoding(temperature=0, max_new_tokens=max_new_tokens), 1, 0, advance)
    divided = divide_all(divider, list(zip(prompts, responses, strict=True)))
    claims = {
        response.id: [] if isinstance(some, NotDivided) else some
        for response, some in zip(responses, divided, strict=True)
    }
    known = [response for response, some in zip(responses, divided, strict=True) if not isinstance(some, NotDivided)]
    if not known:
        raise ValueError(
            f"None of {len(responses)} held-out answers could be divided, so the policy cannot be measured."
        )
    said = [claim for some in claims.values() for claim in some]
    judged = score(prompts, said, labeler, question_suffix, other_forms=other_forms)
    judgements = {judgement.claim_id: judgement for judgement in judged}
    metrics = _labeler_rates(known, judged)
    if hasattr(divider, "divide_all"):
        metrics["not_divided"] = 1 - len(known) / len(responses)
    if truth is not None:
        metrics |= _true_rates(known, claims, truth)
        metrics["labeler/accuracy"] = labeler_accuracy(prompts, labeler, truth, question_suffix, other_forms)
    if isinstance(truth, KnownObjects):
        metrics |= benchmark_rates(prompts, responses, policy, truth, question_suffix, advance)
    examples = [
        _example(prompt, response, claims[response.id], judgements, truth)
        for prompt, response in list(zip(prompts, responses, strict=True))[:num_examples]
    ]
    return Evaluation(metrics, examples)


def labeler_accuracy(
    prompts: Sequence[Prompt],
    labeler: Labeler,
    truth: Truth,
    question_suffix: str = QUESTION_SUFFIX,
    other_forms: Sequence[str] = (),
) -> float:
    """Share of the truth's exam questions that the labeler answers right (p_yes > p_no means yes)."""
    exams = [truth.exam(prompt.id) for prompt in prompts]
    asked = [(prompt, [question for question, _ in exam]) for prompt, exam in zip(prompts, exams, strict=True)]
    answered = ask(labeler, asked, question_suffix, other_forms)
    said = [p_yes > p_no for answers in answered for p_yes, p_no in answers]
    true = [is_true for exam in exams for _, is_true in exam]
    return float(binary_accuracy(torch.tensor(said).int(), torch.tensor(true).int()))


def agreement(claims: Sequence[Claim], judgements: Sequence[Judgement], truth: Truth) -> float:
    """Share of judgements that equal the truth, the unknown ones left out; 0 where there are none."""
    known = [
        (judgement.verdict == "accepted") == truth.holds(claim.prompt_id, claim.text)
        for claim, judgement in zip(claims, judgements, strict=True)
        if judgement.verdict != "unknown"
    ]
    return sum(known) / len(known) if known else 0.0


def _labeler_rates(responses: Sequence[Response], judgements: Sequence[Judgement]) -> dict[str, float]:
    rejected = [judgement for judgement in judgements if judgement.verdict == "rejected"]
    return {
        "rejected/response": len({judgement.response_id for judgement in rejected}) / len(responses),
        "rejected/mention": len(rejected) / len(judgements) if judgements else 0.0,
        "length/words": sum(len(response.text.split()) for response in responses) / len(responses),
        "claims_per_response": len(judgements) / len(responses),
    }


def _true_rates(responses: Sequence[Response], claims: dict[str, list[Claim]], truth: Truth) -> dict[str, float]:
    # One rank measures alone while the others wait, so the metric must not wait for them.
    metric = HallucinationRate(sync_on_compute=False)
    for response in responses:
        texts = [claim.text for claim in claims[response.id]]
        metric.update(
            claim_truths=[[truth.holds(response.prompt_id, text) for text in texts]],
            covered=[truth.covered(response.prompt_id, texts)],
            present=[len(truth.facts(response.prompt_id))],
            words=[len(response.text.split())],
        )
    return {name: float(value) for name, value in metric.compute().items()}


def _example(
    prompt: Prompt, response: Response, claims: list[Claim], judgements: dict[str, Judgement], truth: Truth | None
) -> dict[str, Any]:
    return {
        "prompt_id": prompt.id,
        "question": prompt.question,
        "image_path": prompt.image_paths[0] if prompt.image_paths else None,
        "response": response.text,
        "truth": None if truth is None else truth.facts(prompt.id),
        "claims": [
            {
                "text": claim.text,
                "question": claim.question,
                "p_yes": judgements[claim.id].p_yes,
                "p_no": judgements[claim.id].p_no,
                "verdict": judgements[claim.id].verdict,
                "truth": None if truth is None else truth.holds(prompt.id, claim.text),
            }
            for claim in claims
        ],
    }
