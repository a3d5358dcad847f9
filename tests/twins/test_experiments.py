"""Every file of configs/experiment is run by the command that its users type, on a twin of its model."""

import csv
import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

from rlaifv.data.images import load_image
from rlaifv.engines.local import LocalEngine
from rlaifv.models.loading import load_model
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding
from rlaifv.records import Prompt
from rlaifv.store.manifest import Manifest
from rlaifv.worlds.shapes_model import WEIGHTS_DIR
from tests.twins.conftest import MakeTwin, Terminal
from tests.twins.experiments import DIRECTORY, EARLIER, EXPERIMENTS, experiment_files, replaced
from tests.twins.images_only import images_only

CHAINS = ["llava7b_fact_rlhf", "llava7b_fgaif", "llava7b_morlaif"]
TWINS = [name for name, experiment in EXPERIMENTS.items() if experiment.policy is not None and name not in CHAINS]
ABLATIONS = [name for name, experiment in EXPERIMENTS.items() if experiment.policy is None]


def marked(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] if EXPERIMENTS[name].is_slow else []) for name in names]


def test_every_experiment_has_a_twin() -> None:
    assert sorted({*EXPERIMENTS, *EARLIER}) == experiment_files()
    chained = [OmegaConf.load(DIRECTORY / f"{name}.yaml")["before"]["reward_model"] for name in CHAINS]
    assert sorted(chained) == sorted(EARLIER)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", marked(TWINS))
def test_experiment(name: str, make: MakeTwin, terminal: Terminal, prompt_file: Path, corrections: Path) -> None:
    """Two iterations; killed and resumed it ends the same; its pairs can be exported and trained on; others load it."""
    experiment, is_given = EXPERIMENTS[name], name.endswith("rlhfv")
    assert experiment.policy is not None
    models = [f"model.path={make(experiment.policy)}"]
    models += [f"labeler.path={make(experiment.labeler)}"] if experiment.labeler else []
    shared = [f"experiment={name}", *models, *replaced(name)]
    print(f"{name}: replaced are {' '.join(replaced(name))}")
    data = f"data.path={corrections if is_given else prompt_file}"

    whole = terminal.start("train.py", "run_dir=whole", data, *shared)
    broken = terminal.start("train.py", "run_dir=broken", data, *shared)
    kill_in_the_middle(broken, terminal.directory / "broken", is_given)
    resumed = terminal.start("train.py", "resume=broken")
    terminal.wait(whole)
    terminal.wait(resumed)
    run_dir, num_iterations = terminal.directory / "whole", 1 if is_given else 2
    assert outcome(terminal.directory / "broken") == outcome(run_dir)
    for k in range(num_iterations):
        assert len(Manifest(run_dir / "iterations" / f"{k:03d}").records("pairs")) >= 2
    check_losses(run_dir)
    check_answers(run_dir, run_dir / "evaluations" / f"{num_iterations:03d}.json", make(experiment.policy))
    check_export(run_dir, run_dir / "evaluations" / f"{num_iterations:03d}.json")

    if not is_given:
        terminal.run("train.py", "run_dir=labelled", "run=label", data, *shared)
        assert pairs_of(terminal.directory / "labelled", 0) == pairs_of(run_dir, 0)
        terminal.run("tools/export_pairs.py", "run_dir=labelled", "format=trl", "out=exported")
        given = [item for item in shared if not item.startswith("iteration.num_prompts")]
        given += ["data=trl", "data.path=exported", "run=train", "iteration.num_prompts=null", "data.num_held_out=2"]
        terminal.run("train.py", "run_dir=given", *given, "iteration.num_iterations=1")
        assert (terminal.directory / "given" / "export" / "config.json").exists()
        check_losses(terminal.directory / "given")


