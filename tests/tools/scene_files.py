"""Drawn scenes in the official forms of POPE, AMBER and Object HalBench, as a user would have them below data_root."""

import base64
import json
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from rlaifv.metrics.truth import BenchmarkQuestion
from rlaifv.stages.score import WORDING
from rlaifv.worlds.shapes import SHAPES, Scene, make_scenes, render
from rlaifv.worlds.shapes_benchmark import benchmark_questions

# Of AMBER's questions, by what they are about and their right answer.
TYPES = {
    ("existence", False): "discriminative-hallucination",
    ("attribute", True): "discriminative-attribute-state",
    ("attribute", False): "discriminative-attribute-state",
    ("relation", True): "discriminative-relation",
    ("relation", False): "relation",
}


def write_scene_files(data_root: Path, num_scenes: int) -> dict[int, Scene]:
    """Write all three; the scenes by number, from 1, as the benchmarks count their images."""
    scenes = dict(enumerate(make_scenes(20260, num_scenes), start=1))
    asked = benchmark_questions({str(number): scene for number, scene in scenes.items()}, num_scenes)
    _write_pope(data_root / "pope", scenes, asked)
    _write_amber(data_root / "amber", scenes, asked)
    _write_object_halbench(data_root / "object_halbench", scenes)
    return scenes


def shapes_of(scene: Scene) -> list[str]:
    """What AMBER and COCO call the objects of a scene, each once."""
    return list(dict.fromkeys(thing.shape for thing in scene.things))


def _write_pope(directory: Path, scenes: Mapping[int, Scene], asked: Iterable[BenchmarkQuestion]) -> None:
    _write_images(directory / "val2014", scenes, "COCO_val2014_{:012d}.png")
    (directory / "output" / "coco").mkdir(parents=True)
    for split in ("random", "popular", "adversarial"):
        rows = [
            {
                "question_id": number,
                "image": f"COCO_val2014_{int(one.prompt_id):012d}.png",
                "text": one.text + WORDING.suffix,  # as the small model was taught to be asked
                "label": "yes" if one.is_true else "no",
            }
            for number, one in enumerate((one for one in asked if one.kind == f"pope/{split}"), start=1)
        ]
        write_lines(directory / "output" / "coco" / f"coco_pope_{split}.json", rows)


def _write_amber(directory: Path, scenes: Mapping[int, Scene], asked: Iterable[BenchmarkQuestion]) -> None:
    _write_images(directory / "image", scenes, "AMBER_{}.png")
    (directory / "data" / "query").mkdir(parents=True)
    queries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, scene in scenes.items():
        absent = [shape for shape in SHAPES if shape not in shapes_of(scene)]
        queries.append({"id": number, "image": f"AMBER_{number}.png", "query": "Describe the image."})
        annotations.append({"id": number, "type": "generative", "truth": shapes_of(scene), "hallu": absent})
    for one in asked:
        _, _, about = one.kind.partition("amber/")
        if about:
            number = len(queries) + 1
            queries.append({"id": number, "image": f"AMBER_{one.prompt_id}.png", "query": one.text + WORDING.suffix})
            truth = "yes" if one.is_true else "no"
            annotations.append({"id": number, "type": TYPES[about, one.is_true], "truth": truth})
    parts = {"generative": queries[: len(scenes)], "discriminative": queries[len(scenes) :], "all": queries}
    for name, rows in parts.items():
        (directory / "data" / "query" / f"query_{name}.json").write_text(json.dumps(rows))
    (directory / "data" / "annotations.json").write_text(json.dumps(annotations))
    (directory / "data" / "relation.json").write_text(json.dumps({shape: [] for shape in SHAPES}))
    (directory / "data" / "safe_words.txt").write_text("image\npicture\n")


def _write_object_halbench(directory: Path, scenes: Mapping[int, Scene]) -> None:
    directory.mkdir(parents=True)
    rows = [
        {
            "image_id": number,
            "question": "Describe the image in detail.",
            "image": base64.b64encode(_png(scene)).decode(),
        }
        for number, scene in scenes.items()
    ]
    write_lines(directory / "obj_halbench_300_with_image.jsonl", rows)
    images = [{"id": number, "file_name": f"COCO_val2014_{number:012d}.jpg"} for number in scenes]
    instances = [
        {
            "id": 10 * number + k,
            "image_id": number,
            "category_id": SHAPES.index(thing.shape) + 1,
            "segmentation": [[0, 0]],
        }
        for number, scene in scenes.items()
        for k, thing in enumerate(scene.things[1:])  # the first one is known from captions alone
    ]
    captions = [
        {"id": number, "image_id": number, "caption": scene.things[0].sentence} for number, scene in scenes.items()
    ]
    categories = [{"id": k, "name": shape} for k, shape in enumerate(SHAPES, start=1)]
    whole = {"images": images, "annotations": instances, "categories": categories}
    (directory / "instances_val2014.json").write_text(json.dumps(whole))
    (directory / "captions_val2014.json").write_text(json.dumps({"images": images, "annotations": captions}))
    rows_of_words = ("circle, disc", "square, box", "triangle", "star", "cross, plus sign", "ring, hoop")
    (directory / "synonyms_refine.txt").write_text("\n".join(rows_of_words) + "\n")


def _write_images(directory: Path, scenes: Mapping[int, Scene], name: str) -> None:
    directory.mkdir(parents=True)
    for number, scene in scenes.items():
        (directory / name.format(number)).write_bytes(_png(scene))


def _png(scene: Scene) -> bytes:
    stream = BytesIO()
    render(scene).save(stream, "PNG")
    return stream.getvalue()


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
