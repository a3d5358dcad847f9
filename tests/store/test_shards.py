"""Shards: every record class there and back, and a sentence for every file that is not what it should be."""

import hashlib
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaifv.records import Claim, Judgement, Pair, Prompt, Record, Response
from rlaifv.store.shards import read_shard, schema_of, verify_shard, write_shard

PROMPTS = [Prompt("p0", "What is\nshown? 球", ("/images/a.png", "/images/b.png")), Prompt("p1", "", ())]
RESPONSES = [
    Response("p0/0", "p0", "A 'red' \"ball\".", (5, 31999, 2), True, 2**40),
    Response("p0/1", "p0", "", (), False, 0),
]
CLAIMS = [Claim("p0/0/0", "p0/0", "p0", "There is a ball.", "Is there a ball?")]
JUDGEMENTS = [
    Judgement("p0/0/0", "p0/0", "p0", 0.1, 0.7, "rejected"),
    Judgement("p0/0/1", "p0/0", "p0", math.nan, -math.inf, "unknown"),
]
PAIRS = [
    Pair("p0/0-1", "p0", "p0/0", "p0/1", "A ball.", "A cat", (5, 2), (6, 2), 0.0, -2.0, (-0.5, -1.0), (-math.inf, 0.0)),
    Pair("p0/0-2", "p0", "p0/0", "p0/2", "A ball.", "A dog.", (5, 2), (8, 2), -1.0, -3.0),
]  # fmt: skip
EXAMPLES: list[tuple[type[Record], list[Any]]] = [
    (Prompt, PROMPTS), (Response, RESPONSES), (Claim, CLAIMS), (Judgement, JUDGEMENTS), (Pair, PAIRS)
]  # fmt: skip


def values_of(hint: Any, in_list: bool = False) -> st.SearchStrategy[Any]:
    """Every value that a shard keeps exactly; list elements have half the width of scalars."""
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is tuple:
        return st.lists(values_of(get_args(hint)[0], in_list=True), max_size=4).map(tuple)
    bits = 31 if in_list else 63
    return {
        str: st.text(max_size=8),
        bool: st.booleans(),
        int: st.integers(-(2**bits), 2**bits - 1),
        float: st.floats(width=32 if in_list else 64),
    }[hint]


@pytest.mark.parametrize(("record_type", "records"), EXAMPLES)
def test_round_trip(tmp_path: Path, record_type: type[Record], records: list[Any]) -> None:
    digest = write_shard(tmp_path / "a.parquet", records, record_type)
    read = read_shard(tmp_path / "a.parquet", record_type, digest)
    # repr, since a NaN differs from itself; it also tells a tuple from a list and 1.0 from 1.
    assert repr(read) == repr(records)


@pytest.mark.parametrize("record_type", [record_type for record_type, _ in EXAMPLES])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_records_come_back(
    tmp_path_factory: pytest.TempPathFactory, record_type: type[Record], data: st.DataObject
) -> None:
    fields = {name: values_of(hint) for name, hint in get_type_hints(record_type).items()}
    records: list[Any] = data.draw(st.lists(st.builds(record_type, **fields), max_size=3))
    path = tmp_path_factory.mktemp("shard") / "a.parquet"
    assert repr(read_shard(path, record_type, write_shard(path, records, record_type))) == repr(records)


@pytest.mark.parametrize(("record_type", "records"), EXAMPLES)
def test_equal_records_give_equal_bytes_and_the_digest_is_theirs(
    tmp_path: Path, record_type: type[Record], records: list[Any]
) -> None:
    digests = [write_shard(tmp_path / name, records, record_type) for name in ("a.parquet", "b.parquet")]
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert digests == [hashlib.sha256((tmp_path / "a.parquet").read_bytes()).hexdigest()] * 2
    assert write_shard(tmp_path / "c.parquet", records[:-1], record_type) != digests[0]


