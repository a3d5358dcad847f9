"""Score existing responses: their claims, the labeler's judgement of each, and the number of rejected claims.

python tools/label.py input=responses.jsonl output=labelled.jsonl                                the embedded labeler
python tools/label.py input=responses.jsonl output=labelled.jsonl labeler=model labeler.path=DIR_OR_HUB_ID

The input has one JSON object per line: image (path or list of paths, relative to the file's directory or to
image_root=DIR, and inside it), question, response (or responses, a list), and id (optional). The output has one line
for each, in the same order; missing lines are added to an existing output. All other settings are those of train.py;
without a separate labeler, the model of model.path is asked.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig
from omegaconf.errors import OmegaConfBaseException

sys.path.insert(0, str(Path(__file__).parent.parent))

from rlaifv.app.arguments import parse_options, refuse
from rlaifv.app.build import build_labeler
from rlaifv.app.checks import check_config
from rlaifv.app.launch import register_resolvers
from rlaifv.data.images import ImageError, load_image
from rlaifv.data.sources import read_prompts
from rlaifv.runtime.console import console, progress_bar, set_up_logging
from rlaifv.stages.answered import Answered, label_answered

CONFIGS = Path(__file__).parent.parent / "configs"
# Rows judged per write; a crash loses at most this many.
ROWS_PER_WRITE = 16


@dataclass
class Files:
    """Command-line options; see the module docstring."""

    input: str = MISSING
    output: str = MISSING
    image_root: str | None = None


def main(arguments: Sequence[str]) -> int:
    """Label the rows that the output lacks and return the exit status."""
    set_up_logging()
    register_resolvers()
    own = [
        item
        for item in arguments
        if item.partition("=")[0] in ("input", "output", "image_root") or item in ("-h", "--help")
    ]
    try:
        given = parse_options(Files, __doc__, own)
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = compose("train", [item for item in arguments if item not in own])
        check_config(cfg)
        rows, output = read_answered(Path(given.input), given.image_root), Path(given.output)
        by = str(cfg.labeler.path or cfg.model.path)
        num_done = _num_done(output, rows, by)
        if num_done < len(rows):
            _label(cfg, rows, output, num_done, by)
    except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
        return refuse(error)
    console.print(f"{len(rows)} rows labelled in {output}, {num_done} of them before", soft_wrap=True)
    return 0


def read_answered(path: Path, image_root: str | None = None) -> list[Answered]:
    """Read prompts with their responses.

    Raises:
        ValueError: as for `read_prompts`, or a line has no response, or one that is not a string.
    """
    prompts = read_prompts(path, image_root)
    lines = [(k, line) for k, line in enumerate(path.read_bytes().split(b"\n"), start=1) if line.strip()]
    rows = []
    if len(prompts) != len(lines) or not lines[0][1].lstrip(b"\xef\xbb\xbf ").startswith(b"{"):
        raise ValueError(f"{path} has to be JSON Lines, one object per line.")
    for prompt, (number, line) in zip(prompts, lines, strict=True):
        fields = json.loads(line.decode("utf-8-sig"))
        name = "responses" if "responses" in fields else "response"
        texts = fields.get(name)
        texts = texts if isinstance(texts, list) and name == "responses" else [texts]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(
                f"Field {name!r} in line {number} of {path} has to be a text, or texts, that are not empty."
            )
        rows.append(Answered(prompt, tuple(texts)))
    return rows


def _num_done(output: Path, rows: Sequence[Answered], by: str) -> int:
    """Return the number of rows that the output holds in complete writes, and truncate everything after them.

    Every row is thus judged in the same batch, with the same rounding, however often the work was interrupted.

    Raises:
        ValueError: the output belongs to other rows or to another labeler.
    """
    if not output.exists():
        return 0
    content = output.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
    for number, line in enumerate(lines):
        expected = _head(rows[number], by) if number < len(rows) else None
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        shown = {name: found.get(name) for name in expected or ()} if isinstance(found, dict) else None
        if expected is None or shown != expected:
            raise ValueError(
                f"{output} was not made of these rows by labeler {by}: its line {number + 1} is another; give another output."
            )
    if len(lines) < len(rows):
        lines = lines[: len(lines) // ROWS_PER_WRITE * ROWS_PER_WRITE]
        with output.open("r+b") as stream:
            stream.truncate(sum(map(len, lines)))
    return len(lines)


def _head(row: Answered, by: str) -> dict[str, Any]:
    """Return the fields of an output line that do not depend on the judgement."""
    return {"id": row.prompt.id, "question": row.prompt.question, "image": list(row.prompt.image_paths), "labeler": by}


def _label(cfg: DictConfig, rows: Sequence[Answered], output: Path, num_done: int, by: str) -> None:
    labeler = build_labeler(cfg)
    if torch.cuda.is_available():
        labeler.to("cuda")
    divider = instantiate(cfg.divider)
    limits = [cfg.data[name] for name in ("max_pixels", "max_bytes") if name in cfg.data]
    with output.open("a", encoding="utf-8") as stream, progress_bar() as bars:
        task = bars.add_task("label", total=len(rows), completed=num_done, note="")
        for start in range(num_done, len(rows), ROWS_PER_WRITE):
            some = rows[start : start + ROWS_PER_WRITE]
            errors = [_image_error(row, limits) for row in some]
            usable = [row for row, error in zip(some, errors, strict=True) if error is None]
            found = iter(label_answered(usable, divider, labeler.engine, labeler.wording))
            for row, error in zip(some, errors, strict=True):
                result = {"error": error} if error else {"responses": next(found)}
                stream.write(json.dumps({**_head(row, by), **result}, ensure_ascii=False) + "\n")
            stream.flush()
            bars.advance(task, len(some))


def _image_error(row: Answered, limits: Sequence[int]) -> str | None:
    """Return why a row's images cannot be used, or None if they can; only that row is then skipped."""
    try:
        for path in row.prompt.image_paths:
            load_image(path, *limits)
    except ImageError as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
