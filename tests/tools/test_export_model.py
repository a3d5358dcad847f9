"""What others get: weights under either set of names, adapters, processor and a card."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from rlaifv.app.launch import CONFIG_NAME, register_resolvers
from rlaifv.models.loading import export_model, load_model, select_trainable
from rlaifv.store.atomic import write_json
from tools.export_model import main

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def run_dir(model: Any, model_dir: Path, processor: Any, tmp_path: Path) -> Path:
    """A finished LoRA run of two iterations, as far as an export looks at it."""
    run = tmp_path / "run"
    (run / "report").mkdir(parents=True)
    (run / "report" / "index.html").touch()
    policy = select_trainable(model, (), {"r": 2, "lora_alpha": 4})
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) if parameter.requires_grad else 0)
    export_model(policy, processor, run / "export", run / "adapter")
    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        words = [f"model.path={model_dir}", "learner.lora={r: 2, lora_alpha: 4}", "iteration.num_iterations=2"]
        cfg = compose("train", [*words, f"run_dir={run}"])
    OmegaConf.save(cfg, run / CONFIG_NAME)
    for k, rate in enumerate((0.8, 0.4, 0.1)):
        metrics = {"hallucination/response": rate, "hallucination/mention": rate / 2, "coverage": 0.5 + k / 10}
        (run / "evaluations").mkdir(exist_ok=True)
        write_json(run / "evaluations" / f"{k:03d}.json", {"num_iterations": k, "metrics": metrics, "examples": []})
    for k in range(2):
        (run / "iterations" / f"{k:03d}").mkdir(parents=True)
        write_json(run / "iterations" / f"{k:03d}" / "statistics.json", {"pairs_kept": 1000.0 + k})
    return run


@pytest.mark.parametrize("names", ["current", "original"])
def test_either_set_of_names_loads(run_dir: Path, tmp_path: Path, names: str) -> None:
    main([f"run_dir={run_dir}", f"out={tmp_path / 'out'}", f"names={names}"])
    stored = load_file(tmp_path / "out" / "model.safetensors")
    in_tower = [name for name in stored if name.startswith("vision_tower.")]
    assert in_tower
    assert all(name.startswith("vision_tower.vision_model.") == (names == "original") for name in in_tower)
    ours, _ = load_model(str(tmp_path / "out"))
    expected = AutoModelForImageTextToText.from_pretrained(run_dir / "export").state_dict()
    assert ours.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").exists()
    assert (tmp_path / "out" / "chat_template.jinja").exists()
    assert (tmp_path / "out" / "preprocessor_config.json").exists() == (names == "original")


def test_the_index_of_shards_is_renamed_too(run_dir: Path, tmp_path: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(run_dir / "export")
    (run_dir / "export" / "model.safetensors").unlink()
    model.save_pretrained(run_dir / "export", max_shard_size="1MB")
    main([f"run_dir={run_dir}", f"out={tmp_path / 'out'}", "names=original"])
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    assert len({*index.values()}) > 1
    for name, file in index.items():
        assert name in load_file(tmp_path / "out" / file)
    assert load_model(str(tmp_path / "out"))


def test_the_card(run_dir: Path, model_dir: Path, tmp_path: Path) -> None:
    main([f"run_dir={run_dir}", f"out={tmp_path / 'out'}", "license=apache-2.0"])
    card = (tmp_path / "out" / "README.md").read_text()
    _, header, body = card.split("---\n", 2)
    fields = yaml.safe_load(header)
    assert fields["base_model"] == model_dir.name
    assert str(model_dir.parent) not in card
    assert fields["license"] == "apache-2.0"
    assert "| pairs | 1,000, 1,001 |" in body
    assert "| answers with a false claim | 0.800 | 0.100 |" in body
    assert "| iterations | 2, 10 answers a prompt |" in body
    assert "| trained | LoRA adapters (rank 2) |" in body


def test_a_name_cannot_break_the_header(run_dir: Path, tmp_path: Path) -> None:
    main([f"run_dir={run_dir}", f"out={tmp_path / 'out'}", "license='x\nevil: yes | a'"])
    header = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)[1]
    assert "evil" not in yaml.safe_load(header)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run_dir=nowhere", "out=new"], "run_dir=nowhere holds no finished run."),
        (["run_dir=nowhere", "out=new", "names=old"], "names=old must be one of current, original."),
    ],
)
def test_what_cannot_be_done_is_said(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().out


def test_nothing_is_overwritten(run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir / "export", tmp_path / "out")
    with pytest.raises(SystemExit):
        main([f"run_dir={run_dir}", f"out={tmp_path / 'out'}"])
