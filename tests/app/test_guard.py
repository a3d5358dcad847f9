"""Settings that hold a secret are refused before anything is written, and the secret is not repeated."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rlaifv.app.guard import secret_keys

Launch = Callable[..., tuple[int, str]]
SECRET = "planted-5f3a91c2"


@pytest.mark.parametrize(
    "arguments",
    [
        ["+logger.wandb.api_key=" + SECRET],
        ["logger=wandb", "+logger.wandb.token=" + SECRET],
        ["+password=" + SECRET],
        ["+trainer.secret={a: " + SECRET + "}"],
        ["logger=wandb", "logger.wandb.name=run-" + SECRET],
        ["run_dir=runs/" + SECRET],
        ["+callbacks.samples.note=hf_" + "aB3" * 12],
        ["-m", "seed=1,2", "run_dir=sweep", "+logger.csv.api_key=" + SECRET],
        ["-m", "seed=1,2", "run_dir=sweep", "logger=wandb", "logger.wandb.project=" + SECRET],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_a_secret_among_the_settings_is_refused(
    launch: Launch, tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    status, output = launch(*arguments)
    assert status == 2, output
    assert "holds a secret, and settings are written down" in output
    assert SECRET not in output
    assert "aB3" not in output
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []


def test_what_only_sounds_like_a_secret_is_not_refused(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT_TOKEN", "shapes")  # any text may hold so short a word
    monkeypatch.setenv("EMPTY_TOKEN", "          ")
    monkeypatch.setenv("SOME_NAME", SECRET)
    status, output = launch(
        "preflight_only=true", f"run_dir=runs/{SECRET}", "learner.row_tokens=64", "engine.batch_tokens=64"
    )
    assert status == 0, output


def test_null_is_no_secret() -> None:
    assert secret_keys({"a.token": "null", "b.api_key": ""}, {}) == []
    assert secret_keys({"a.token": "x", "max_new_tokens": "60", "tokenizer": "y", "secretary": "z"}, {}) == ["a.token"]
