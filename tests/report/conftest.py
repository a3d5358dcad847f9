"""A run directory as a finished run of the embedded world leaves it: drawn scenes, plausible numbers."""

import csv
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rlaifv.records import Claim, Judgement, Pair, Prompt
from rlaifv.stages.dividers.rules import to_claims
from rlaifv.stages.score import verdict_of
from rlaifv.store.shards import write_shard
from rlaifv.worlds.shapes import (
    QUESTIONS,
    Scene,
    Thing,
    biased_caption,
    make_scenes,
    parse_claim,
    polar_question,
    render,
)

METRICS = {
    "hallucination/response": (0.852, 0.277, 0.168, 0.129, 0.086),
    "hallucination/mention": (0.486, 0.110, 0.066, 0.056, 0.041),
    "coverage": (0.579, 0.890, 0.884, 0.756, 0.729),
    "length/words": (34.1, 30.2, 28.6, 24.2, 23.0),
    "claims_per_response": (3.41, 3.02, 2.86, 2.42, 2.30),
    "labeler/accuracy": (0.962, 0.955, 0.951, 0.948, 0.943),
}
STATISTICS = {
    "responses": (2560, 2560, 2560, 2560),
    "claims": (8730, 7731, 7322, 6195),
    "claims_per_response": (3.41, 3.02, 2.86, 2.42),
    "rejection_rate": (0.441, 0.182, 0.131, 0.098),
    "unknown_rate": (0.002, 0.001, 0.0, 0.0),
    "questions_asked": (3122, 2210, 1904, 1533),
    "pairs_kept": (372, 368, 397, 308),
    "pairs_possible": (4980, 4203, 3611, 2740),
    "dropped/truncated": (31, 8, 2, 0),
    "dropped/length_balance": (126, 128, 61, 60),
    "dropped/over_cap": (4482, 3707, 3153, 2372),
    "dropped/tie": (5904, 5210, 4407, 3320),
    "dropped/identical": (480, 1980, 3480, 5449),
    "length/chosen_words": (31.8, 30.1, 28.4, 24.4),
    "length/rejected_words": (32.4, 30.6, 28.1, 24.0),
    "labeler/agreement": (0.871, 0.866, 0.862, 0.793),
    "seconds/generate": (41.2, 38.1, 36.9, 33.0),
    "seconds/score": (5.1, 4.4, 4.1, 3.6),
}
CONFIG = """\
# Everything that this run was told.
seed: 0
iteration:
  num_iterations: 4
  num_prompts: 256
  num_responses: 10
  decoding: {temperature: 1.0, top_p: 1.0}
learner:
  beta: 0.1   # <- of the DPO loss & its rewards
"""


def judge(scene: Scene, claim: str, rng: random.Random) -> tuple[float, float]:
    """A labeler that is mostly right."""
    right = scene.truth_of(claim) == (rng.random() < 0.9)
    p_yes = rng.uniform(0.75, 0.99) if right else rng.uniform(0.01, 0.3)
    return p_yes, 0.995 - p_yes


def truthful_caption(scene: Scene, rng: random.Random) -> str:
    """What a trained policy says: the scene, now and then without one of its things."""
    said = [thing for thing in scene.things if rng.random() < 0.85] or scene.things[:1]
    return " ".join(thing.caption_sentence for thing in said)


def question_of(claim: str) -> str:
    """The claim as a question."""
    thing = parse_claim(claim)
    assert isinstance(thing, Thing)
    return polar_question(thing)


def example(scene: Scene, k: int, num_iterations: int, image_path: str) -> dict[str, Any]:
    """An evaluation's example, as JSON has it."""
    rng = random.Random(100 * num_iterations + k)
    text = truthful_caption(scene, rng) if num_iterations else biased_caption(scene, rng)
    claims = []
    for claim in to_claims(text):
        p_yes, p_no = judge(scene, claim, rng)
        claims.append(
            {
                "text": claim,
                "question": question_of(claim),
                "p_yes": p_yes,
                "p_no": p_no,
                "verdict": verdict_of(p_yes, p_no),
                "truth": scene.truth_of(claim),
            }
        )
    return {
        "prompt_id": f"test-{k}",
        "question": QUESTIONS[k % len(QUESTIONS)],
        "image_path": image_path,
        "response": text,
        "claims": claims,
        "truth": [thing.sentence for thing in scene.things],
    }


def judged_claims(scene: Scene, response_id: str, text: str, rng: random.Random) -> list[tuple[Claim, Judgement]]:
    """The claims of a sampled answer, as the shards have them."""
    judged = []
    for n, claim in enumerate(to_claims(text)):
        ids = (f"{response_id}/{n}", response_id, response_id.rpartition("/")[0])
        p_yes, p_no = judge(scene, claim, rng)
        judged.append((Claim(*ids, claim, question_of(claim)), Judgement(*ids, p_yes, p_no, verdict_of(p_yes, p_no))))
    return judged


