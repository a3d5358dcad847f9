import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoConfig

from tests.settings import ROOT

Launch = Callable[..., tuple[int, str]]

# Policy's and trainable parameters of the published checkpoints, and the labeler's.
EXPERIMENTS: dict[str, tuple[str, str, str | None]] = {
    "llava7b_self": ("7.06 B", "6.76 B", None),
    "llava7b_self_lora": ("7.22 B", "160 M", None),
    "llava7b_next34b": ("7.06 B", "6.76 B", "34.8 B"),
    "llava7b_self_qlora": ("7.22 B", "160 M", None),
    "qwen25vl7b_self": ("8.45 B", "161 M", None),
    "qwen3vl8b_self": ("8.94 B", "175 M", None),
}
# Those that train on RLHF-V's pairs.
GIVEN = {"llava7b_rlhfv": ("7.06 B", "6.76 B"), "llava13b_rlhfv": ("13.4 B", "13.0 B")}
# Those that train a reward model first, with its prompts and the policy's.
CHAINS = {
    "llava7b_fact_rlhf": ("10,000 prompts × 2 answers", "1,024 prompts × 4 answers"),
    "llava7b_fgaif": ("1,750 prompts × 2 answers", "1,024 prompts × 4 answers"),
    "llava7b_morlaif": ("10,000 prompts × 2 answers", "250 prompts × 4 answers"),
}
# Those whose weights transformers cannot load.
FOREIGN = {"omnilmm12b_self"}
NEEDED = 4 * 4000 + 256


