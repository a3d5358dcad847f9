"""THE LOOP: one iteration of RLAIF-V's data engine, from prompts to a committed set of preference pairs.

    prompts ─► generate ─► divide ─► score ─► pair ─► reference log-probs ─► commit ─► (DPO) ─┐
       ▲                                                                                      │
       └───────────────────────── next iteration, with the new policy ◄───────────────────────┘

`PreferenceDataModule.train_dataloader` calls `prepare(k)` when it needs iteration k; the trainer then runs DPO on what was
committed, `callbacks.iteration` counts the iteration as done, and the next loader comes back here with the new policy.

Compared with the released code: nothing is edited between iterations, work already on disk is never done again, answers to
identical questions are shared, and the reference's log-probs belong to the very weights that sampled the responses.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from rlaifv.data.sources import CheckedImages, PromptSource, check_images
from rlaifv.engines.labeler import LabelerModule
from rlaifv.engines.local import LocalEngine
from rlaifv.engines.protocol import Advance, Labeler, ignore_progress
from rlaifv.metrics.truth import Truth
from rlaifv.models.digests import weights_digest
from rlaifv.models.prompting import Sizes
from rlaifv.models.sampling import Decoding
from rlaifv.observers.canaries import CanarySet
from rlaifv.observers.held_out import Evaluation, agreement, evaluate
from rlaifv.observers.selection import SelectionRules
from rlaifv.records import Claim, Judgement, Pair, Prompt, Response
from rlaifv.runtime.console import StageBars
from rlaifv.runtime.phases import timed
from rlaifv.runtime.ranks import meet, rank, world_size
from rlaifv.runtime.seeds import derive_seed
from rlaifv.runtime.stopping import stop_if_requested, wait_until
from rlaifv.stages.dividers.protocol import BatchDivider, Divider, NotDivided, divide_all
from rlaifv.stages.generate import OTHER_MARK, generate, in_words_of
from rlaifv.stages.pair import PairingRules, build_pairs, pair_statistics
from rlaifv.stages.score import distinct_questions
from rlaifv.store.atomic import failpoint, make_directory, write_json
from rlaifv.store.manifest import Manifest
from rlaifv.store.run_dir import require_space

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IterationSettings:
    """How much an iteration makes, and under which rules.

    `num_prompts` of None leaves it to the source; `shard_prompts` is the unit of work that a crash can cost.
    """

    num_prompts: int | None
    num_responses: int
    decoding: Decoding
    rules: PairingRules
    min_pairs: int
    shard_prompts: int
    max_drop_rate: float


class Measurement(Protocol):
    """What else is measured whenever the policy is."""

    def measure(self, iteration: int, engine: LocalEngine, run_dir: Path) -> None:
        """Measure the policy after `iteration` iterations, unless that was done before. Called on every rank."""
        ...


@dataclass
class FeedbackLoop:
    """Makes preference pairs with the policy as it is, and measures it on held-out prompts before each iteration."""

    run_dir: Path
    source: PromptSource
    policy: LocalEngine
    labeler: LabelerModule
    divider: Divider | BatchDivider
    settings: IterationSettings
    seed: int
    truth: Truth | None = None
    num_examples: int | None = 8  # kept of a measurement; None measures nothing but candidates
    canaries: CanarySet | None = None
    min_free_bytes: int = 0
    chosen_from: LocalEngine | None = None
    selection: SelectionRules = field(default_factory=SelectionRules)
    measurements: Sequence[Measurement] = ()

    @timed("data")
    def prepare(self, iteration: int) -> Manifest:
        """Generate and commit an iteration, or find it done. Idempotent; called on every rank.

        Raises:
            TooFewPairs: fewer pairs than `min_pairs` were left; the message counts what was dropped, by reason.
        """
        stop_if_requested()
        meet()
        done = Manifest(self.run_dir / "iterations" / f"{iteration:03d}")
        if done.path.exists() and done.committed:
            # What a source draws or unpacks is there again, should it have been lost since.
            self.source.prompts(iteration, self.settings.num_prompts)
            return self._ready(done)
        if rank() > 0:  # one begins it
            wait_until(done.path.exists)
        manifest = Manifest.open(self.run_dir, iteration, self._producer())
        shards = self._plan(manifest, iteration)
        self.measure(iteration)
        statistics = self._make(iteration, manifest, shards)
        if rank() > 0:
            wait_until(lambda: manifest.committed)
        else:
            (prompts,) = manifest.shards("prompts")
            statistics |= {f"dropped/{reason}": count for reason, count in (prompts.drops if prompts else {}).items()}
            write_json(self.statistics_path(iteration), statistics)
            failpoint("loop.commit")
            manifest.commit(self.settings.min_pairs)
        return self._ready(manifest)

    def _make(self, iteration: int, manifest: Manifest, shards: Sequence[Sequence[Prompt]]) -> dict[str, float]:
        """The stages, up to the last shard of pairs. Returns what is to be known about them."""
        num_prompts = sum(map(len, shards))
        with StageBars(f"iteration {iteration + 1}") as bars:
            with timed("score"):
                self._ask_canaries_first(manifest, len(shards))
            with bars.stage("generate", num_prompts) as advance:
                for k in self._mine(manifest, "responses", len(shards), advance, shards):
                    seed = derive_seed(self.seed, iteration, "generate")
                    manifest.put("responses", k, self._generate(shards[k], seed, advance))
            with bars.stage("divide", num_prompts) as advance:
                for k in self._mine(manifest, "claims", len(shards), advance, shards):
                    manifest.put("claims", k, *self._divide(shards[k], manifest.read("responses", k)))
                    advance(len(shards[k]))
            with bars.stage("score", num_prompts) as advance:
                for k in self._mine(manifest, "judgements", len(shards), advance, shards):
                    judgements = self.labeler(shards[k], manifest.read("claims", k), advance)
                    where = f"beside {manifest.shard_path('judgements', k)}"
                    self._ask_canaries(manifest.directory / f"canaries-{k:05d}.json", where)
                    manifest.put("judgements", k, judgements)
            # Pairing sees the whole iteration at once (the length balance is over all pairs) and costs next to nothing.
            with timed("pair"):
                responses, claims = manifest.records("responses"), manifest.records("claims")
                judgements = manifest.records("judgements")
                seed = derive_seed(self.seed, iteration, "pair")
                others = {one.id for one in responses if one.id.endswith(OTHER_MARK)} if self.chosen_from else None
                pairs, drops = build_pairs(responses, judgements, self.settings.rules, seed, claims, others)
                not_divided = self._take_not_divided(manifest, drops)
            pair_shards = cut(pairs, 2 * self.settings.shard_prompts)
            with bars.stage("reference", len(pairs)) as advance:
                prompts = {prompt.id: prompt for shard in shards for prompt in shard}
                for k in self._mine(manifest, "pairs", len(pair_shards), advance, pair_shards):
                    with_logps = self._with_reference_logps(prompts, pair_shards[k], advance)
                    manifest.put("pairs", k, with_logps, drops if k == 0 else {})
        seconds = {f"seconds/{name}": taken for name, taken in bars.seconds.items()}
        return (
            pair_statistics(responses, judgements, pairs, drops | not_divided)
            | seconds
            | self._claim_statistics(manifest, claims, judgements)
        )

    def check_policy(self, iteration: int, digest: str) -> None:
        """Refuse pairs that another policy made than the one that they train.

        Args:
            iteration: whose pairs they are.
            digest: of the policy as it was when the iteration began.

        Raises:
            ValueError: the manifest names another one.
        """
        manifest = Manifest(self.run_dir / "iterations" / f"{iteration:03d}")
        if (made_by := manifest.producer["policy"]) != digest:
            raise ValueError(
                f"{manifest.path}: its pairs were made by a policy with digest {made_by}, but the one to train had {digest} "
                f"when the iteration began; delete {manifest.directory} to make them again."
            )

    @timed("measure")
    def measure(self, iteration: int) -> None:
        """Evaluate the policy after `iteration` iterations on held-out prompts and benchmarks, unless that was done before."""
        path = self.evaluation_path(iteration)
        is_wanted = self.num_examples is not None and not path.exists()
        prompts = self.held_out(for_choice=False) if is_wanted else []
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

    def held_out(self, for_choice: bool) -> list[Prompt]:
        """Those that candidates are chosen on, or those that the report is about; without candidates all are the latter."""
        prompts = self.source.held_out()
        if self.selection.per_epoch:
            prompts = prompts[::2] if for_choice else prompts[1::2]
        return self._check_images(prompts).good

    def evaluate(self, prompts: Sequence[Prompt], labeler: Labeler, advance: Advance = ignore_progress) -> Evaluation:
        """Measure the policy as it is. Raises Stopped in between; what a stop costs of it is made again."""
        return evaluate(
            prompts,
            self.policy,
            labeler,
            self.divider,
            self.settings.decoding.max_new_tokens,
            self.truth,
            self.num_examples or 0,
            question_suffix=self.labeler.question_suffix,
            advance=_unless_stopped(advance),
            other_forms=self.labeler.other_forms,
        )

    def evaluation_path(self, iteration: int) -> Path:
        """What was measured after `iteration` iterations."""
        return self.run_dir / "evaluations" / f"{iteration:03d}.json"

    def statistics_path(self, iteration: int) -> Path:
        """What the feedback of an iteration found."""
        return self.run_dir / "iterations" / f"{iteration:03d}" / "statistics.json"

    def _ready(self, manifest: Manifest) -> Manifest:
        """A resumed run may come here without having run the policy, whose trees are about to be trained on."""
        verified = manifest.verified()
        prompts: list[Prompt] = verified.records("prompts")
        self.policy.check(next((prompt for prompt in prompts if prompt.image_paths), prompts[0]))
        return verified

    def _producer(self) -> dict[str, str]:
        divider = getattr(self.divider, "producer", type(self.divider).__name__)
        made_by = {"policy": weights_digest(self.policy.model, is_cached=True), "divider": divider}
        if self.chosen_from is not None:
            made_by["chosen_from"] = weights_digest(self.chosen_from.model, is_cached=True)
        return made_by | {"seed": str(self.seed), "settings": repr(self.settings)}

    def _plan(self, manifest: Manifest, iteration: int) -> list[list[Prompt]]:
        """The iteration's prompts in shards; those whose images cannot be read are dropped, and counted."""
        wanted = self.source.prompts(iteration, self.settings.num_prompts)
        manifest.plan("prompts", 1)
        if rank() == 0 and manifest.missing("prompts"):
            good, drops, sizes = self._check_images(wanted)
            self._check_lengths(good, sizes)
            if len(wanted) - len(good) > self.settings.max_drop_rate * len(wanted):
                raise ValueError(
                    f"{len(wanted) - len(good)} of the {len(wanted)} prompts of iteration {iteration} have unreadable images "
                    f"({_listed(drops)}), more than iteration.max_drop_rate={self.settings.max_drop_rate} allows."
                )
            manifest.put("prompts", 0, good, drops)
        wait_until(lambda: not manifest.missing("prompts"))
        return cut(manifest.records("prompts"), self.settings.shard_prompts)

    def _check_lengths(self, prompts: Sequence[Prompt], sizes: Sizes) -> None:
        """Refuse prompts that leave no room for the longest answer."""
        self.policy.check_lengths(prompts, self.settings.decoding.max_new_tokens, sizes)

    def _check_images(self, prompts: Sequence[Prompt]) -> CheckedImages:
        """By the limits of the source, where it has some."""
        check: Callable[[Sequence[Prompt]], CheckedImages] = getattr(self.source, "check_images", check_images)
        return check(prompts)

    def _mine(
        self, manifest: Manifest, stage: str, num_shards: int, advance: Advance, shards: Sequence[Sequence[Any]]
    ) -> Iterator[int]:
        """This rank's missing shards of a stage; those that exist already count as progress."""
        manifest.plan(stage, num_shards)
        missing = manifest.missing(stage)
        advance(sum(len(shards[k]) for k in range(num_shards) if k not in missing))
        for k in missing:
            if k % world_size() == rank():
                stop_if_requested()
                require_space(self.run_dir, self.min_free_bytes)
                failpoint(f"loop.{stage}")
                yield k
        # Ranks meet at the manifest: waiting for a slow one, they could still stop, and no collective would time out.
        wait_until(lambda: not manifest.missing(stage))

    def _generate(self, prompts: Sequence[Prompt], seed: int, advance: Advance) -> list[Response]:
        """The policy's answers; where chosen ones come from another model, half of them are that model's."""
        decoding, num_responses = self.settings.decoding, self.settings.num_responses
        if self.chosen_from is None:
            return generate(prompts, self.policy, decoding, num_responses, seed, advance)
        num_others = num_responses // 2
        own = generate(prompts, self.policy, decoding, num_responses - num_others, seed, advance)
        others = generate(prompts, self.chosen_from, decoding, num_others, derive_seed(seed, "other"))
        return in_words_of(self.policy.prompter, prompts, own, others)

    def _divide(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> tuple[list[Claim], dict[str, int]]:
        """The claims, and how many responses that pairing could have used were not divided."""
        by_id = {prompt.id: prompt for prompt in prompts}
        divided = divide_all(self.divider, [(by_id[response.prompt_id], response) for response in responses])
        claims = [claim for some in divided if not isinstance(some, NotDivided) for claim in some]
        failed = sum(
            isinstance(some, NotDivided) and response.finished and bool(response.text.strip())
            for response, some in zip(responses, divided, strict=True)
        )
        return claims, {"not_divided": failed} if failed else {}

    def _take_not_divided(self, manifest: Manifest, drops: Counter[str]) -> Counter[str]:
        """Pairing sees no claims of a response that was not divided; what the claims' shards counted is taken off there."""
        if not hasattr(self.divider, "divide_all"):
            return Counter()
        failed = sum(shard.drops.get("not_divided", 0) for shard in manifest.shards("claims") if shard)
        drops["no_claims"] -= failed
        if not drops["no_claims"]:
            del drops["no_claims"]
        return Counter(not_divided=failed)

    def _ask_canaries_first(self, manifest: Manifest, num_shards: int) -> None:
        """Hours of sampling before the first shard is judged: a labeler that fails is known before them, and asked once."""
        manifest.plan("responses", num_shards)
        path = manifest.directory / "canaries.json"
        if rank() == 0 and manifest.missing("responses") and not path.exists():
            self._ask_canaries(path, f"before the answers of {manifest.directory} are sampled")

    def _ask_canaries(self, path: Path, where: str) -> None:
        """Whether the labeler answered what is known right; of a shard, before its judgements are stored."""
        if self.canaries is None:
            return
        labeler = self.labeler
        accuracy = self.canaries.accuracy(labeler.engine, labeler.question_suffix, labeler.other_forms)
        if accuracy < self.canaries.least_accuracy:
            logger.warning(
                "The labeler answers only %.2f of the canaries right %s (labeler.min_canary_accuracy=%g), so what it "
                "says about the claims there is in doubt.",
                accuracy,
                where,
                self.canaries.least_accuracy,
            )
        write_json(path, {"accuracy": accuracy})

    def _with_reference_logps(self, prompts: dict[str, Prompt], pairs: Sequence[Pair], advance: Advance) -> list[Pair]:
        """All answers to a prompt hang from one prefix, each of them once, however many pairs it is in."""
        answers: dict[str, dict[tuple[int, ...], None]] = {}
        for pair in pairs:
            answers.setdefault(pair.prompt_id, {}).update(
                dict.fromkeys((pair.chosen_token_ids, pair.rejected_token_ids))
            )
        counts = Counter(pair.prompt_id for pair in pairs)
        num_pairs = (counts[prompt_id] for prompt_id in answers)
        logps = self.policy.completion_logps(
            [(prompts[prompt_id], list(some)) for prompt_id, some in answers.items()],
            lambda num_finished: advance(sum(islice(num_pairs, num_finished))),
        )
        found = {
            (prompt_id, ids): tuple(values)
            for (prompt_id, some), of_prompt in zip(answers.items(), logps, strict=True)
            for ids, values in zip(some, of_prompt, strict=True)
        }
        num_tokens = {prompt_id: self.policy.num_tokens(prompts[prompt_id]) for prompt_id in answers}
        return [
            replace(
                pair,
                chosen_reference_logps=found[pair.prompt_id, pair.chosen_token_ids],
                rejected_reference_logps=found[pair.prompt_id, pair.rejected_token_ids],
                prompt_tokens=num_tokens[pair.prompt_id],
            )
            for pair in pairs
        ]

    def _claim_statistics(
        self, manifest: Manifest, claims: Sequence[Claim], judgements: Sequence[Judgement]
    ) -> dict[str, float]:
        statistics: dict[str, float] = {
            "claims_repeated": len(claims) - len({(claim.response_id, claim.question) for claim in claims}),
            "questions_asked": sum(len(asked) for asked in distinct_questions(claims).values()),
        }
        if self.canaries is not None:
            found = [json.loads(path.read_text())["accuracy"] for path in manifest.directory.glob("canaries-*.json")]
            statistics["labeler/canary_accuracy"] = sum(found) / max(len(found), 1)
            statistics["labeler/flagged_shards"] = sum(accuracy < self.canaries.least_accuracy for accuracy in found)
        if self.truth is not None:
            statistics["labeler/agreement"] = agreement(claims, judgements, self.truth)
        return statistics


def _unless_stopped(advance: Advance) -> Advance:
    """A measurement is one piece; what a stop costs of it is made again."""

    def advance_or_stop(num_finished: int) -> None:
        stop_if_requested()
        advance(num_finished)

    return advance_or_stop


def cut(items: Sequence[Any], size: int) -> list[list[Any]]:
    """Shards of at most `size` items; one that is empty where there are none."""
    return [list(items[k : k + size]) for k in range(0, len(items), size)] or [[]]


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in counts.most_common())
