"""Iterations as the loop leaves them, with a few records in every stage."""

from pathlib import Path
from typing import Any

import rlaifv
from rlaifv.records import Claim, Judgement, Pair, Prompt, Response
from rlaifv.store.manifest import Manifest

PRODUCER = {"policy": "sha256:ab", "seed": "7"}
NUM_SHARDS = {"prompts": 1, "responses": 2, "claims": 2, "judgements": 2, "pairs": 1}
ROOT = Path(rlaifv.__file__).parents[1]


def records_of(stage: str, shard: int) -> list[Any]:
    """Two records of a stage, which depend on nothing but the shard, as those of a seeded stage do."""
    return [
        {
            "prompts": Prompt(f"p{n}", "What is shown?", ("/a.png",)),
            "responses": Response(f"r{n}", f"p{n % 2}", "A ball.", (5, n, 2), True, n),
            "claims": Claim(f"r{n}/0", f"r{n}", f"p{n % 2}", "There is a ball.", "Is there a ball?"),
            "judgements": Judgement(f"r{n}/0", f"r{n}", f"p{n % 2}", 0.25, 0.5, "rejected"),
            "pairs": Pair(f"p{n}", f"p{n}", f"r{n}", f"r{n + 2}", "A ball.", "A cat.", (5, 2), (6, 2), 0.0, -1.0),
        }[stage]
        for n in (2 * shard, 2 * shard + 1)
    ]


def put(manifest: Manifest, stage: str, shard: int) -> None:
    drops = {"responses": {"truncated": 1}, "claims": {"no_claims": shard}, "pairs": {"tie": 3, "truncated": 1}}
    manifest.put(stage, shard, records_of(stage, shard), drops.get(stage))


def run_iteration(run_dir: Path, iteration: int = 0) -> Manifest:
    """The stages of an iteration as the loop runs them."""
    manifest = Manifest.open(run_dir, iteration, PRODUCER | ({"policy": f"sha256:{iteration}"} if iteration else {}))
    if manifest.committed:
        return manifest.verified()
    for stage, num_shards in NUM_SHARDS.items():
        manifest.plan(stage, num_shards)
        for shard in manifest.missing(stage):
            put(manifest, stage, shard)
    return manifest.commit(1)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")