@pytest.mark.timeout(900)
def test_policy_gradient(make: MakeTwin, terminal: Terminal, prompt_file: Path) -> None:
    """GRPO with adapters, in the experiment's own number format; killed and resumed it ends the same."""
    name = "llava7b_self_lora"
    policy = EXPERIMENTS[name].policy
    assert policy is not None
    plain = ["iteration.decoding.temperature=1.0", "iteration.decoding.top_k=0"]
    shared = [f"experiment={name}", "method=grpo_claims", *plain, *replaced(name)]
    shared += [f"model.path={make(policy)}", f"data.path={prompt_file}"]
    whole = terminal.start("train.py", "run_dir=whole", *shared)
    broken = terminal.start("train.py", "run_dir=broken", *shared)
    kill_in_the_middle(broken, terminal.directory / "broken", is_given=False)
    resumed = terminal.start("train.py", "resume=broken")
    terminal.wait(whole)
    terminal.wait(resumed)
    run_dir = terminal.directory / "whole"
    assert outcome(terminal.directory / "broken") == outcome(run_dir)
    assert all(len(Manifest(run_dir / "iterations" / f"{k:03d}").records("rollouts")) >= 2 for k in range(2))
    assert all(math.isfinite(loss) for loss in losses(run_dir))
    check_export(run_dir, run_dir / "evaluations" / "002.json")


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", marked(CHAINS))
def test_reward_model_and_ppo(name: str, make: MakeTwin, terminal: Terminal, prompt_file: Path) -> None:
    """A reward model, then PPO whose critic starts from it; killed and resumed the whole ends the same."""
    policy = EXPERIMENTS[name].policy
    assert policy is not None
    facts = prompt_file.with_name("facts.jsonl")
    rows = [json.loads(line) | {"facts": ["A star.", "A circle."]} for line in prompt_file.read_text().splitlines()]
    facts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = [f"experiment={name}", *replaced(name), f"model.path={make(policy)}", f"data.path={facts}"]
    whole = terminal.start("train.py", "run_dir=whole", *shared)
    broken = terminal.start("train.py", "run_dir=broken", *shared)
    kill_in_the_middle(broken, terminal.directory / "broken", is_given=False)
    resumed = terminal.start("train.py", "resume=broken")
    terminal.wait(whole)
    terminal.wait(resumed)
    run_dir = terminal.directory / "whole"
    assert outcome(terminal.directory / "broken") == outcome(run_dir)
    for one in (run_dir / "reward_model", run_dir):
        assert all(math.isfinite(loss) for loss in losses(one))
    AutoModelForImageTextToText.from_pretrained(run_dir / "reward_model" / "export")
    rollouts = Manifest(run_dir / "iterations" / "001").records("rollouts")
    assert any(one.values[0] != 0 for one in rollouts)  # the critic has learned
    assert any(one.logps != one.reference_logps for one in rollouts)  # the policy has left the base model
    check_answers(run_dir, run_dir / "evaluations" / "002.json", make(policy))
    check_export(run_dir, run_dir / "evaluations" / "002.json")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", marked(ABLATIONS))
def test_ablation(name: str, terminal: Terminal) -> None:
    """On the embedded model, with small numbers; another model's answers are the embedded model's own here."""
    print(f"{name}: replaced are {' '.join(replaced(name))}")
    other = [f"iteration.chosen_from={WEIGHTS_DIR}"] if name.endswith("other_model") else []
    terminal.run("train.py", "run_dir=whole", f"experiment={name}", *replaced(name), *other)
    run_dir = terminal.directory / "whole"
    tables = [
        name for name in ("pairs", "comparisons", "segments", "rollouts") if list(run_dir.glob(f"*/000/{name}-*"))
    ]
    assert tables
    assert Manifest(run_dir / "iterations" / "000").records(tables[-1])
    assert all(math.isfinite(loss) for loss in losses(run_dir))


