"""Coverage-guided fuzzing of the readers of untrusted bytes. Requires atheris (the extra `fuzz`).

python tools/dev/fuzz.py prompts -max_total_time=60      any libFuzzer options may follow the name of a target

Any error that a reader does not document ends the fuzzing with a traceback and the input in a file crash-*.
"""

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rlaifv.data.images import ImageError, load_image
from rlaifv.data.sources import read_prompts
from rlaifv.records import Pair, Prompt, Response
from rlaifv.stages.dividers.rules import RulesDivider
from rlaifv.store.shards import read_shard
from rlaifv.worlds.shapes import make_scenes, render

MAX_PIXELS = 1_000_000


def fuzz_prompts(folder: Path, content: bytes) -> None:
    """Fuzz a prompt list next to an image a.png."""
    path = folder / "prompts.jsonl"
    path.write_bytes(content)
    try:
        read_prompts(path)
    except ValueError as error:
        _check_documented(error, path, ValueError)


def fuzz_image(folder: Path, content: bytes) -> None:
    """Fuzz an image file."""
    path = folder / "image"
    path.write_bytes(content)
    with suppress(ImageError):
        load_image(path, MAX_PIXELS)


def fuzz_shard(folder: Path, content: bytes) -> None:
    """Fuzz a shard of pairs without a known digest."""
    path = folder / "pairs.parquet"
    path.write_bytes(content)
    try:
        read_shard(path, Pair)
    except ValueError as error:
        _check_documented(error, path, ValueError)


def fuzz_answer(folder: Path, content: bytes) -> None:
    """Fuzz an answer to divide into claims."""
    response = Response("p/0", "p", content.decode("utf-8", "surrogateescape"), (1,), True, 0)
    for claim in RulesDivider(max_claims=50).divide(Prompt("p", "?", ()), response):
        if not claim.text.strip() or not claim.question.endswith("?"):
            raise AssertionError(f"{claim} is no claim.")


TARGETS: dict[str, Callable[[Path, bytes], None]] = {
    "prompts": fuzz_prompts,
    "image": fuzz_image,
    "shard": fuzz_shard,
    "answer": fuzz_answer,
}


def _check_documented(error: ValueError, path: Path, kind: type[ValueError]) -> None:
    """Raise AssertionError for an undocumented error: a subclass of `kind`, or a message that lacks the file name."""
    if type(error) is not kind or path.name not in str(error):
        raise AssertionError(f"{type(error).__name__} is not what the reader documents.") from error


def main() -> None:
    """Fuzz the target given on the command line until libFuzzer stops."""
    if {"-h", "--help"} & {*sys.argv[1:2]}:
        print((__doc__ or "").strip())
        return
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        raise SystemExit(f"usage: python tools/dev/fuzz.py {{{','.join(TARGETS)}}} [options of libFuzzer]")
    try:
        import atheris
    except ImportError:
        raise SystemExit("tools/dev/fuzz.py needs atheris: pip install atheris.") from None
    target = TARGETS[sys.argv.pop(1)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        render(make_scenes(0, 1)[0]).save(folder / "a.png")
        atheris.instrument_all()
        atheris.Setup(sys.argv, lambda content: target(folder, content))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
