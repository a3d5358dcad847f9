"""Images that cannot be read cost their prompts, and too many of them the run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rlaifv.data.sources import FilesSource
from tests.loop.world import SETTINGS, World, measure


def save_images(directory: Path, num_images: int, num_truncated: int) -> Path:
    """A prompt list with JPEG files, the first of which are cut off in the middle."""
    lines = []
    for k in range(num_images):
        path = directory / f"{k}.jpg"
        Image.effect_noise((64, 64), 40.0 + k).convert("RGB").save(path)
        if k < num_truncated:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        lines.append(json.dumps({"id": f"photo-{k}", "image": path.name, "question": "What is it?"}))
    listed = directory / "prompts.jsonl"
    listed.write_text("\n".join(lines))
    return listed


def files_world(tmp_path: Path, num_truncated: int, **options: Any) -> World:
    listed = save_images(tmp_path, 6, num_truncated)
    source = FilesSource(path=str(listed), num_iterations=1, seed=0, **options)
    return World(tmp_path / "run", source, replace(SETTINGS, num_prompts=None, min_pairs=1), truth=None)


@pytest.mark.parametrize("num_truncated", [0, 1])
def test_a_damaged_image_costs_its_prompt_and_is_counted(tmp_path: Path, num_truncated: int) -> None:
    """One of six is less than the 30 % allowed."""
    world = files_world(tmp_path, num_truncated)
    manifest = world.loop().prepare(0)
    expected = {f"photo-{k}" for k in range(num_truncated, 6)}
    assert {prompt.id for prompt in manifest.records("prompts")} == expected
    (shard,) = manifest.shards("prompts")
    assert shard is not None
    assert shard.drops == ({"incomplete": 1} if num_truncated else {})
    assert {response.prompt_id for response in manifest.records("responses")} == expected


def test_too_many_damaged_images_stop_the_run(tmp_path: Path) -> None:
    """Two of six are more than 30 %; nothing was generated yet."""
    world = files_world(tmp_path, 2)
    message = r"2 of the 6 prompts of iteration 0 have unreadable images \(incomplete: 2\).*max_drop_rate=0.3"
    with pytest.raises(ValueError, match=message):
        world.loop().prepare(0)
    assert world.events == []


def test_the_source_says_which_images_are_too_large(tmp_path: Path) -> None:
    """The limits of the data are those that prompts are dropped by."""
    Image.new("RGB", (80, 80)).save(tmp_path / "large.png")
    listed = save_images(tmp_path, 6, 0)
    line = {"id": "large", "image": "large.png", "question": "What is it?"}
    listed.write_text(f"{listed.read_text()}\n{json.dumps(line)}")
    source = FilesSource(path=str(listed), num_iterations=1, seed=0, max_pixels=64 * 64)
    settings = replace(SETTINGS, num_prompts=None, min_pairs=1)
    manifest = World(tmp_path / "run", source, settings, truth=None).loop().prepare(0)
    assert {prompt.id for prompt in manifest.records("prompts")} == {f"photo-{k}" for k in range(6)}
    assert manifest.shards("prompts")[0].drops == {"too_many_pixels": 1}  # type: ignore[union-attr]


def test_a_damaged_held_out_image_costs_its_prompt_too(tmp_path: Path) -> None:
    world = files_world(tmp_path, 1, num_held_out=6 - 1)
    held_out = {prompt.id for prompt in world.source.held_out()}
    measure(world.loop(), 0)
    evaluation = json.loads((world.run_dir / "evaluations/000.json").read_text())
    assert {example["prompt_id"] for example in evaluation["examples"]} == held_out - {"photo-0"}
