"""Locate a user's copy of a benchmark: data_root/<benchmark>/, with the official file names."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rlaifv.benchmarks.protocol import Benchmark, Given

# For each field of `Given`, paths below data_root/<benchmark>, of which the first that exists counts. One that ends in "/." is
# the directory of such a file; a "*" stands for whatever is there, where that is a single file.
PLACES: dict[str, dict[str, tuple[str, ...]]] = {
    "amber": {
        "questions": ("query_all.json", "query/query_all.json", "data/query/query_all.json"),
        "annotations": ("annotations.json/.", "data/annotations.json/."),
        "nouns": ("nouns.json",),
        "similarity": ("similarity.json",),
        "images": ("image", "images"),
    },
    "pope": {
        "questions": ("output/coco/coco_pope_random.json/.", "coco/coco_pope_random.json/.", "coco_pope_random.json/."),
        "images": ("val2014", "images"),
    },
    "mme": {"questions": ("existence.txt/.", "eval_tool/Your_Results/existence.txt/."), "images": ("images", ".")},
    "chair": {
        "questions": ("questions.jsonl", "questions.json"),
        "annotations": ("instances_val2014.json/.", "annotations/instances_val2014.json/."),
        "synonyms": ("synonyms.txt", "data/synonyms.txt"),
        "images": ("val2014", "images"),
    },
    "object_halbench": {
        "questions": ("obj_halbench_300_with_image.jsonl", "*.jsonl"),
        "annotations": ("instances_val2014.json/.", "annotations/instances_val2014.json/."),
        "synonyms": ("synonyms_refine.txt", "synonyms.txt"),
        "objects": ("objects.json",),
    },
    "mmhal": {
        "questions": ("response_template.json", "mmhal-bench_answer_template.json", "mmhal-bench_with_image.jsonl"),
        "images": ("images",),
    },
    "refomb": {
        "questions": ("RefoMB_dev.jsonl", "*.jsonl"),
        "annotations": ("RefoMB_dev_gpt4v_answer.jsonl",),
        "images": ("images",),
    },
    "llava_bench": {
        "questions": ("questions.jsonl",),
        "annotations": ("context.jsonl/.",),
        "images": ("images",),
    },
    "hallusionbench": {"questions": ("HallusionBench.json",), "images": ("hallusion_bench/.", "images", ".")},
    "mmstar": {"questions": ("MMStar.tsv", "mmstar.tsv")},
    "faithscore": {"questions": ("*.jsonl", "*.json"), "images": ("images",)},
    "mhumaneval": {"questions": ("*.jsonl", "*.json"), "images": ("images",)},
}


def given_in(benchmark: Benchmark, data_root: Path, own: Mapping[str, Path] | None = None) -> Given:
    """Return a benchmark's files: those in `data_root`, and those given explicitly.

    Args:
        benchmark: whose fields of `Given` are looked for, as far as it uses them.
        data_root: holds a directory for each benchmark.
        own: paths that are taken as they are, by field.

    Raises:
        ValueError: there is no such directory, or a field is none.
    """
    directory, own = data_root / benchmark.name, own or {}
    known = [field.name for field in fields(Given) if field.type == Path | None]
    if wrong := [name for name in own if name not in known]:
        raise ValueError(f"{benchmark.name}.{wrong[0]}=… is not one of {', '.join(known)}.")
    if not directory.is_dir() and not own:
        raise ValueError(f"data_root={data_root} holds no directory {benchmark.name}, where its files would be.")
    found: dict[str, Any] = {
        name: path
        for name, places in PLACES.get(benchmark.name, {}).items()
        if name in benchmark.uses and name not in own and (path := _first(directory, places)) is not None
    }
    return Given(**(found | dict(own)))


def _first(directory: Path, places: tuple[str, ...]) -> Path | None:
    for place in places:
        name = place.removesuffix("/.")
        matches = sorted(directory.glob(name)) if "*" in name else [directory / name]
        if len(matches) == 1 and matches[0].exists():
            return matches[0].parent if place.endswith("/.") else matches[0]
    return None
