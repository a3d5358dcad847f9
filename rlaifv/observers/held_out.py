"""Measure a policy on held-out prompts: greedy answers, the labeler's view of them, and the truth where it is known."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torchmetrics.functional.classification import binary_accuracy

from rlaifv.data.sources import PromptSource, check_images_of
from rlaifv.engines.local import LocalEngine
from rlaifv.engines.protocol import Advance, Labeler, ignore_progress
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
from rlaifv.stages.dividers.protocol import AnyDivider, NotDivided, divide_all, may_fail
from rlaifv.stages.generate import generate
from rlaifv.stages.score import WORDING, Wording, ask, score
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


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Answer prompts greedily, divide the answers into claims, judge them, and compute rates.

    Attributes:
        policy: is measured.
        divider: makes the claims.
        max_new_tokens: longest answer.
        truth: what is true of the prompts' images, if known. The labeler never sees it.
        num_examples: answered prompts that are kept.
        wording: of the questions to the labeler.
    """

    policy: LocalEngine
    divider: AnyDivider
    max_new_tokens: int
    truth: Truth | None = None
    num_examples: int = 8
    wording: Wording = WORDING

    def __call__(self, prompts: Sequence[Prompt], labeler: Labeler, advance: Advance = ignore_progress) -> Evaluation:
        """Measure the policy.

        Rates by the labeler (`rejected/response`, `rejected/mention`) exist for any prompts. Rates by the truth
        (`hallucination/*`, `coverage`, `labeler/accuracy`) need one, and those of benchmarks (`known_objects`) need one that
        knows objects by name. Answers that the divider failed at are left out; `not_divided` is their share, if it may fail.

        Raises:
            ValueError: the divider failed at all answers.
        """
        responses = generate(
            prompts, self.policy, Decoding(temperature=0, max_new_tokens=self.max_new_tokens), 1, 0, advance
        )
        divided = divide_all(self.divider, list(zip(prompts, responses, strict=True)))
        claims = {
            response.id: [] if isinstance(some, NotDivided) else some
            for response, some in zip(responses, divided, strict=True)
        }
        known = [
            response for response, some in zip(responses, divided, strict=True) if not isinstance(some, NotDivided)
        ]
        if not known:
            raise ValueError(
                f"None of {len(responses)} held-out answers could be divided, so the policy cannot be measured."
            )
        said = [claim for some in claims.values() for claim in some]
        judged = score(prompts, said, labeler, self.wording)
        judgements = {judgement.claim_id: judgement for judgement in judged}
        metrics = _labeler_rates(known, judged)
        if may_fail(self.divider):
            metrics["not_divided"] = 1 - len(known) / len(responses)
        if self.truth is not None:
            metrics |= _true_rates(known, claims, self.truth)
            metrics["labeler/accuracy"] = labeler_accuracy(prompts, labeler, self.truth, self.wording)
        if isinstance(self.truth, KnownObjects):
            metrics |= benchmark_rates(prompts, responses, self.policy, self.truth, self.wording.suffix, advance)
        examples = [
            _example(prompt, response, claims[response.id], judgements, self.truth)
            for prompt, response in list(zip(prompts, responses, strict=True))[: self.num_examples]
        ]
        return Evaluation(metrics, examples)


@dataclass
class HeldOut(Observer):
    """Measure the policy before each iteration; `measure` is also called after the last one.

    Attributes:
        run_dir: results go to `evaluations/NNN.json`.
        source: gives the held-out prompts.
        labeler: judges the claims of the policy's answers.
        evaluator: measures the policy.
        is_measured: whether the policy is measured before iterations; if not, candidates still are.
        selection: with candidates, half of the prompts select among them, and the other half is reported.
        measurements: measured as well.
    """

    run_dir: Path
    source: PromptSource
    labeler: Labeler
    evaluator: Evaluator
    is_measured: bool = True
    selection: SelectionRules = field(default_factory=SelectionRules)
    measurements: Sequence[Measurement] = ()

    @property
    def policy(self) -> LocalEngine:
        """Engine of the policy that is measured."""
        return self.evaluator.policy

    def on_start(self, work: Iteration) -> None:
        self.measure(work.number)

    @timed("measure")
    def measure(self, iteration: int) -> None:
        """Measure the policy after `iteration` iterations, unless that was done before. Called on every rank."""
        path = evaluation_path(self.run_dir, iteration)
        is_wanted = self.is_measured and not path.exists()
        prompts = self.prompts(for_choice=False) if is_wanted else []
        if prompts and rank() > 0:
            wait_until(path.exists)
        elif prompts:
            failpoint("loop.measure")
            name = f"iteration {iteration}" if iteration else "base model "
            with StageBars(name) as bars, bars.stage("measure", len(prompts)) as advance:
                result = self.evaluate(prompts, self.labeler, advance)
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
        return self.evaluator(prompts, labeler, or_stop(advance))


def evaluation_path(run_dir: Path, iteration: int) -> Path:
    """Return the file with the measurement after `iteration` iterations."""
    return run_dir / "evaluations" / f"{iteration:03d}.json"


def labeler_accuracy(
    prompts: Sequence[Prompt],
    labeler: Labeler,
    truth: Truth,
    wording: Wording = WORDING,
) -> float:
    """Return the share of the truth's exam questions that the labeler answers correctly (p_yes > p_no means yes)."""
    exams = [truth.exam(prompt.id) for prompt in prompts]
    asked = [(prompt, [question for question, _ in exam]) for prompt, exam in zip(prompts, exams, strict=True)]
    answered = ask(labeler, asked, wording)
    said = [p_yes > p_no for answers in answered for p_yes, p_no in answers]
    true = [is_true for exam in exams for _, is_true in exam]
    return float(binary_accuracy(torch.tensor(said).int(), torch.tensor(true).int()))


def agreement(claims: Sequence[Claim], judgements: Sequence[Judgement], truth: Truth) -> float:
    """Return the share of judgements that equal the truth, without unknown ones; 0 if there are none."""
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
