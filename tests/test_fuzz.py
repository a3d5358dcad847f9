"""Whatever bytes, texts and numbers come in, the answer is a result or the error that the reader documents."""

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rlaifv.data.images import ImageError, check_header, load_image
from rlaifv.data.sources import FilesSource
from rlaifv.records import Claim, Judgement, Pair, Prompt, Response
from rlaifv.stages.dividers.rules import RulesDivider
from rlaifv.stages.pair import PairingRules, build_pairs
from rlaifv.stages.score import distinct_questions, score
from rlaifv.store.shards import read_shard, write_shard

fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from(["images/a.png", "id", "image"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "image", "question"]), inner),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file with some bits turned, perhaps cut short or made longer."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(0, 6))):
        content[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    size = draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    return bytes(content[:size]) + draw(st.binary(max_size=4))


def outcome(action: Callable[..., Any], *arguments: Any) -> Any:
    """What a reader returns, or the error that it documents."""
    try:
        return action(*arguments)
    except ValueError as error:
        return error


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 6), "teal").save(tmp_path / "images" / "a.png")
    return tmp_path


def prompts_of(folder: Path, content: bytes) -> list[Prompt]:
    path = folder / "prompts.jsonl"
    path.write_bytes(content)
    found = outcome(lambda: FilesSource(path=str(path), num_iterations=1, seed=0).prompts(0, None))
    if isinstance(found, ValueError):
        assert type(found) is ValueError
        assert "prompts.jsonl" in str(found)
        return []
    return found


@fuzz
@given(content=st.binary(max_size=200))
def test_any_bytes_as_a_prompt_list(folder: Path, content: bytes) -> None:
    assert prompts_of(folder, content) == []


@fuzz
@given(rows=st.lists(JSON | st.fixed_dictionaries({"image": JSON, "question": JSON}), max_size=4))
def test_any_json_as_a_prompt_list(folder: Path, rows: list[object]) -> None:
    for prompt in prompts_of(folder, "\n".join(map(json.dumps, rows)).encode()):
        assert prompt.image_paths
        assert set(prompt.image_paths) == {str(folder / "images" / "a.png")}
        assert prompt.question.strip()


@fuzz
@given(data=st.data())
def test_a_damaged_prompt_list(folder: Path, data: st.DataObject) -> None:
    rows = [{"id": k, "image": "images/a.png", "question": "Où?"} for k in range(3)]
    prompts_of(folder, data.draw(damaged("\n".join(map(json.dumps, rows)).encode())))


PAIRS = [
    Pair(f"p{k}", "p", "a", "b", "été" * k, "no", (1, k), (3,), 0.0, -1.0, (-0.5, -1.0), (-0.25,)) for k in range(5)
]


@fuzz
@given(data=st.data())
def test_a_damaged_shard(tmp_path: Path, data: st.DataObject) -> None:
    """By its digest, every change is seen; without it, whatever parquet itself sees."""
    path = tmp_path / "pairs-00000.parquet"
    digest = write_shard(path, PAIRS, Pair)
    whole = path.read_bytes()
    path.write_bytes(data.draw(damaged(whole)))
    assert isinstance(outcome(read_shard, path, Pair, digest), ValueError) == (path.read_bytes() != whole)
    found = outcome(read_shard, path, Pair)
    if isinstance(found, ValueError):
        assert type(found) is ValueError
        assert str(path) in str(found)


def picture(format_name: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(buffer, format_name, **({"exif": exif} if format_name != "GIF" else {}))
    return buffer.getvalue()


@fuzz
@given(data=st.data(), format_name=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]))
def test_a_damaged_image(tmp_path: Path, data: st.DataObject, format_name: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(data.draw(damaged(picture(format_name))))
    found = outcome(load_image, path, 10_000)
    if isinstance(found, ValueError):
        assert isinstance(found, ImageError)
        assert str(path) in str(found)
        assert found.reason
    else:
        check_header(path)
        assert found.mode == "RGB"
        assert found.width * found.height <= 10_000


@fuzz
@given(text=TEXT | st.text(".,;:!?\n()\"'“”- aTheris", max_size=200), max_claims=st.integers(1, 5))
def test_any_text_as_an_answer(text: str, max_claims: int) -> None:
    response = Response("p/0", "p", text, (1,), True, 0)
    claims = RulesDivider(max_claims=max_claims).divide(Prompt("p", "?", ()), response)
    assert len(claims) <= max_claims
    assert len({claim.id for claim in claims}) == len(claims)
    assert all(claim.text.strip() and claim.question.endswith("?") for claim in claims)
    assert all("\n" not in claim.text + claim.question for claim in claims)


class AnyLabeler:
    """Says whatever numbers it was given, one after the other."""

    def __init__(self, replies: list[tuple[float, float]]) -> None:
        self.replies = replies

    def answer_probabilities(self, asked: object, advance: object = None) -> list[list[tuple[float, float]]]:
        left = iter(self.replies)
        return [[next(left) for _ in questions] for _, questions in asked]  # type: ignore[attr-defined]


NUMBERS = st.floats() | st.sampled_from([0.0, -0.0, 1e-320, 1.0, math.nan, math.inf, -math.inf])


@fuzz
@given(replies=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=6, max_size=6), seed=st.integers(0, 3))
def test_any_numbers_as_replies(tmp_path: Path, replies: list[tuple[float, float]], seed: int) -> None:
    """Every claim gets a judgement that can be stored, and every answer is paired or dropped for a reason."""
    prompts = [Prompt("p", "?", ())]
    claims = [Claim(f"p/{k // 2}/{k}", f"p/{k // 2}", "p", f"It is {k}.", f"Is it {k}?") for k in range(6)]
    assert distinct_questions(claims) == {"p": [claim.question for claim in claims]}
    judgements = score(prompts, claims, AnyLabeler(replies), advance=lambda num_finished: None)
    assert [judgement.claim_id for judgement in judgements] == [claim.id for claim in claims]
    for judgement, (p_yes, p_no) in zip(judgements, replies, strict=True):
        assert math.isfinite(judgement.p_yes)
        assert math.isfinite(judgement.p_no)
        if not (math.isfinite(p_yes) and math.isfinite(p_no)):
            assert judgement.verdict == "unknown"
    write_shard(tmp_path / "judgements.parquet", judgements, Judgement)
    assert read_shard(tmp_path / "judgements.parquet", Judgement) == judgements
    responses = [Response(f"p/{k}", "p", f"Answer {k}", (k,), True, k) for k in range(3)]
    pairs, drops = build_pairs(responses, judgements, PairingRules(), seed)
    usable = 3 - drops["unknown"]
    dropped = sum(drops[reason] for reason in ("identical", "tie", "over_cap", "length_balance"))
    assert len(pairs) + dropped == usable * (usable - 1) // 2
    assert all(pair.chosen_score > pair.rejected_score for pair in pairs)
