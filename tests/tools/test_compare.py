"""The command that puts models side by side."""

import json
from pathlib import Path
from typing import Any

import pytest

from tools.compare import main

ROW: dict[str, Any] = {
    "benchmark": "mmhal",
    "model": "base",
    "metrics": {"score": 2.1, "hallucination_rate": 52.1},
    "protocol": {"parser": "official", "judge": "gpt-4"},
    "fingerprint": "11aa",
}


def written(tmp_path: Path, name: str, **change: Any) -> str:
    path = tmp_path / name
    path.write_text(json.dumps(ROW | change))
    return str(path)


def test_table_page_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [written(tmp_path, "a.json"), written(tmp_path, "b.json", model="aligned")]
    main([*files, f"out={tmp_path / 'out'}"])
    said = capsys.readouterr().out
    assert "aligned" in said
    assert "mmhal: judge gpt-4, parser official; fingerprint 11aa" in said
    assert "RLAIF-V-7B" in said  # published, and apart
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert "| base | **2.10** | **52.1** |" in page
    assert "## Published under other protocols" in page
    assert (tmp_path / "out" / "comparison.svg").read_text().startswith("<svg")


def test_published_numbers_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([written(tmp_path, "a.json"), f"out={tmp_path / 'out'}", "anchors=false"])
    assert "Published" not in capsys.readouterr().out + (tmp_path / "out" / "comparison.md").read_text()


def test_mixed_protocols_are_refused_and_split_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = written(tmp_path, "b.json", model="aligned", fingerprint="22bb", protocol={"judge": "x"})
    words = [written(tmp_path, "a.json"), other, f"out={tmp_path / 'out'}"]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    said = capsys.readouterr().out
    assert "judge is 'gpt-4' in the first and 'x' in the second" in said
    assert not (tmp_path / "out").exists()
    main([*words, "split=true"])
    assert "mmhal (b)" in (tmp_path / "out" / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "No results are given"),
        (["gone.json"], "gone.json does not exist"),
        (["split=perhaps"], "split=perhaps"),
        (["sort=f1"], "sort=f1 is not one of out="),
    ],
)
def test_what_a_user_can_mend_is_a_sentence(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert message in capsys.readouterr().out


def test_help_needs_no_results(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "RESULTS" in capsys.readouterr().out
