"""Which pairs a logger with tables is given, and when."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from PIL import Image

from rlaifv.callbacks.samples import COLUMNS, SampleTableCallback
from rlaifv.data.datamodule import IterationDataModule
from rlaifv.records import Pair, Prompt
from tests.learners.stand_ins import Collating


class FakeWandb(WandbLogger):
    """Takes tables and images, and starts nothing."""

    def __init__(self) -> None:
        self.tables: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []

    def log_table(self, key: str, **arguments: Any) -> None:
        self.tables.append({"key": key, **arguments})

    def log_image(self, key: str, images: list[Any], **arguments: Any) -> None:
        self.images.append({"key": key, "images": images, **arguments})


def make_pair(k: int, prompt_id: str) -> Pair:
    texts = f"It is {k}.", f"It is not {k}."
    return Pair(f"pair-{k}", prompt_id, "+", "-", *texts, (1,), (2,), 0.0, -float(k + 1), (-1.0,), (-2.0,))


@pytest.fixture
def data(tmp_path: Path) -> IterationDataModule:
    """Three pairs: about a red image, about no image, about a blue one and a second."""
    for colour in ("red", "blue", "green"):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{colour}.png")
    paths = [(str(tmp_path / "red.png"),), (), (str(tmp_path / "blue.png"), str(tmp_path / "green.png"))]
    prompts = [Prompt(f"p{k}", f"Question {k}?", some) for k, some in enumerate(paths)]
    pairs = [make_pair(k, f"p{k}") for k in range(3)]
    manifest = SimpleNamespace(records={"prompts": prompts, "pairs": pairs}.get)
    return IterationDataModule(lambda iteration: manifest, Collating(), 1, 3, 2, 0)  # type: ignore[arg-type, return-value]


def start_epoch(data: IterationDataModule, num_pairs: int, *loggers: Any) -> None:
    trainer: Any = SimpleNamespace(datamodule=data, loggers=loggers, global_step=40)
    SampleTableCallback(num_pairs).on_train_epoch_start(trainer, None)  # type: ignore[arg-type]


def test_the_first_pairs_are_logged_as_a_table(data: IterationDataModule) -> None:
    logger = FakeWandb()
    start_epoch(data, 2, logger)
    assert COLUMNS == ["iteration", "pair", "question", "chosen", "rejected", "chosen_score", "rejected_score"]
    assert logger.tables == [
        {
            "key": "samples/pairs",
            "columns": COLUMNS,
            "data": [
                [1, "pair-0", "Question 0?", "It is 0.", "It is not 0.", 0.0, -1.0],
                [1, "pair-1", "Question 1?", "It is 1.", "It is not 1.", 0.0, -2.0],
            ],
            "step": 40,
        }
    ]


def test_images_are_captioned_with_both_answers(data: IterationDataModule) -> None:
    """Of several images the first; a prompt without any is in the table only."""
    logger = FakeWandb()
    start_epoch(data, 8, logger)
    (logged,) = logger.images
    assert [image.getpixel((0, 0)) for image in logged["images"]] == [(255, 0, 0), (0, 0, 255)]
    assert logged["caption"] == ["chosen: It is 0.\nrejected: It is not 0.", "chosen: It is 2.\nrejected: It is not 2."]
    assert (logged["key"], logged["step"]) == ("samples/images", 40)
    assert len(logger.tables[0]["data"]) == 3


def test_without_images_only_the_table_is_logged(data: IterationDataModule) -> None:
    dataset = data.dataset()
    dataset.records = dataset.records[1:2]
    logger = FakeWandb()
    start_epoch(data, 8, logger)
    assert len(logger.tables) == 1
    assert logger.images == []


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("iteration", [0, 2])
def test_once_an_iteration(data: IterationDataModule, iteration: int, epoch: int) -> None:
    data.iteration, data.epoch = iteration, epoch
    logger = FakeWandb()
    start_epoch(data, 1, logger)
    assert [table["data"][0][0] for table in logger.tables] == ([iteration + 1] if epoch == 0 else [])


def test_loggers_without_tables_are_left_alone(data: IterationDataModule, tmp_path: Path) -> None:
    """Nor are the pairs read for them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(data, "dataset", lambda: pytest.fail("the pairs were read"))
        start_epoch(data, 2, CSVLogger(tmp_path))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_real_logger_takes_them(data: IterationDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, in a directory of its own: two images and a table are on disk."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="test")
    start_epoch(data, 8, logger)
    logger.experiment.finish()
    assert len([*tmp_path.glob("wandb/offline-run-*/files/media/images/samples/*.png")]) == 2
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/samples/*.json")
    assert "It is not 2." in table.read_text()
