"""A policy and a labeler that are functions of their inputs, and the loops that are built over them."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rlaifv.data.sources import PromptSource
from rlaifv.engines.labeler import LabelerModule
from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.loop import FeedbackLoop
from rlaifv.models.prompting import Sizes
from rlaifv.models.sampling import Decoding, Sampled
from rlaifv.observers.canaries import Canaries, CanarySet
from rlaifv.observers.held_out import Evaluator, HeldOut
from rlaifv.observers.statistics import FeedbackStatistics
from rlaifv.records import Prompt
from rlaifv.stages.divide import Divide
from rlaifv.stages.dividers.rules import RulesDivider
from rlaifv.stages.generate import Generate
from rlaifv.stages.pair import BuildPairs, PairingRules
from rlaifv.stages.prompts import TakePrompts
from rlaifv.stages.reference import ReferenceLogps
from rlaifv.stages.score import Score

SENTENCES = [f"There is a {colour} {shape} at the {place}." for colour, shape, place in (
    ("red", "circle", "top"), ("blue", "star", "left"), ("green", "ring", "right"), ("black", "cross", "top left"),
    ("purple", "square", "bottom"), ("yellow", "triangle", "center"),
)]  # fmt: skip

DECODING = Decoding(temperature=1.0, max_new_tokens=8)
RULES = PairingRules(length_balance=False)


@dataclass(frozen=True)
class Settings:
    """How much an iteration makes, and under which rules."""

    num_prompts: int | None = 6
    num_responses: int = 4
    decoding: Decoding = DECODING
    rules: PairingRules = RULES
    min_pairs: int = 3
    shard_prompts: int = 2
    max_drop_rate: float = 0.3


SETTINGS = Settings()


def rlaifv_loop(
    run_dir: Path,
    source: PromptSource,
    policy: Any,
    labeler: LabelerModule,
    divider: Any,
    settings: Settings,
    seed: int,
    truth: Any = None,
    canaries: CanarySet | None = None,
    chosen_from: Any = None,
) -> FeedbackLoop:
    """The stages and observers of configs/method/rlaifv.yaml."""
    num_new = settings.decoding.max_new_tokens
    measured = HeldOut(run_dir, source, labeler.engine, Evaluator(policy, divider, num_new, truth))
    asking = Canaries(source, labeler, run_dir, None)
    asking.set = canaries
    return FeedbackLoop(
        run_dir,
        [
            TakePrompts(source, policy, settings.num_prompts, settings.max_drop_rate, num_new),
            Generate(policy, settings.num_responses, settings.decoding, chosen_from),
            Divide(divider),
            Score(labeler),
            BuildPairs(settings.rules, chosen_from),
            ReferenceLogps(policy),
        ],
        seed,
        settings.shard_prompts,
        settings.min_pairs,
        [measured, asking, FeedbackStatistics(divider, truth)],
    )


class Interrupted(Exception):
    """What a test throws into the loop."""


class FakePolicy:
    """Answers and log-probs follow from prompt ids, seeds and tokens, and every call is noted."""

    def __init__(self, events: list[str]) -> None:
        self.model = torch.nn.Linear(2, 2)
        torch.nn.init.ones_(self.model.weight)
        torch.nn.init.zeros_(self.model.bias)
        self.events = events
        self.checked: list[str] = []

    def check(self, prompt: Prompt) -> None:
        self.checked.append(prompt.id)

    def sample(self, prompts: Any, seeds: Any, decoding: Decoding, advance: Advance = ignore_progress) -> Any:
        kind = "answer" if decoding.temperature == 0 else "sample"
        self.events.append(f"{kind} {' '.join(prompt.id for prompt in prompts)}")
        advance(len(prompts))
        return [[self._draw(seed) for seed in some] for some in seeds]

    def _draw(self, seed: int) -> Sampled:
        rng = random.Random(seed)
        said = rng.sample(range(len(SENTENCES)), rng.choice((1, 2, 3)))
        return Sampled((*said, 99), rng.random() < 0.9)

    def num_tokens(self, prompt: Prompt) -> int:
        return 100 + len(prompt.id)

    def check_lengths(self, prompts: Sequence[Prompt], num_new_tokens: int, sizes: Sizes) -> None:
        assert num_new_tokens > 0
        assert {path for prompt in prompts for path in prompt.image_paths} <= {*sizes}

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(SENTENCES[token] for token in token_ids if token < len(SENTENCES))

    def completion_logps(
        self, completions: Sequence[tuple[Prompt, Sequence[Sequence[int]]]], advance: Advance = ignore_progress
    ) -> list[list[list[float]]]:
        self.events.append(f"reference {' '.join(dict.fromkeys(prompt.id for prompt, _ in completions))}")
        advance(len(completions))
        return [[[-0.5 * token for token in ids] for ids in answers] for _, answers in completions]


class FakeLabeler:
    """Says yes to about half of the questions about an image, always to the same ones."""

    def __init__(self, events: list[str], always_yes: bool = False) -> None:
        self.events = events
        self.always_yes = always_yes
        self.seen: list[Any] = []

    def answer_probabilities(
        self, asked: Sequence[tuple[Prompt, Sequence[str]]], advance: Advance = ignore_progress
    ) -> list[list[tuple[float, float]]]:
        self.events.append(f"label {' '.join(prompt.id for prompt, _ in asked)}")
        self.seen += [(prompt, list(questions)) for prompt, questions in asked]
        advance(len(asked))
        return [[self._answer(prompt.id, question) for question in questions] for prompt, questions in asked]

    def _answer(self, prompt_id: str, question: str) -> tuple[float, float]:
        digit = hashlib.sha256(f"{prompt_id}{question}".encode()).digest()[0]
        if digit % 9 == 0 and not self.always_yes:
            return float("nan"), 0.0
        return (0.75, 0.125) if digit % 2 or self.always_yes else (0.125, 0.75)


class FakeSource:
    def prompts(self, iteration: int, num_prompts: int | None) -> list[Prompt]:
        assert num_prompts is not None
        return [Prompt(f"{iteration}-{k}", "What is it?", ()) for k in range(num_prompts)]

    def held_out(self) -> list[Prompt]:
        return [Prompt("h-0", "What is it?", ()), Prompt("h-1", "What is it?", ())]


@dataclass
class FakeTruth:
    """Every image holds the first two things."""

    is_turned_around: bool = False

    def facts(self, prompt_id: str) -> list[str]:
        return SENTENCES[2:4] if self.is_turned_around else SENTENCES[:2]

    def holds(self, prompt_id: str, claim: str) -> bool:
        return claim in self.facts(prompt_id)

    def covered(self, prompt_id: str, claims: Sequence[str]) -> int:
        return len({*claims} & {*self.facts(prompt_id)})

    def exam(self, prompt_id: str) -> list[tuple[str, bool]]:
        return [("Is there a red circle at the top?", not self.is_turned_around)]


@dataclass
class World:
    """Builds loops over one run directory; each is what a process that starts anew would have."""

    run_dir: Path
    source: PromptSource = field(default_factory=FakeSource)
    settings: Settings = SETTINGS
    truth: FakeTruth | None = field(default_factory=FakeTruth)
    always_yes: bool = False
    canaries: CanarySet | None = None
    divider: Any = field(default_factory=RulesDivider)
    events: list[str] = field(default_factory=list)
    labeler: FakeLabeler = field(init=False)
    policy: Any = field(init=False)

    def loop(self) -> FeedbackLoop:
        self.labeler = FakeLabeler(self.events, self.always_yes)
        policy: Any = FakePolicy(self.events)
        self.policy = policy
        labeler = LabelerModule(self.labeler)
        return rlaifv_loop(
            self.run_dir, self.source, policy, labeler, self.divider, self.settings, 5, self.truth, self.canaries
        )

    def content(self) -> dict[str, Any]:
        """All that a run wrote, by path: bytes, but for the statistics, whose times differ from run to run."""
        found: dict[str, Any] = {}
        for path in sorted(self.run_dir.rglob("*")):
            if path.is_file():
                name = str(path.relative_to(self.run_dir))
                found[name] = path.read_bytes()
                if path.name == "statistics.json":
                    statistics = json.loads(path.read_text())
                    found[name] = {key: n for key, n in statistics.items() if not key.startswith("seconds/")}
        return found


def measure(loop: FeedbackLoop, iteration: int) -> None:
    """Measure as the callbacks do after the last iteration."""
    (held_out,) = [observer for observer in loop.observers if isinstance(observer, HeldOut)]
    held_out.measure(iteration)
