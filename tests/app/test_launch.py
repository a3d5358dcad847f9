"""How train.py starts: what it refuses, with which sentence and status, and what it leaves behind then (nothing)."""

import json
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from rlaifv.app.checks import ConfigError
from rlaifv.app.launch import START_VARIABLE, checkpoint_to_resume, is_finished, register_resolvers
from rlaifv.store.atomic import make_directory
from rlaifv.store.checkpoints import checkpoint_path, write_checkpoint
from rlaifv.worlds.shapes_model import WEIGHTS_DIR

Launch = Callable[..., tuple[int, str]]
CONFIGS = Path(__file__).parents[2] / "configs"
OWN = ("data=files", "data.path=prompts.jsonl")
SMALL = (
    "iteration.num_iterations=1",
    "iteration.num_prompts=4",
    "iteration.num_responses=2",
    "iteration.decoding.max_new_tokens=20",
    "data.num_held_out=0",
)


@pytest.fixture
def offline_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


def write_prompts(directory: Path, *extra: object, num: int = 3) -> None:
    Image.new("RGB", (64, 64), "red").save(directory / "red.png")
    lines = [json.dumps({"image": "red.png", "question": "Describe the image."})] * num
    (directory / "prompts.jsonl").write_text("\n".join([*lines, *(json.dumps(row) for row in extra)]))


def error_of(output: str) -> str:
    """What follows "error: "; the whole output where no such line is printed."""
    assert "Traceback" not in output
    return output.partition("error: ")[2] or output


def assert_nothing_trained(directory: Path) -> None:
    for pattern in ("**/checkpoints/*", "**/export", "**/metrics.csv", "**/report"):
        assert not list(directory.glob(pattern))


@pytest.mark.parametrize(
    ("arguments", "sentences"),
    [
        (["data=files"], ["data.path has no default and must be given, as in data.path=…"]),
        (["labeler=model"], ["labeler.path has no default and must be given, as in labeler.path=…"]),
        ([*OWN], ["data.path=prompts.jsonl is not a file."]),
        (["learner.beta=-1"], ["learner.beta=-1 must be above 0."]),
        (["learner.beta=much"], ["learner.beta='much' must be a number."]),
        (["learner.schedule=step"], ["learner.schedule=step must be one of cosine, linear, constant."]),
        (
            ["learner.batch_size=0", "iteration.num_responses=1"],
            ["learner.batch_size=0 must be at least 1.", "iteration.num_responses=1 must be at least 2."],
        ),
        (["model.path=./nowhere"], ["model.path=./nowhere is not a directory"]),
        (["+learner.betta=1"], ["+learner.betta=1 adds a key that nothing reads."]),
        (["++learner.betta=1"], ["++learner.betta=1 adds a key that nothing reads."]),
        (["+depth=1"], ["+depth=1 adds a key that nothing reads."]),
        (["resume=nowhere"], ["resume=nowhere is no run directory", "nowhere/config.yaml is missing."]),
        (["resume=latest"], ["resume=latest found no run in", "outputs."]),
        (["min_free_bytes=-1"], ["min_free_bytes=-1 must be at least 0."]),
    ],
)
def test_refused_before_anything_is_made(
    launch: Launch, tmp_path: Path, arguments: list[str], sentences: list[str]
) -> None:
    status, output = launch(*arguments)
    assert status == 2, output
    assert all(sentence in error_of(output) for sentence in sentences), output
    assert len(error_of(output).splitlines()) <= len(sentences)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("learner.betta=1", ["learner.betta", "not in struct"]),
        ("lerner=paper", ["lerner"]),
        ("learner=papper", ["learner/papper", "paper_lora"]),
    ],
)
def test_typos_are_refused_by_hydra(launch: Launch, tmp_path: Path, argument: str, words: list[str]) -> None:
    status, output = launch(argument)
    assert status == 1
    assert all(word in output for word in words)
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"image": "gone.png", "question": "What is it?"},
            "Field 'image' in line 4 of {path} names {folder}/gone.png, which is not an existing file.",
        ),
        ({"image": "red.png", "question": "  "}, "Field 'question' is empty in line 4 of {path}."),
        ({"image": "red.png"}, "Field 'question' is missing in line 4 of {path}."),
        (["red.png"], "The line 4 of {path} is not a JSON object with fields, but of type list."),
    ],
)
def test_bad_row_is_named_before_weights_are_loaded(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: object, sentence: str
) -> None:
    monkeypatch.setattr("transformers.AutoModelForImageTextToText.from_pretrained", pytest.fail)
    write_prompts(tmp_path, row)
    status, output = launch(*OWN, "run_dir=run", *SMALL)
    assert status == 2, output
    expected = sentence.format(path=tmp_path / "prompts.jsonl", folder=tmp_path)
    assert error_of(output).splitlines()[0] == expected
    assert not (tmp_path / "run").exists()