@dataclass(frozen=True)
class FakeRun:
    """Writes the parts of a run directory one by one."""

    run_dir: Path

    def scenes(self, num_scenes: int) -> list[tuple[Scene, str]]:
        """Draw scenes into scenes/ and return them with their paths."""
        (self.run_dir / "scenes").mkdir(exist_ok=True)
        drawn = []
        for k, scene in enumerate(make_scenes(3, num_scenes)):
            path = self.run_dir / "scenes" / f"{k:05d}.png"
            render(scene).save(path)
            drawn.append((scene, str(path)))
        return drawn

    def evaluation(self, num_iterations: int, metrics: dict[str, Any], examples: Sequence[dict[str, Any]] = ()) -> None:
        """Write evaluations/NNN.json."""
        path = self.run_dir / "evaluations" / f"{num_iterations:03d}.json"
        path.parent.mkdir(exist_ok=True)
        data = {"num_iterations": num_iterations, "metrics": metrics, "examples": list(examples)}
        path.write_text(json.dumps(data), encoding="utf-8")

    def statistics(self, iteration: int, values: dict[str, Any]) -> None:
        """Write iterations/NNN/statistics.json."""
        path = self.run_dir / "iterations" / f"{iteration:03d}" / "statistics.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")

    def metrics(self, num_steps: int, num_iterations: int) -> None:
        """Write a metrics.csv with one row a step and, as Lightning does, rows that are blank but for other numbers."""
        rng = random.Random(1)
        with (self.run_dir / "metrics.csv").open("w", encoding="utf-8", newline="") as file:
            names = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "loss")
            rows = csv.DictWriter(file, ("step", "epoch", "iteration", *names))
            rows.writeheader()
            for step in range(num_steps):
                iteration, place = divmod(step * num_iterations, num_steps)
                rise = 1 - math.exp(-3 * place / num_steps)
                chosen, rejected = 0.12 * rise + rng.gauss(0, 0.02), -0.5 * rise + rng.gauss(0, 0.05)
                values = (chosen, rejected, min(1, 0.5 + 0.42 * rise + rng.gauss(0, 0.05)), chosen - rejected, 0.6)
                line = dict(zip(names, values, strict=True))
                rows.writerow({"step": step, "epoch": iteration, "iteration": iteration + 1, **line})
                if place == 0:
                    rows.writerow({"step": step, "epoch": iteration, "loss": ""})

    def shards(self, iteration: int, scenes: Sequence[tuple[Scene, str]]) -> None:
        """Write one pair for each scene: an answer without rejected claims and one with some."""
        rng = random.Random(iteration)
        prompts, claims, judgements, pairs = [], [], [], []
        for k, (scene, image_path) in enumerate(scenes):
            prompt = Prompt(f"train-{k}", QUESTIONS[k % len(QUESTIONS)], (image_path,))
            prompts.append(prompt)
            scores = [0.0, 0.0]
            while scores[0] == scores[1]:
                texts = (truthful_caption(scene, rng), biased_caption(scene, rng))
                judged = [judged_claims(scene, f"{prompt.id}/{side}", text, rng) for side, text in enumerate(texts)]
                scores = [-float(sum(judgement.verdict == "rejected" for _, judgement in side)) for side in judged]
            claims += [claim for side in judged for claim, _ in side]
            judgements += [judgement for side in judged for _, judgement in side]
            better, worse = (0, 1) if scores[0] > scores[1] else (1, 0)
            ids = (f"{prompt.id}/{better}", f"{prompt.id}/{worse}")
            sides = (*ids, texts[better], texts[worse], (1,), (2,), scores[better], scores[worse])
            pairs.append(Pair(">".join(ids), prompt.id, *sides))
        folder = self.run_dir / "iterations" / f"{iteration:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        for stage, records in (("prompts", prompts), ("claims", claims), ("judgements", judgements), ("pairs", pairs)):
            write_shard(folder / f"{stage}-00000.parquet", records, type(records[0]))


def build_run(run_dir: Path, num_iterations: int = 4) -> Path:
    """A whole run with truth; `num_iterations` of 0 leaves only the base model's evaluation."""
    run = FakeRun(run_dir)
    scenes = run.scenes(14)
    (run_dir / "config.yaml").write_text(CONFIG, encoding="utf-8")
    for k in range(num_iterations + 1):
        examples = [example(scene, n, k, path) for n, (scene, path) in enumerate(scenes[:8])]
        run.evaluation(k, {name: values[k] for name, values in METRICS.items()}, examples)
    for k in range(num_iterations):
        run.statistics(k, {name: values[k] for name, values in STATISTICS.items()})
        run.shards(k, scenes[8:])
    if num_iterations:
        run.metrics(num_steps=200, num_iterations=num_iterations)
    return run_dir


@pytest.fixture
def fake_run(tmp_path: Path) -> FakeRun:
    """An empty run directory to write parts into."""
    return FakeRun(tmp_path)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Builds a whole run, or its beginning, in a fresh directory."""

    def make(num_iterations: int = 4) -> Path:
        return build_run(tmp_path, num_iterations)

    return make
