"""metrics.csv after crashes is what it would have been without them."""

from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger

from rlaifv.callbacks.metrics import MetricsLogger


def log(logger: CSVLogger, *steps: int) -> None:
    for step in steps:
        logger.log_metrics({"loss": step / 10}, step)
        if step == 2:
            logger.log_metrics({"coverage": 0.5}, step)


def content(directory: Path) -> bytes:
    return (directory / "metrics.csv").read_bytes()


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    (tmp_path / "whole").mkdir()
    logger = MetricsLogger(str(tmp_path / "whole"))
    log(logger, *range(6))
    logger.finalize("success")
    return content(tmp_path / "whole")


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
@pytest.mark.parametrize("checkpoint", [0, 2, 3, 4])
def test_rows_of_steps_that_are_made_again_are_there_once(tmp_path: Path, whole: bytes, checkpoint: int) -> None:
    """Four steps were made and logged, and the checkpoint was after some of them."""
    logger = MetricsLogger(str(tmp_path), flush_logs_every_n_steps=1)
    log(logger, *range(4))
    logger = MetricsLogger(str(tmp_path))
    logger.go_on_from(checkpoint)
    log(logger, *range(checkpoint, 6))
    logger.finalize("success")
    assert content(tmp_path) == whole


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_a_row_that_a_kill_cut_off_is_dropped(tmp_path: Path, whole: bytes) -> None:
    log(MetricsLogger(str(tmp_path), flush_logs_every_n_steps=1), *range(5))
    (tmp_path / "metrics.csv").write_bytes(content(tmp_path)[:-5])
    logger = MetricsLogger(str(tmp_path))
    logger.go_on_from(4)
    log(logger, 4, 5)
    logger.finalize("success")
    assert content(tmp_path) == whole


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_lightnings_own_logger_would_lose_them(tmp_path: Path) -> None:
    for steps in ((0, 1), (2, 3)):
        logger = CSVLogger(tmp_path, name="", version="", flush_logs_every_n_steps=1)
        log(logger, *steps)
        logger.finalize("success")
    assert b"0.1" not in content(tmp_path)