def kill_in_the_middle(process: Any, run_dir: Path, is_given: bool) -> None:
    """In the second iteration's answers; where pairs are given, in training."""
    second = run_dir / "iterations" / "001" / "responses-00000.json"
    deadline = time.monotonic() + 800
    while not (list(run_dir.glob("checkpoints/*.ckpt.json")) if is_given else second.exists()):
        assert process.poll() is None, (run_dir.parent / "output.txt").read_text()[-6000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (run_dir / "export").exists()


def outcome(run_dir: Path) -> dict[str, Any]:
    """Digests of the exported weights, and what held-out prompts were answered with."""
    weights = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in run_dir.glob("export/*.safetensors")
    }
    assert weights
    evaluations = sorted(run_dir.glob("evaluations/*.json"))
    examples = [one for path in evaluations for one in json.loads(path.read_text())["examples"]]
    # Pictures that lay inside the data are in the run's own directory.
    answers = [one | {"image_path": Path(one["image_path"]).name} for one in examples]
    return {"weights": weights, "answers": answers, "losses": losses(run_dir)}


def losses(run_dir: Path) -> list[float]:
    with (run_dir / "metrics.csv").open(newline="") as lines:
        return [float(row["loss"]) for row in csv.DictReader(lines) if row.get("loss")]


def check_losses(run_dir: Path) -> None:
    """They fall: within the run, or below where the policy is its own reference."""
    found = losses(run_dir)
    half = max(1, len(found) // 2)  # each is of one batch
    first, last = sum(found[:half]) / half, sum(found[-half:]) / half
    assert last < first or last < math.log(2), found


def pairs_of(run_dir: Path, iteration: int) -> list[tuple[str, str]]:
    pairs = Manifest(run_dir / "iterations" / f"{iteration:03d}").records("pairs")
    return sorted((pair.chosen, pair.rejected) for pair in pairs)


def check_answers(run_dir: Path, evaluation: Path, base: Path) -> None:
    """What the run leaves answers held-out prompts as the policy did in memory, word for word.

    Of adapters that is `adapter/` over the base model: merging rounds them to the weights' 16 bits.
    """
    examples = json.loads(evaluation.read_text())["examples"]
    assert len(examples) >= 2
    prompts = [Prompt(one["prompt_id"], one["question"], (one["image_path"],)) for one in examples]
    with images_only():
        if (run_dir / "adapter").exists():
            quantization = OmegaConf.load(run_dir / "config.yaml").model.quantization
            model, processor = load_model(str(base), dtype="bfloat16", quantization=quantization)
            model = PeftModel.from_pretrained(model, run_dir / "adapter")
        else:
            model, processor = load_model(str(run_dir / "export"))
        engine = LocalEngine(model, Prompter(processor))
        sampled = engine.sample(prompts, [[0]] * len(prompts), Decoding(temperature=0.0, max_new_tokens=40))
    assert [engine.decode(answers[0].token_ids) for answers in sampled] == [one["response"] for one in examples]


def check_export(run_dir: Path, evaluation: Path) -> None:
    """Transformers alone loads the export, and finds the log-probs that the engine finds."""
    directory, example = str(run_dir / "export"), json.loads(evaluation.read_text())["examples"][0]
    prompt, answer = Prompt("0", example["question"], (example["image_path"],)), example["response"]
    with images_only():
        policy, processor = load_model(directory, dtype="float32")
        engine = LocalEngine(policy, Prompter(processor))
        ids = engine.prompter.completion_ids(prompt, answer)
        ((ours,),) = engine.completion_logps([(prompt, (ids,))])
        model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
        processor = AutoProcessor.from_pretrained(directory)
        content = [{"type": "image"}, {"type": "text", "text": prompt.question}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = dict(processor(text=[text], images=[load_image(prompt.image_paths[0])], return_tensors="pt"))
        start = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids])], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "mm_token_type_ids" in inputs:
            kinds = inputs["mm_token_type_ids"]
            inputs["mm_token_type_ids"] = torch.cat([kinds, torch.zeros(1, len(ids), dtype=kinds.dtype)], 1)
        with torch.no_grad():
            logps = model(**inputs).logits[0, start - 1 : -1].log_softmax(-1)
    theirs = logps.gather(1, torch.tensor(ids)[:, None])[:, 0]
    assert list(ours) == pytest.approx(theirs.tolist(), abs=2e-4)
