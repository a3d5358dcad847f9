"""The loop with a real model, which labels itself."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rlaifv.data.images import load_image
from rlaifv.data.sources import PromptSource
from rlaifv.engines.labeler import LabelerModule
from rlaifv.engines.local import LocalEngine
from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.loop import FeedbackLoop
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding, Sampled
from rlaifv.records import Prompt
from rlaifv.stages.dividers.rules import RulesDivider
from rlaifv.stages.prompts import TakePrompts
from rlaifv.stages.stage import Task
from rlaifv.store.manifest import Manifest
from rlaifv.worlds.shapes_source import ShapesSource
from tests.loop.world import SENTENCES, SETTINGS, Interrupted, rlaifv_loop


class ScriptedEngine(LocalEngine):
    """The tiny model, but for its answers: random weights say nothing that could be divided."""

    def sample(self, prompts: Any, seeds: Any, decoding: Decoding, advance: Advance = ignore_progress) -> Any:
        def draw(prompt: Prompt, seed: int) -> Sampled:
            rng = random.Random(seed)
            said = " ".join(rng.sample(SENTENCES, rng.choice((1, 2, 3))))
            return Sampled(self.prompter.completion_ids(prompt, said), True)

        return [[draw(prompt, seed) for seed in some] for prompt, some in zip(prompts, seeds, strict=True)]


def test_with_a_real_model(
    model: Any, prompter: Prompter, source: PromptSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that labels itself: its pairs carry its own log-probs, and a resumed run ends with the same bytes."""

    def make(name: str) -> FeedbackLoop:
        engine = ScriptedEngine(model, prompter)
        settings = replace(SETTINGS, num_prompts=4)
        return rlaifv_loop(
            tmp_path / name, source, engine, LabelerModule(engine), RulesDivider(), settings, 0, source  # type: ignore[arg-type]
        )  # fmt: skip

    # Random weights prefer one answer to every question; what they prefer is made to depend on the question.
    verdict_of = "rlaifv.stages.score.verdict_of"
    monkeypatch.setattr(verdict_of, lambda p_yes, p_no: "accepted" if int(p_yes * 1e7) % 2 else "rejected")
    manifest = make("whole").prepare(0)
    by_id = {prompt.id: prompt for prompt in manifest.records("prompts")}
    pairs = manifest.records("pairs")
    expected = LocalEngine(model, prompter).completion_logps(
        [(by_id[pair.prompt_id], (pair.chosen_token_ids, pair.rejected_token_ids)) for pair in pairs]
    )
    for pair, logps in zip(pairs, expected, strict=True):
        assert list(pair.chosen_reference_logps) == pytest.approx(logps[0], rel=1e-5)
        assert list(pair.rejected_reference_logps) == pytest.approx(logps[1], rel=1e-5)
    resumed = make("resumed")
    put: Callable[..., None] = Manifest.put

    def stop_at_the_second_judgements(self: Manifest, stage: str, shard: int, *others: Any) -> None:
        if (stage, shard) == ("judgements", 1):
            raise Interrupted
        put(self, stage, shard, *others)

    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "put", stop_at_the_second_judgements)
        with pytest.raises(Interrupted):
            resumed.prepare(0)
    make("resumed").prepare(0)
    digests = [Manifest(tmp_path / name / "iterations/000")._index().shards for name in ("whole", "resumed")]
    assert digests[0] == digests[1]
    evaluations = [(tmp_path / name / "evaluations/000.json").read_bytes() for name in ("whole", "resumed")]
    assert evaluations[0] == evaluations[1]


def test_pictures_of_a_committed_iteration_are_drawn_again_before_it_is_trained_on(
    model: Any, prompter: Prompter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss of power may come right after the commit, when pictures are not on the disk yet."""
    monkeypatch.setattr(
        "rlaifv.stages.score.verdict_of", lambda p_yes, p_no: "accepted" if int(p_yes * 1e7) % 2 else "rejected"
    )

    def make() -> FeedbackLoop:
        source = ShapesSource(tmp_path / "scenes", num_held_out=0, seed=0)
        engine = ScriptedEngine(model, prompter)
        settings = replace(SETTINGS, num_prompts=4)
        return rlaifv_loop(tmp_path / "run", source, engine, LabelerModule(engine), RulesDivider(), settings, 0)

    make().prepare(0)
    paths = sorted((tmp_path / "scenes").iterdir())
    whole = [path.read_bytes() for path in paths]
    for path in paths:
        path.write_bytes(b"")
    prompter._images.clear()
    make().prepare(0)
    assert [path.read_bytes() for path in paths] == whole


def test_planning_decodes_every_image_once(
    model: Any, prompter: Prompter, source: PromptSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths follow from the sizes of what was decoded to be checked; they are refused in the same words."""
    read: list[str] = []

    def load(path: str, *limits: int) -> Image.Image:
        read.append(path)
        return load_image(path, *limits)

    for module in ("data.sources", "models.prompting"):
        monkeypatch.setattr(f"rlaifv.{module}.load_image", load)
    engine = LocalEngine(model, prompter)

    def plan(num_new_tokens: int) -> list[Prompt]:
        stage = TakePrompts(source, engine, SETTINGS.num_prompts, SETTINGS.max_drop_rate, num_new_tokens)
        stage.open(0)
        return list(stage(Task()).records)

    planned = plan(8)
    assert sorted(read) == sorted(path for prompt in planned for path in prompt.image_paths)
    assert len(read) == SETTINGS.num_prompts
    limit = model.config.get_text_config().max_position_embeddings
    with pytest.raises(ValueError, match=rf"needs \d+ tokens with its images, .* but the model has {limit} positions"):
        plan(limit)