def test_schema_follows_from_the_fields(tmp_path: Path) -> None:
    assert [f"{field.name} {field.type}" for field in schema_of(Response)] == [
        "id string",
        "prompt_id string",
        "text string",
        "token_ids list<element: int32 not null>",
        "finished bool",
        "seed int64",
    ]
    types = {field.name: str(field.type) for field in schema_of(Pair)} | {
        field.name: str(field.type) for field in schema_of(Judgement)
    }
    assert types["chosen_score"] == types["p_yes"] == "double"
    assert types["chosen_reference_logps"] == "list<element: float not null>"
    assert types["verdict"] == "string"
    write_shard(tmp_path / "a.parquet", CLAIMS, Claim)
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert file.schema_arrow == schema_of(Claim)
    assert not any(field.nullable for field in file.schema_arrow)
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "'text' of record 1 is None, which is no string"),
        ({"text": b"ball"}, "'text' of record 1"),
        ({"seed": 1.5}, "'seed' of record 1 is 1.5, which is no int64"),
        ({"seed": True}, "'seed' of record 1 is True"),
        ({"seed": 2**63}, "column 'seed' cannot be stored as int64"),
        ({"finished": 1}, "'finished' of record 1 is 1, which is no bool"),
        ({"token_ids": (1, 2.5)}, "'token_ids' of record 1"),
        ({"token_ids": (1, None)}, "'token_ids' of record 1"),
        ({"token_ids": [1]}, "'token_ids' of record 1"),
        ({"token_ids": (2**31,)}, "column 'token_ids' cannot be stored as list"),
        ({"text": "\ud800"}, "column 'text' cannot be stored as string"),
    ],
)
def test_value_of_another_type_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    records = [RESPONSES[0], replace(RESPONSES[1], **change)]
    with pytest.raises(ValueError, match=message) as caught:
        write_shard(tmp_path / "a.parquet", records, Response)
    assert str(tmp_path / "a.parquet") in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_str_is_no_tuple_of_str_and_a_verdict_is_one_of_three(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'image_paths' of record 0 is '/a"):
        write_shard(tmp_path / "a.parquet", [Prompt("p0", "", "/a.png")], Prompt)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'verdict' of record 0 is 'maybe'"):
        write_shard(tmp_path / "a.parquet", [replace(JUDGEMENTS[0], verdict="maybe")], Judgement)  # type: ignore[arg-type]


def test_whole_float_may_be_an_int(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", [replace(PAIRS[1], chosen_score=-1)], Pair)
    assert repr(read_shard(tmp_path / "a.parquet", Pair)) == repr([PAIRS[1]])


def test_record_of_another_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="record 1 is a Claim, not a Prompt"):
        write_shard(tmp_path / "a.parquet", [PROMPTS[0], CLAIMS[0]], Prompt)  # type: ignore[type-var]
    assert os.listdir(tmp_path) == []


def claims_table(**columns: pa.Array) -> pa.Table:
    """A shard of one claim in which some columns are others, made without this package."""
    fields = {name: pa.array([name]) for name in ("id", "response_id", "prompt_id", "text", "question")} | columns
    schema = pa.schema([pa.field(name, array.type, nullable=name in columns) for name, array in fields.items()])
    return pa.Table.from_arrays(list(fields.values()), schema=schema)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (claims_table().drop_columns("question"), "its columns are id, response_id, prompt_id, text, but must be"),
        (claims_table(note=pa.array(["x"])), "its columns are .*, note, but must be"),
        (claims_table().select(["question", "text", "prompt_id", "response_id", "id"]), "its columns are question"),
        (claims_table(text=pa.array([1])), "column 'text' is int64 with nulls, but Claim records need string"),
        (claims_table(text=pa.array([None], pa.string())), "column 'text' is string with nulls, .* string without"),
        (claims_table(text=pa.array([["x"]])), "column 'text' is list"),
    ],
)
def test_file_of_another_schema_is_refused(tmp_path: Path, table: pa.Table, message: str) -> None:
    path = tmp_path / "claims.parquet"
    pq.write_table(claims_table(), path)
    assert read_shard(path, Claim) == [Claim("id", "response_id", "prompt_id", "text", "question")]
    pq.write_table(table, path)
    with pytest.raises(ValueError, match=message) as caught:
        read_shard(path, Claim)
    assert str(path) in str(caught.value)


def test_file_from_before_a_field_was_added_is_read(tmp_path: Path) -> None:
    path = tmp_path / "prompts.parquet"
    prompts = [Prompt("a", "What?", ("/a.png",), "Be brief.", ("Who?", "A cat."))]
    write_shard(path, prompts, Prompt)
    assert read_shard(path, Prompt) == prompts
    pq.write_table(
        pq.ParquetFile(path).read().drop_columns(["system", "history", "facts", "answer", "demonstration"]), path
    )
    assert read_shard(path, Prompt) == [Prompt("a", "What?", ("/a.png",))]
    pq.write_table(pq.ParquetFile(path).read().drop_columns(["image_paths"]), path)
    with pytest.raises(ValueError, match="its columns are id, question, but must be id, question, image_paths, system"):
        read_shard(path, Prompt)


@pytest.mark.parametrize("element", [pa.field("element", pa.int64(), False), pa.field("element", pa.int32(), True)])
def test_list_of_other_elements_is_refused(tmp_path: Path, element: pa.Field) -> None:
    path = tmp_path / "responses.parquet"
    write_shard(path, RESPONSES, Response)
    table = pq.ParquetFile(path).read()
    index = table.schema.get_field_index("token_ids")
    schema = table.schema.set(index, pa.field("token_ids", pa.list_(element), nullable=False))
    pq.write_table(table.cast(schema), path)
    with pytest.raises(ValueError, match=r"column 'token_ids' is list<element: int(32|64 not null)> without nulls"):
        read_shard(path, Response)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_torn_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.parquet"
    digest = write_shard(path, PAIRS, Pair)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"a\.parquet is not a complete parquet file"):
        read_shard(path, Pair)
    with pytest.raises(ValueError, match=r"a\.parquet was changed or damaged"):
        read_shard(path, Pair, digest)


def test_flipped_bit_is_found_by_the_digest(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    digest = write_shard(path, PAIRS, Pair)
    verify_shard(path, digest)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    for check in (lambda: read_shard(path, Pair, digest), lambda: verify_shard(path, digest)):
        with pytest.raises(ValueError, match=f"a.parquet .* SHA-256 is {found}, but {digest}"):
            check()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.parquet is missing"):
        read_shard(tmp_path / "a.parquet", Pair)
    with pytest.raises(ValueError, match=r"a\.parquet is missing"):
        verify_shard(tmp_path / "a.parquet", "00")


def test_failed_write_leaves_the_old_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    digest = write_shard(path, PAIRS, Pair)

    def refuse(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match=r"a\.parquet: No space left"):
        write_shard(path, PAIRS[:1], Pair)
    assert read_shard(path, Pair, digest) == PAIRS
    assert os.listdir(tmp_path) == ["a.parquet"]
