import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from rlaifv.models.budget.architecture import architecture_config
from rlaifv.models.budget.estimate import Beside, estimate
from rlaifv.models.budget.workload import Setup, Workload
from rlaifv.report.preflight import Place, Volume, format_size, look_around, preflight_table, shortfalls

WORK = Workload(num_prompts=4000, num_responses=10, num_records=5342, epochs=4, max_new_tokens=512, num_iterations=4)
POLICY, LABELER = "llava-hf/llava-1.5-7b-hf", "llava-hf/llava-v1.6-34b-hf"
ROOMY = Place(
    policy=POLICY,
    labeler=None,
    device="cuda:0 (NVIDIA H200)",
    device_bytes=150_000_000_000,
    volumes=(
        Volume("download policy", Path("/cache"), 14_100_000_000, 2_000_000_000_000, filesystem=1),
        Volume("run directory", Path("/runs/first"), 97_000_000_000, 2_000_000_000_000, filesystem=2),
    ),
)


@pytest.fixture(scope="module")
def budget():
    return estimate(architecture_config(POLICY), WORK, Setup())


def rendered(budget, place):
    console = Console(record=True, width=100, file=StringIO())
    console.print(preflight_table(budget, place))
    return console.export_text()


def test_table_says_what_trains_what_it_costs_and_where_it_lives(budget):
    text = rendered(budget, ROOMY)
    for words in (
        "policy llava-hf/llava-1.5-7b-hf, labeler the same",
        "vision tower         304 M  frozen",
        "language model      6.61 B  6.61 B",
        "policy              7.06 B  6.76 B",
        "612  image 576, text 36",
        "4,000 prompts × 10 answers",
        "240,000 questions",
        "5,342 pairs × 4 epochs",
        "4 iterations",
        "AdamW with float32 masters 81.1 GB",
        "cuda:0 (NVIDIA H200), 150 GB",
        "/runs/first",
    ):
        assert words in text
    assert "!" not in text


def test_table_fits_a_screen(budget):
    lines = rendered(budget, ROOMY).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100


def test_labeler_of_its_own_and_adapters_have_rows():
    budget = estimate(architecture_config(POLICY), WORK, Setup(lora_rank=64), architecture_config(LABELER))
    text = rendered(budget, replace(ROOMY, labeler=LABELER))
    assert f"labeler {LABELER}" in text
    assert "labeler             34.8 B  frozen" in text
    assert "LoRA adapters        160 M   160 M" in text


def test_stages_that_a_method_lacks_have_no_rows():
    work = replace(
        WORK, stages=("generate", "logps", "train"), record="answers", num_records=40000, records_per_tree=10
    )
    text = rendered(estimate(architecture_config(POLICY), work, Setup()), ROOMY)
    assert "question" not in text
    assert "pairs" not in text
    assert re.search(r"^ log-probs +40,000 answers ", text, re.MULTILINE)
    assert "40,000 answers × 4 epochs" in text


def test_models_beside_the_policy_have_rows():
    llava = architecture_config(POLICY)
    stages = ("generate", "rewards", "logps", "values", "base", "train")
    work = replace(WORK, stages=stages, record="answers", num_records=40000, records_per_tree=10, epochs=1)
    beside = Beside(reward_models=(llava, llava), critic=llava)
    text = rendered(estimate(llava, work, Setup(lora_rank=64), beside=beside), ROOMY)
    assert max(map(len, text.splitlines())) <= 100
    for words in (
        "reward model        7.06 B  frozen",
        "critic              7.22 B   160 M",
        "40,000 answers × 2 models",
        "40,000 answers × 1 epoch ",
        "weights:  policy 14.8 GB, reward models 28.3 GB, critic 14.8 GB",
        "training: AdamW 2.56 GB, gradients 1.28 GB",
    ):
        assert words in text
    rows = re.findall(
        r"^ (reward models|critic's values|base model's log-probs|train|train critic)  ", text, re.MULTILINE
    )
    assert rows == ["reward models", "critic's values", "base model's log-probs", "train", "train critic"]


def test_screen_of_an_earlier_run_says_its_name(budget):
    console = Console(record=True, width=100, file=StringIO())
    console.print(preflight_table(budget, ROOMY, "reward_model"))
    assert console.export_text().startswith("first reward_model: policy llava-hf/llava-1.5-7b-hf")


def test_no_shortfall_where_all_fits(budget):
    assert shortfalls(budget, ROOMY) == []


def test_device_that_is_too_small(budget):
    small = replace(ROOMY, device_bytes=24_000_000_000)
    (sentence,) = shortfalls(budget, small)
    assert sentence.startswith("The stage 'train' needs about 119")
    assert "has 24.0 GB" in sentence
    assert "! The stage 'train'" in rendered(budget, small)


def test_disk_that_is_too_small_is_the_sum_of_what_goes_to_it(budget):
    volumes = tuple(replace(volume, free_bytes=100_000_000_000, filesystem=1) for volume in ROOMY.volumes)
    (sentence,) = shortfalls(budget, replace(ROOMY, volumes=volumes))
    assert "about 111 GB to the disk of /cache, where only 100 GB are free" in sentence
    apart = (volumes[0], replace(volumes[1], filesystem=2))
    assert shortfalls(budget, replace(ROOMY, volumes=apart)) == []


def test_look_around_finds_disk_device_and_what_must_be_downloaded(budget, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    run_dir = tmp_path / "runs/not/there/yet"
    place = look_around(budget, policy=POLICY, labeler=None, run_dir=run_dir, device=torch.device("cpu"))
    assert [volume.label for volume in place.volumes] == ["download policy", "run directory"]
    assert place.volumes[1].path == run_dir
    assert place.volumes[1].needed_bytes == budget.disk.run_dir
    assert place.volumes[1].filesystem == tmp_path.stat().st_dev
    assert place.volumes[1].free_bytes > 0
    assert place.device_bytes > 2**28
    (tmp_path / "model.safetensors").touch()
    place = look_around(budget, policy=str(tmp_path), labeler=None, run_dir=run_dir, device=torch.device("cpu"))
    assert [volume.label for volume in place.volumes] == ["run directory"]


def test_look_around_counts_the_labelers_download(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    budget = estimate(architecture_config(POLICY), WORK, Setup(), architecture_config(LABELER))
    place = look_around(budget, policy=POLICY, labeler=LABELER, run_dir=tmp_path, device=torch.device("cpu"))
    assert place.volumes[1].label == "download labeler"
    assert place.volumes[1].needed_bytes == 2 * budget.num_labeler_parameters


def test_look_around_names_the_gpu(budget, tmp_path, monkeypatch):
    properties = SimpleNamespace(name="NVIDIA H200", total_memory=150_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    place = look_around(budget, policy=POLICY, labeler=None, run_dir=tmp_path, device=torch.device("cuda:1"))
    assert (place.device, place.device_bytes) == ("cuda:1 (NVIDIA H200)", 150_000_000_000)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 "),
        (999, "999 "),
        (999.6, "1.00 k"),
        (12_345, "12.3 k"),
        (123_456, "123 k"),
        (99_960, "100 k"),
        (999_600, "1.00 M"),
    ],
)
def test_sizes_have_three_digits(number, text):
    assert format_size(number) == text
