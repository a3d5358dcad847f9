"""What is exported is read back as it was, by the readers here, by `datasets` as others use it, and by TRL's trainer."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset

from rlaifv.data import exports
from rlaifv.data.exports import EXPORTS, Example, iterations_of, read_examples, write_pairs
from rlaifv.data.tables import Table
from rlaifv.records import Prompt
from tests.data.preferences import write_run

ABOUT = {"run": "first", "model": "owner/policy", "labeler": "self"}


@pytest.fixture
def examples(prompts: list[Prompt], tmp_path: Path) -> list[Example]:
    run_dir = write_run(tmp_path / "run", prompts)
    return [example for k in iterations_of(run_dir) for example in read_examples(run_dir, k, ABOUT)]


def with_two_images(example: Example, prompts: list[Prompt]) -> Example:
    paths = (*prompts[0].image_paths, *prompts[1].image_paths)
    return replace(example, prompt=replace(example.prompt, image_paths=paths))


@pytest.mark.parametrize("form", EXPORTS)
def test_round_trips(form: str, examples: list[Example], prompts: list[Prompt], tmp_path: Path) -> None:
    if form != "rlaifv":
        examples = [with_two_images(examples[0], prompts), *examples[1:]]
    write_pairs(form, examples, tmp_path / "out")
    rows = list(Table(form, str(tmp_path / "out")))
    assert len(rows) == len(examples) == 12
    for row, example in zip(rows, examples, strict=True):
        assert (row.question, row.chosen, row.rejected) == (
            example.prompt.question,
            example.pair.chosen,
            example.pair.rejected,
        )
        contents = [image if isinstance(image, bytes) else Path(image).read_bytes() for image in row.images]
        assert contents == [Path(path).read_bytes() for path in example.prompt.image_paths]
    if form != "trl":  # which has no column for it
        assert [row.id for row in rows] == [example.id for example in examples]


def test_conversations_are_kept_where_the_format_can(examples: list[Example], tmp_path: Path) -> None:
    prompt = replace(examples[0].prompt, system="Be brief.", history=("Who is it?", "A cat."))
    talk = [
        replace(examples[0], prompt=prompt),
        replace(examples[1], prompt=replace(prompt, image_paths=(), system="")),
    ]
    for form in ("trl", "llamafactory"):
        write_pairs(form, talk, tmp_path / form)
        rows = list(Table(form, str(tmp_path / form)))
        assert [(row.system, row.history, row.question, len(row.images)) for row in rows] == [
            ("Be brief.", ("Who is it?", "A cat."), prompt.question, 1),
            ("", ("Who is it?", "A cat."), prompt.question, 0),
        ]
    (entry,) = json.loads((tmp_path / "llamafactory" / "dataset_info.json").read_text()).values()
    assert entry["columns"]["system"] == "system"
    with pytest.raises(
        ValueError, match=r"has a system message or earlier turns, for which RLAIF-V's schema has no column"
    ):
        write_pairs("rlaifv", talk[:1], tmp_path / "rlaifv")


def provenances(form: str, out: Path) -> list[dict[str, Any]]:
    if form == "llamafactory":
        return [json.loads(line) for line in (out / "provenance.jsonl").read_text().splitlines()]
    origins = [json.loads(row.origin) for row in Table(form, str(out))]
    return [json.loads(origin["origin_split" if form == "rlaifv" else "provenance"]) for origin in origins]


@pytest.mark.parametrize("form", EXPORTS)
def test_provenance_goes_along(form: str, examples: list[Example], tmp_path: Path) -> None:
    write_pairs(form, examples, tmp_path / "out")
    for found, example in zip(provenances(form, tmp_path / "out"), examples, strict=True):
        assert {key: found[key] for key in ABOUT} == ABOUT
        assert (found["chosen_score"], found["rejected_score"]) == (0.0, -1.0)
        assert found["policy"] == f"digest-{found['iteration']}"
        (claim,) = found["rejected_claims"]
        assert claim == {
            "text": example.pair.rejected,
            "question": f"Is it {example.pair.rejected}?",
            "p_yes": 0.25,
            "p_no": 0.75,
            "verdict": "rejected",
        }


def test_files_of_many_rows_are_cut(examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "ROWS_PER_FILE", 5)
    monkeypatch.setattr(exports, "ROWS_PER_GROUP", 2)
    write_pairs("rlaifv", examples, tmp_path / "out")
    names = [f"train-{k:05d}-of-00003.parquet" for k in range(3)]
    assert sorted(path.name for path in (tmp_path / "out" / "data").iterdir()) == names
    assert [row.id for row in Table("rlaifv", str(tmp_path / "out"))] == [example.id for example in examples]


def test_others_see_images(examples: list[Example], tmp_path: Path) -> None:
    """As `datasets` reads a directory from the hub, with its own idea of the features."""
    write_pairs("trl", examples, tmp_path / "out")
    row = load_dataset(str(tmp_path / "out"), split="train")[0]
    assert [image.size for image in row["images"]] == [(192, 192)]
    assert row["prompt"] == [{"role": "user", "content": examples[0].prompt.question}]


def test_llamafactory_finds_its_files(examples: list[Example], tmp_path: Path) -> None:
    """By dataset_info.json, which says where everything is, and with as many markers as images."""
    out = tmp_path / "out"
    write_pairs("llamafactory", examples, out)
    (entry,) = json.loads((out / "dataset_info.json").read_text()).values()
    assert (entry["formatting"], entry["ranking"]) == ("sharegpt", True)
    columns = entry["columns"]
    for row in json.loads((out / entry["file_name"]).read_text()):
        (turn,) = row[columns["messages"]]
        assert turn["value"].count("<image>") == len(row[columns["images"]])
        assert all((out / name).is_file() for name in row[columns["images"]])
    assert len(list((out / "images").iterdir())) == 6  # each once, though both iterations have it


def test_what_does_not_fit_is_refused_before_anything_is_written(
    examples: list[Example], prompts: list[Prompt], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(
        ValueError, match=r"has 2 images, but a row of RLAIF-V's schema holds one; format=trl holds any"
    ):
        write_pairs("rlaifv", [examples[1], with_two_images(examples[0], prompts)], out)
    marked = replace(examples[0], prompt=replace(examples[0].prompt, question="What is <image>?"))
    with pytest.raises(ValueError, match=r"has the text <image>, which LLaMA-Factory takes for an image"):
        write_pairs("llamafactory", [marked], out)
    with pytest.raises(ValueError, match=r"^'dpo' is no format to write; there are trl, rlaifv, llamafactory\.$"):
        write_pairs("dpo", examples, out)
    with pytest.raises(ValueError, match=r"^There are no pairs to write\.$"):
        write_pairs("trl", [], out)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").touch()
    with pytest.raises(ValueError, match=r"out is not an empty directory\.$"):
        write_pairs("trl", examples, out)


def test_only_finished_iterations_are_read(prompts: list[Prompt], tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", prompts)
    manifest = run_dir / "iterations" / "001" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "committed": False}))
    assert list(iterations_of(run_dir)) == [0]
    for missing in (1, 2):
        with pytest.raises(ValueError, match=rf"run has no finished iteration {missing}, counted from 0\.$"):
            read_examples(run_dir, missing, ABOUT)


@pytest.mark.filterwarnings("ignore")  # of TRL and its dependencies
def test_trl_trains_on_it(model: Any, processor: Any, examples: list[Example], tmp_path: Path) -> None:
    """One step of TRL's own DPOTrainer, which reads the exported files as its users would."""
    from trl import DPOConfig, DPOTrainer

    write_pairs("trl", examples, tmp_path / "out")
    before = copy.deepcopy(model.state_dict())
    config = DPOConfig(
        output_dir=str(tmp_path / "trainer"),
        per_device_train_batch_size=2,
        max_steps=1,
        learning_rate=1e-3,
        max_length=None,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    trainer = DPOTrainer(
        model,
        ref_model=copy.deepcopy(model),
        args=config,
        train_dataset=load_dataset(str(tmp_path / "out"), split="train"),
        processing_class=copy.deepcopy(processor),
    )
    loss = trainer.train().training_loss
    assert loss == pytest.approx(0.6931, abs=1e-3)  # the policy is its own reference at the first step
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
