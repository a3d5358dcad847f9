"""A service that fails costs its records, not the run."""

import logging
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import WandbLogger

from rlaifv.callbacks.tracking import MOST_FAILURES, WandbTracking


class Service:
    """Stands for a run of the service; fails while it is told to."""

    def __init__(self) -> None:
        self.is_down = True
        self.logged: list[dict[str, Any]] = []

    def log(self, metrics: dict[str, Any], **_: Any) -> None:
        if self.is_down:
            raise ConnectionError("no route to host\nand more")
        self.logged.append(metrics)

    def define_metric(self, *_: Any, **__: Any) -> None:
        """Nothing to do."""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    found = Service()
    monkeypatch.setattr(WandbLogger, "experiment", found)
    return found


def test_the_run_goes_on_and_the_service_may_come_back(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracking = WandbTracking(str(tmp_path), offline=True)
    with caplog.at_level(logging.WARNING):
        tracking.log_metrics({"loss": 1.0}, step=1)
    assert caplog.messages == ["Weights & Biases failed (no route to host); the run goes on without it."]
    service.is_down = False
    tracking.log_metrics({"loss": 0.5}, step=2)
    assert [metrics["loss"] for metrics in service.logged] == [0.5]
    assert tracking.num_failures == 0


def test_after_a_few_failures_nothing_more_is_sent(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracking = WandbTracking(str(tmp_path), offline=True)
    for step in range(MOST_FAILURES + 5):
        tracking.log_metrics({"loss": 1.0}, step=step)
    assert len(caplog.messages) == MOST_FAILURES
    assert caplog.messages[-1].endswith("Nothing more is sent to it.")
    service.is_down = False
    tracking.log_metrics({"loss": 1.0}, step=99)
    assert service.logged == []


def test_where_it_is_required_its_failure_ends_the_run(service: Service, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        WandbTracking(str(tmp_path), required=True, offline=True).log_metrics({"loss": 1.0}, step=1)


def test_without_the_guard_a_failure_would_end_the_run(service: Service, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        WandbLogger(save_dir=str(tmp_path), offline=True).log_metrics({"loss": 1.0}, step=1)


def test_a_resumed_run_has_its_id_again(tmp_path: Path) -> None:
    first, again, other = (WandbTracking(str(tmp_path / name), offline=True) for name in ("a", "a", "b"))
    assert first._wandb_init["id"] == again._wandb_init["id"] != other._wandb_init["id"]
    assert first._wandb_init["resume"] == "allow"