def test_settings_of_an_older_version_are_refused_in_one_sentence(launch: Launch, tmp_path: Path) -> None:
    """What they lack is named; what classes have defaults for may be missing."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        register_resolvers()
        cfg = compose("train", ["run_dir=run"])
    OmegaConf.set_struct(cfg, False)
    del cfg.min_free_bytes, cfg.run, cfg.data.num_held_out, cfg.callbacks.samples
    del cfg.learner.nll_weight, cfg.iteration.decoding.stop, cfg.evaluation
    (tmp_path / "run").mkdir()
    OmegaConf.save(cfg, tmp_path / "run" / "config.yaml")
    status, output = launch("resume=run")
    assert status == 2, output
    stored = tmp_path / "run" / "config.yaml"
    (sentence,) = error_of(output).splitlines()
    named, _, rest = sentence.partition(", so an older version of this project made the run; ")
    assert named.startswith(f"{stored} lacks ")
    assert {*named.removeprefix(f"{stored} lacks ").split(", ")} == {
        "min_free_bytes",
        "run",
        "learner.nll_weight",
        "iteration.decoding.stop",
        "evaluation",
    }
    assert rest.startswith("go on with it in that version")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.yaml"]


def test_more_prompts_wanted_than_there_are(launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.AutoModelForImageTextToText.from_pretrained", pytest.fail)
    write_prompts(tmp_path)
    status, output = launch(*OWN, "run_dir=run", *SMALL, "iteration.num_prompts=4000")
    assert status == 2, output
    assert "need 4,000 prompts, but" in error_of(output)
    assert "prompts.jsonl has 3 rows; lower iteration.num_prompts" in error_of(output)


def test_too_many_corrupt_images(launch: Launch, tmp_path: Path) -> None:
    write_prompts(tmp_path, {"id": "bad", "image": "bad.png", "question": "What?"})
    (tmp_path / "bad.png").write_bytes((tmp_path / "red.png").read_bytes()[:80])
    status, output = launch(*OWN, "run_dir=run", *SMALL)
    assert status == 2, output
    assert "Prompt bad is dropped: The image" in " ".join(output.split())
    assert "1 of the 4 prompts of iteration 0 have unreadable images" in error_of(output)
    assert "more than iteration.max_drop_rate=0.05 allows." in error_of(output)
    assert_nothing_trained(tmp_path)


def test_model_without_chat_template(launch: Launch, tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS_DIR, tmp_path / "model", ignore=shutil.ignore_patterns("chat_template*"))
    status, output = launch("model.path=model", "run_dir=run", *SMALL)
    assert status == 2, output
    assert "chat template" in error_of(output)
    assert_nothing_trained(tmp_path)


def test_directory_without_a_model(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    status, output = launch("model.path=model", *SMALL)
    assert status == 2, output
    assert f"model.path='{tmp_path / 'model'}'" in error_of(output)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_too_few_pairs_stop_the_run_with_the_reasons(launch: Launch, tmp_path: Path) -> None:
    status, output = launch("run_dir=run", *SMALL, "iteration.min_pairs=100000")
    assert status == 2, output
    assert "fewer than min_pairs=100000; dropped: " in error_of(output)
    assert re.search(r"dropped: \d+ [a-z_]+", error_of(output))  # which reasons there are depends on the answers
    assert f"traceback in {tmp_path / 'run' / 'error.txt'}" in output
    assert_nothing_trained(tmp_path)
    # Its work is not mixed up with that of other settings.
    status, output = launch("run_dir=run", *SMALL, "iteration.min_pairs=1")
    assert status == 2, output
    assert f"{tmp_path / 'run'} holds a run already; resume={tmp_path / 'run'} goes on with it" in error_of(output)


def test_directory_that_cannot_be_made(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, output = launch("run_dir=file/run", *SMALL)
    assert status == 2, output
    assert error_of(output).startswith(f"Cannot write {tmp_path / 'file'}: ")


def test_verbose_shows_the_traceback(launch: Launch) -> None:
    status, output = launch("learner.beta=-1", "verbose=true")
    assert status == 1
    assert "learner.beta=-1 must be above 0." in output
    assert "Traceback" in output


def test_help_holds_keys_groups_and_examples(launch: Launch, tmp_path: Path) -> None:
    status, output = launch("--help")
    assert status == 0
    for group in sorted(path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name != "hydra"):
        assert f"{group}: " in output
    for text in ("python train.py resume=RUN_DIR", "data.path", "iteration.num_prompts", "learner.beta", "--cfg job"):
        assert text in output
    assert list(tmp_path.iterdir()) == []


def test_configuration_can_be_shown(launch: Launch, tmp_path: Path) -> None:
    status, output = launch("--cfg", "job", "learner.beta=0.25", "experiment=llava7b_self_lora")
    assert status == 0
    shown = OmegaConf.create(output)
    assert shown.learner.beta == 0.25
    assert shown.learner.lora.r == 64
    assert OmegaConf.is_missing(shown.data, "path")
    assert list(tmp_path.iterdir()) == []


def test_stored_settings_are_what_was_composed(launch: Launch, tmp_path: Path) -> None:
    write_prompts(tmp_path, {"image": "red.png", "question": "?"})
    (tmp_path / "deep").mkdir()
    no_room = f"min_free_bytes={10**18}"  # the run ends where it would write its first shard
    launch(*OWN, "seed=7", "run_dir=deep/run", "model.path=deep", "learner.lr=1e-3", no_room, *SMALL)
    launch(*OWN, "seed=7", "run_dir=deep/run", "learner.lr=1e-3", no_room, *SMALL)
    stored = OmegaConf.load(tmp_path / "deep" / "run" / "config.yaml")
    assert (stored.seed, stored.data.seed, stored.learner.lr) == (7, 7, 1e-3)
    # Paths are found again from any working directory, and a run that was moved does not write to its old place.
    assert stored.data.path == str(tmp_path / "prompts.jsonl")
    assert stored.run_dir == str(tmp_path / "deep" / "run")
    assert stored.callbacks.checkpoint.directory == str(tmp_path / "deep" / "run" / "checkpoints")
    stored.run_dir = "/moved"
    assert stored.callbacks.checkpoint.directory == "/moved/checkpoints"
    assert "hydra" not in stored


def test_fresh_directory_is_named_by_the_time_and_shared_with_started_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register_resolvers()
    monkeypatch.setenv(START_VARIABLE, "")
    monkeypatch.delenv(START_VARIABLE)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        run_dir = compose("train").run_dir
        assert compose("train").run_dir == run_dir
    assert run_dir == f"outputs/{os.environ[START_VARIABLE]}"
    assert len(run_dir) == len("outputs/2024-02-29/12-00-00")


@pytest.mark.usefixtures("offline_key")
def test_tracking_is_offline_exactly_without_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def is_offline() -> bool:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose("train", ["logger=wandb"]).logger.wandb.offline

    register_resolvers()
    assert is_offline()
    (tmp_path / ".netrc").write_text("machine example.org login me password secret")
    assert is_offline()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret")
    assert not is_offline()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert is_offline()
    monkeypatch.delenv("WANDB_MODE")
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert not is_offline()


def test_resume_takes_the_newest_checkpoint_that_is_what_was_written(tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    callbacks = {"callbacks": {"checkpoint": {"num_kept": 2}}}
    fresh, resumed = (OmegaConf.create({"resume": resume} | callbacks) for resume in (None, "run"))
    assert checkpoint_to_resume(resumed, tmp_path) is None
    for step in (3, 6):
        make_directory(directory)
        write_checkpoint(checkpoint_path(directory, step), partial(torch.save, {"weights": torch.zeros(1000)}))
    assert checkpoint_to_resume(fresh, tmp_path) is None
    assert checkpoint_to_resume(resumed, tmp_path) == str(directory / "step=000006.ckpt")
    torn = directory / "step=000006.ckpt"
    torn.write_bytes(torn.read_bytes()[:-1])
    assert checkpoint_to_resume(resumed, tmp_path) == str(directory / "step=000003.ckpt")


def test_checkpoints_that_must_have_been_are_missed(tmp_path: Path) -> None:
    """A later iteration stands on a checkpoint; without one the run would start over with other weights."""
    (tmp_path / "iterations" / "000").mkdir(parents=True)
    resumed = OmegaConf.create({"resume": "run", "callbacks": {"checkpoint": {"num_kept": 2}}})
    assert checkpoint_to_resume(resumed, tmp_path) is None
    (tmp_path / "iterations" / "001").mkdir()
    with pytest.raises(ConfigError, match=r"finds no checkpoint in .*, though .*001 was begun after one"):
        checkpoint_to_resume(resumed, tmp_path)


def test_run_is_finished_once_the_report_is_written(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"run": "full", "iteration": {"num_iterations": 2}})
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    assert not is_finished(cfg, tmp_path)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "config.json").touch()
    assert not is_finished(cfg, tmp_path)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").touch()
    assert is_finished(cfg, tmp_path)
    more = OmegaConf.create({"run": "full", "iteration": {"num_iterations": 3}})
    assert not is_finished(more, tmp_path)


def test_a_run_that_only_labels_is_finished_without_weights(tmp_path: Path) -> None:
    label, train = (OmegaConf.create({"run": run, "iteration": {"num_iterations": 2}}) for run in ("label", "train"))
    OmegaConf.save(label, tmp_path / "config.yaml")
    (tmp_path / "report").mkdir()
    assert not is_finished(label, tmp_path)
    (tmp_path / "report" / "index.html").touch()
    assert is_finished(label, tmp_path)
    assert not is_finished(train, tmp_path)