@pytest.fixture
def prompt_list(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    path = tmp_path / "prompts.jsonl"
    path.write_text((json.dumps({"image": "a.png", "question": "What is it?"}) + "\n") * NEEDED)
    return path


def test_every_experiment_is_tried() -> None:
    assert {*EXPERIMENTS, *GIVEN, *CHAINS, *FOREIGN} == {
        path.stem for path in (ROOT / "configs/experiment").glob("*.yaml")
    }


def peak_gb(output: str) -> float:
    """The last number of the row "all"."""
    (peak,) = re.findall(r"^ all .* ([\d.]+) GB *$", output, re.MULTILINE)
    return float(peak)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_is_budgeted_and_nothing_written(
    launch: Launch, prompt_list: Path, tmp_path: Path, experiment: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    status, output = launch(f"experiment={experiment}", "preflight_only=true", "data.path=prompts.jsonl")
    assert status == 0, output
    parameters, trains, labeler = EXPERIMENTS[experiment]
    assert re.search(rf"policy +{re.escape(parameters)} +{re.escape(trains)}", output)
    assert bool(labeler) == bool(re.search(rf"labeler +{re.escape(labeler or '34')}", output))
    assert "4,000 prompts × 10 answers" in output
    assert "download policy" in output
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("experiment", CHAINS)
def test_both_runs_of_a_chain_are_budgeted(launch: Launch, prompt_list: Path, experiment: str) -> None:
    lines = prompt_list.read_text().splitlines(keepends=True)
    prompt_list.write_text("".join([*lines, *lines[:384]]))  # Fact-RLHF needs 16,640
    status, output = launch(f"experiment={experiment}", "preflight_only=true", "data.path=prompts.jsonl")
    assert status == 0, output
    scorer, _, policy = output.partition("one iteration")[2].partition("one iteration")
    assert CHAINS[experiment][0] in scorer
    assert CHAINS[experiment][1] in policy
    # Each of three principles in both orders; 1,750 × 2 answers of 6 claims; the same of 10,000.
    questions = {"llava7b_morlaif": "60,000", "llava7b_fgaif": "21,000", "llava7b_fact_rlhf": "120,000"}
    assert f"{questions[experiment]} questions" in scorer
    assert "questions" not in policy


def test_another_model_that_gives_answers_takes_its_memory(launch: Launch, prompt_list: Path) -> None:
    """7.06 billion parameters at two bytes; beside a labeler, that one is not taken for it."""
    settings = ("data=files", f"data.path={prompt_list}", "preflight_only=true")
    status, output = launch(*settings, "iteration.num_iterations=1")
    assert status == 0, output
    assert "chosen answers" not in output
    other = "iteration.chosen_from=llava-hf/llava-1.5-7b-hf"
    for labeler in ((), ("labeler=llava_next_34b",)):
        status, output = launch(*settings, "iteration.num_iterations=1", other, *labeler)
        assert status == 0, output
        assert re.search(r"14\.1 GB\s+chosen answers|chosen answers\s+14\.1 GB", " ".join(output.split())), output
        assert bool(labeler) == bool(re.search("labeler +34.8 B", output))


@pytest.mark.parametrize("experiment", GIVEN)
def test_experiment_on_given_pairs_is_budgeted(launch: Launch, experiment: str) -> None:
    status, output = launch(f"experiment={experiment}", "preflight_only=true")
    assert status == 0, output
    parameters, trains = GIVEN[experiment]
    assert re.search(rf"policy +{re.escape(parameters)} +{re.escape(trains)}", output)
    assert "5,733 pairs × 3 epochs" in output


@pytest.mark.parametrize(("experiment", "card_gb"), [("llava7b_self_lora", 48), ("llava7b_self_qlora", 24)])
def test_adapters_fit_the_gpu_that_their_experiment_names(
    launch: Launch, prompt_list: Path, experiment: str, card_gb: int
) -> None:
    status, output = launch(f"experiment={experiment}", "preflight_only=true", "data.path=prompts.jsonl")
    assert status == 0, output
    assert f"1 GPU of {card_gb} GB" in (ROOT / f"configs/experiment/{experiment}.yaml").read_text(encoding="utf-8")
    assert peak_gb(output) < card_gb


def test_too_few_prompts_for_typed_sizes_are_refused(launch: Launch, prompt_list: Path) -> None:
    """For 4 x 4,000 prompts, 16,000 leave none to hold out."""
    prompt_list.write_text("".join(prompt_list.read_text().splitlines(keepends=True)[:16000]))
    words = ("experiment=llava7b_self_lora", "data.path=prompts.jsonl", "preflight_only=true")
    typed = ("iteration.num_iterations=4", "iteration.num_prompts=4000", "data.num_held_out=256")
    status, output = launch(*words, *typed)
    assert status == 2
    assert (
        f"error: 4 iterations of 4,000 prompts and 256 held-out ones need 16,256 prompts, but data.path={prompt_list} has "
        "16,000 rows; lower iteration.num_prompts or set data.reuse_prompts=true."
    ) in " ".join(output.split())
    status, output = launch(*words)
    assert status == 0, output
    said = f"data.path={prompt_list} has 16,000 prompts: 4 iterations of 3,936 prompts, 256 held out."
    assert said in " ".join(output.split())
    for mended in ("iteration.num_prompts=3936", "data.reuse_prompts=true", "data.num_held_out=0"):
        chosen = ("iteration.selection.per_epoch=0",) if mended == "data.num_held_out=0" else ()
        status, output = launch(*words, mended, *chosen)
        assert status == 0, output


@pytest.mark.parametrize(("num_rows", "status"), [(16255, 2), (16256, 0), ("null", 0)])
def test_rows_of_published_data_are_counted_too(launch: Launch, num_rows: int | str, status: int) -> None:
    words = ("experiment=llava7b_self_lora", "data=rlaifv", "data.num_held_out=256", "preflight_only=true")
    words = (*words, "iteration.num_prompts=4000", "iteration.num_iterations=4")
    ended, output = launch(*words, f"data.num_rows={num_rows}")
    assert ended == status, output
    assert ("data.path=openbmb/RLAIF-V-Dataset has 16,255 rows" in " ".join(output.split())) == (status == 2)


def test_prompts_are_shared_out_among_iterations(launch: Launch, prompt_list: Path) -> None:
    settings = ("iteration.num_iterations=4", "iteration.num_prompts=null", "iteration.pairing.max_pairs_per_prompt=2")
    status, output = launch(
        "data=files", f"data.path={prompt_list}", "iteration.epochs=3", "preflight_only=true", *settings
    )
    assert status == 0, output
    assert "4,064 prompts × 10 answers" in output
    assert "8,128 pairs × 3 epochs" in output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there(launch: Launch, tmp_path: Path) -> None:
    status, output = launch("trainer=gpu")
    assert status == 2
    assert "error: trainer.accelerator=gpu, but torch sees no GPU here; trainer=cpu runs without one." in output
    assert list(tmp_path.iterdir()) == []


def test_model_of_unknown_size(launch: Launch, tmp_path: Path) -> None:
    status, output = launch("model.path=nobody/nothing-7b")
    assert status == 2
    assert "error: The size of model.path='nobody/nothing-7b' is unknown" in output
    assert "hf download nobody/nothing-7b config.json" in output
    assert list(tmp_path.iterdir()) == []


def test_a_model_whose_cost_is_not_known_may_run(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    AutoConfig.for_model("vipllava").save_pretrained(tmp_path / "model")
    status, output = launch(f"model.path={tmp_path / 'model'}", "preflight_only=true")
    assert status == 0, output
    assert "What a run costs is not known for models of type 'vipllava'; it is not estimated." in " ".join(
        output.split()
    )


def test_a_model_that_transformers_does_not_have_is_said_to_be_one(launch: Launch, prompt_list: Path) -> None:
    """The screen says so, and so does whoever loads it."""
    status, output = launch("experiment=omnilmm12b_self", "preflight_only=true", "data.path=prompts.jsonl")
    assert status == 0, output
    sentence = (
        "openbmb/OmniLMM-12B is of type 'omnilmm', an architecture that transformers does not have: its code is in its "
        "authors' repository (github.com/OpenBMB/MiniCPM-V, folder omnilmm). To run it, convert its weights"
    )
    assert sentence in " ".join(output.split())
    status, output = launch("model=omnilmm_12b")
    assert status == 2
    assert f"could not be loaded as an image-text-to-text model: {sentence}" in " ".join(output.split())


def test_only_the_first_process_of_several_prints(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert launch("preflight_only=true") == (0, "")


def test_runs_of_a_part_are_budgeted_for_it(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}\n" * 40)
    stages = ("generate", "score", "reference log-probs", "train")
    given = ("data=trl", "data.path=pairs.jsonl", "iteration.num_iterations=2")
    for arguments, expected in (
        (("run=full",), stages),
        (("run=label",), stages[:3]),
        (("run=train", *given), stages[2:]),
    ):
        status, output = launch(*arguments, "preflight_only=true")
        assert status == 0, output
        assert [name for name in stages if re.search(rf"^ {name} +\d", output, re.MULTILINE)] == list(expected)
        assert ("AdamW" in output) == ("train" in expected)
    assert "20 pairs" in output  # of each of two iterations
