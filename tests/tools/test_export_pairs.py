"""The command that exports pairs, from outside."""

from pathlib import Path

import pytest

from rlaifv.app.launch import CONFIG_NAME
from rlaifv.data.tables import Table
from rlaifv.records import Prompt
from tests.data.preferences import write_run
from tools.export_pairs import main


@pytest.fixture
def run_dir(prompts: list[Prompt], tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", prompts)


def test_all_iterations_or_one(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"run_dir={run_dir}", "format=trl", f"out={tmp_path / 'all'}"]) == 0
    assert capsys.readouterr().out == f"12 pairs of 2 iterations written to {tmp_path / 'all'}\n"
    assert main([f"run_dir={run_dir}", "format=rlaifv", f"out={tmp_path / 'one'}", "iteration=1"]) == 0
    rows = list(Table("rlaifv", str(tmp_path / "one")))
    assert [row.id.partition("/")[0] for row in rows] == ["001"] * 6
    assert '\\"model\\": \\"owner/policy\\"' in rows[0].origin
    assert '\\"labeler\\": \\"self\\"' in rows[0].origin
    assert '\\"divider\\": \\"RulesDivider\\"' in rows[0].origin


def test_provenance_names_what_made_the_pairs(run_dir: Path, tmp_path: Path) -> None:
    """Revisions, another model's answers and a labeler that was made to err; not what was left at none."""
    assert main([f"run_dir={run_dir}", "format=rlaifv", f"out={tmp_path / 'plain'}"]) == 0
    for name in ("model_revision", "labeler_revision", "labeler_error_rate", "chosen_from"):
        assert name not in Table("rlaifv", str(tmp_path / "plain"))[0].origin
    (run_dir / CONFIG_NAME).write_text(
        "model: {path: owner/policy, revision: v1}\n"
        "labeler: {path: owner/labeler, revision: v2, error_rate: 0.25}\n"
        "divider: {_target_: rlaifv.stages.dividers.rules.RulesDivider}\n"
        "iteration: {chosen_from: owner/other}\n"
    )
    assert main([f"run_dir={run_dir}", "format=rlaifv", f"out={tmp_path / 'full'}"]) == 0
    origin = Table("rlaifv", str(tmp_path / "full"))[0].origin.replace("\\", "")
    assert '"model": "owner/policy", "model_revision": "v1"' in origin
    assert '"labeler": "owner/labeler", "labeler_revision": "v2", "labeler_error_rate": 0.25' in origin
    assert '"chosen_from": "owner/other"' in origin


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["format=trl", "out=out"], "run_dir must be given, as in run_dir=…."),
        (["run_dir={run}", "format=dpo", "out=out"], "'dpo' is no format to write; there are trl, rlaifv, llamafactory."),
        (["run_dir={run}", "format=trl", "out=out", "iteration=7"], "has no finished iteration 7, counted from 0."),
        (["run_dir={run}", "format=trl", "out=out", "iteration=-1"], "iteration=-1 must be a number counted from 0, or all."),
        (["run_dir=nowhere", "format=trl", "out=out"], "nowhere has no finished iteration."),
        (["run_dir={run}", "to=trl"], "to=trl is not one of run_dir=…, format=…, out=…, iteration=…."),
        (["out=a", "out=b"], "out is given twice."),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence(
    run_dir: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([argument.format(run=run_dir) for argument in arguments]) == 2
    assert message in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_help_shows_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "python tools/export_pairs.py run_dir=RUN format=trl out=DIR" in capsys.readouterr().out
