"""The embedded world as a prompt source that keeps its ground truth separate."""

import random
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from rlaifv.metrics.truth import BenchmarkQuestion
from rlaifv.observers.canaries import ORDER, Canary
from rlaifv.records import Prompt
from rlaifv.runtime.seeds import derive_seed
from rlaifv.stages.dividers.rules import to_claims
from rlaifv.store.atomic import publish
from rlaifv.worlds.shapes import QUESTIONS, Scene, make_scenes, parse_claim, render, short_answers, truthful_questions
from rlaifv.worlds.shapes_benchmark import benchmark_questions, likely_objects, objects_named, objects_of

EXAM_QUESTIONS = 4
CANARY_SCENES = 4
HELD_OUT = "held-out"
PROMPTS_PER_ITERATION = 512
# Pretraining scenes use small seeds; scenes of runs use derived 63-bit seeds.


def _sentences(claim: str) -> list[str]:
    """Split a text into its claims; a single claim is returned as is."""
    return [claim] if claim.count(".") < 2 else to_claims(claim) or [claim]


class ShapesSource:
    """Draws fresh scenes for every iteration and a fixed held-out set, written to `directory` as PNG files.

    Before a prompt is first returned, its file is compared with the scene and redrawn if it differs: files are not
    synced, which would take longer than drawing them, so a power loss may damage the most recent ones.

    Also provides the ground truth (see `evaluation.truth.KnownObjects`), which only measurements use.

    Args:
        directory: where pictures are written, created if missing.
        num_held_out: number of evaluation scenes; these are the same for every seed and never used in an iteration.
        seed: of the iterations' scenes.
        gives_facts: whether prompts carry captions that are true of their scene, for reward models that read facts.
        gives_demonstrations: whether prompts carry what a person would answer, who sees everything, for fine-tuning.
        unfamiliar: share of the iterations' scenes with a thing that a person sees and the embedded model does not.
        short: share of the iterations' prompts that ask for one place, instead of a description.

    Raises:
        ValueError: a share outside of 0 to 1.
    """

    def __init__(
        self,
        directory: str | Path,
        num_held_out: int,
        seed: int,
        gives_facts: bool = False,
        gives_demonstrations: bool = False,
        unfamiliar: float = 0.0,
        short: float = 0.0,
    ) -> None:
        for name, share in (("unfamiliar", unfamiliar), ("short", short)):
            if not 0 <= share <= 1:
                raise ValueError(f"data.{name} must be between 0 and 1, but it is {share}.")
        self.gives_demonstrations, self.unfamiliar, self.short = gives_demonstrations, unfamiliar, short
        self.directory = Path(directory).absolute()
        self.seed = seed
        self.gives_facts = gives_facts
        self._held_out = make_scenes(derive_seed("shapes", "held out"), num_held_out)
        self._scenes: dict[str, Scene] = {}

    def prompts(self, iteration: int, num_prompts: int | None) -> list[Prompt]:
        """Return an iteration's scenes, by default `PROMPTS_PER_ITERATION`; deterministic in seed and iteration."""
        seed = derive_seed(self.seed, "shapes", iteration)
        num_scenes = PROMPTS_PER_ITERATION if num_prompts is None else num_prompts
        scenes = [self._seen_by_people(scene) for scene in make_scenes(seed, num_scenes, exclude=self._held_out)]
        return [self._asked(prompt) for prompt in self._publish(f"scene-{iteration:03d}", scenes, seed)]

    def held_out(self) -> list[Prompt]:
        """Return the evaluation scenes."""
        return self._publish(HELD_OUT, self._held_out, derive_seed("shapes", "held out questions"))

    def canaries(self) -> list[Canary]:
        """See `HasCanaries`: an exam on its own scenes, and its false questions with an instruction to say yes."""
        seed = derive_seed("shapes", "canaries")
        canaries = []
        for prompt in self._publish("canary", make_scenes(seed, CANARY_SCENES, exclude=self._held_out), seed):
            exam = self.exam(prompt.id)
            ordering = [(f"{question} {ORDER}", False) for question, is_true in exam if not is_true]
            canaries.append(Canary(prompt, (*exam, *ordering)))
        return canaries

    def facts(self, prompt_id: str) -> list[str]:
        """See `Truth`."""
        return [thing.sentence for thing in self._scenes[prompt_id].things]

    def holds(self, prompt_id: str, claim: str) -> bool:
        """See `Truth`; a text of several sentences holds if each of them does."""
        scene = self._scenes[prompt_id]
        return all(map(scene.truth_of, _sentences(claim)))

    def covered(self, prompt_id: str, claims: Sequence[str]) -> int:
        """See `Truth`."""
        named = {parse_claim(sentence) for claim in claims for sentence in _sentences(claim)}
        return sum(thing in named for thing in self._scenes[prompt_id].things)

    def exam(self, prompt_id: str) -> list[tuple[str, bool]]:
        """See `Truth`."""
        rng = random.Random(derive_seed("shapes exam", prompt_id))
        return truthful_questions(self._scenes[prompt_id], rng, EXAM_QUESTIONS)

    def objects(self, prompt_id: str) -> list[str]:
        """See `KnownObjects`."""
        return objects_of(self._scenes[prompt_id])

    def likely_objects(self, prompt_id: str) -> list[str]:
        """See `KnownObjects`."""
        return likely_objects(self._scenes[prompt_id])

    def objects_named(self, text: str) -> list[str]:
        """See `KnownObjects`."""
        return objects_named(text)

    def benchmark_questions(self) -> list[BenchmarkQuestion]:
        """See `KnownObjects`."""
        return benchmark_questions(dict(zip(_ids(HELD_OUT, self._held_out), self._held_out, strict=True)))

    def _seen_by_people(self, scene: Scene) -> Scene:
        """Return the scene, with one of its things drawn faintly if it is an unfamiliar one."""
        rng = random.Random(f"unfamiliar {scene.seed}")
        return replace(scene, faint=(rng.choice(scene.things).cell,)) if rng.random() < self.unfamiliar else scene

    def _asked(self, prompt: Prompt) -> Prompt:
        """Return the prompt with another question, if it is a short one, and with a person's answer, if wanted."""
        scene = self._scenes[prompt.id]
        rng = random.Random(f"person {scene.seed}")
        answer = " ".join(thing.caption_sentence for thing in scene.things)
        if rng.random() < self.short:
            (question, answer), *_ = short_answers(scene, rng, 1)
            prompt = replace(prompt, question=question)
        return replace(prompt, demonstration=answer) if self.gives_demonstrations else prompt

    def _publish(self, name: str, scenes: Sequence[Scene], seed: int) -> list[Prompt]:
        self.directory.mkdir(parents=True, exist_ok=True)
        rng = random.Random(seed)
        prompts = []
        for prompt_id, scene in zip(_ids(name, scenes), scenes, strict=True):
            path = self.directory / f"{prompt_id}.png"
            if prompt_id not in self._scenes:
                _draw(scene, path)
                self._scenes[prompt_id] = scene
            facts = tuple(thing.caption_sentence for thing in scene.things) if self.gives_facts else ()
            prompts.append(Prompt(prompt_id, rng.choice(QUESTIONS), (str(path),), facts=facts))
        return prompts


def _ids(name: str, scenes: Sequence[Scene]) -> list[str]:
    return [f"{name}-{k:04d}" for k in range(len(scenes))]


def _draw(scene: Scene, path: Path) -> None:
    """Write a picture unless an intact one exists; ranks that draw at the same time write identical bytes."""
    stream = BytesIO()
    render(scene).save(stream, "PNG")
    if not path.exists() or path.read_bytes() != stream.getvalue():
        with publish(path, is_synced=False) as temporary:
            temporary.write_bytes(stream.getvalue())
