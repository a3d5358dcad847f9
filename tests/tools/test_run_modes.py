"""From labelled pairs to trained weights in two runs, through the files that are exchanged with others."""

import json
from collections.abc import Callable
from pathlib import Path

from rlaifv.store.manifest import Manifest
from rlaifv.worlds.shapes_model import WEIGHTS_DIR
from tools import export_pairs

Launch = Callable[..., tuple[int, str]]
SMALL = (
    "iteration.num_prompts=6",
    "iteration.shard_prompts=4",
    "iteration.min_pairs=1",
    "iteration.num_iterations=2",
    "iteration.decoding.max_new_tokens=60",
    "data.num_held_out=0",
)


def test_label_then_export_then_train(launch: Launch, tmp_path: Path) -> None:
    status, output = launch("run=label", "run_dir=labelled", *SMALL)
    assert status == 0, output
    labelled = tmp_path / "labelled"
    manifests = [Manifest(labelled / "iterations" / f"{k:03d}").verified() for k in range(2)]
    pairs = [pair for manifest in manifests for pair in manifest.records("pairs")]
    assert output.rstrip().endswith(f"result: pairs labelled {len(pairs)}, iterations 2, run labelled")
    assert " train " not in output.partition("run directory")[0].partition("one iteration")[2]
    assert all(manifest.committed for manifest in manifests)
    # One policy made both, of different prompts.
    producers = [json.loads(manifest.path.read_text())["producer"]["policy"] for manifest in manifests]
    assert producers[0] == producers[1]
    assert not {p.id for p in manifests[0].records("prompts")} & {p.id for p in manifests[1].records("prompts")}
    assert {path.name for path in labelled.iterdir()} == {
        "config.yaml",
        "inputs.json",
        "scenes",
        "iterations",
        "report",
        "seconds.json",
    }
    status, output = launch("resume=labelled")
    assert (status, output.strip()) == (0, f"{labelled} is finished; there is nothing left to do.")

    assert export_pairs.main(["run_dir=labelled", "format=rlaifv", "out=pairs"]) == 0
    given = ("run=train", "data=rlaifv", "data.path=pairs", "iteration.num_iterations=1", "iteration.min_pairs=1")
    learner = ("learner.reduction=weighted", "learner.changed_weight=2.0", "learner.lr=1e-4")
    status, output = launch(*given, *learner, "run_dir=trained", "iteration.epochs=2")
    assert status == 0, output
    trained = tmp_path / "trained"
    manifest = Manifest(trained / "iterations" / "000").verified()
    assert manifest.stages == {"prompts": 1, "pairs": 1}
    made, used = ({(pair.chosen, pair.rejected) for pair in some} for some in (pairs, manifest.records("pairs")))
    assert made == used
    assert f"result: pairs trained {len(pairs)}, iterations 1, run trained" in output
    assert {path.name for path in trained.iterdir()} >= {"export", "checkpoints", "images", "metrics.csv", "report"}
    exported = (trained / "export" / "model.safetensors").read_bytes()
    assert exported != (WEIGHTS_DIR / "model.safetensors").read_bytes()


def test_what_training_on_given_pairs_needs(launch: Launch, tmp_path: Path) -> None:
    status, output = launch("run=train", "run_dir=refused")
    assert (status, "run=train needs data that come with pairs" in output) == (2, True)
    rows = [{"prompt": "What?", "images": ["a.png"]}]
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    status, output = launch("run=train", "data=trl", "data.path=pairs.jsonl", "iteration.num_iterations=1")
    assert (status, "Columns 'chosen' and 'rejected' are missing in row 0 of" in output) == (2, True), output
