"""Models that ask for more than to be read: code, kernels, other repositories, pickles, damaged weights."""

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from rlaifv.models import loading
from rlaifv.models.budget.architecture import architecture_config
from rlaifv.models.digests import weights_digest
from rlaifv.models.loading import load_model
from rlaifv.models.trust import check_files

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = """
from pathlib import Path
from transformers import LlavaConfig, LlavaProcessor
Path({mark!r}).touch()
class OwnConfig(LlavaConfig):
    pass
class OwnProcessor(LlavaProcessor):
    pass
"""


class Touch:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What appears where code of a model ran."""
    return tmp_path / "it_ran"


def edit(path: Path, **members: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | members))


def refusal_of(directory: Path, **arguments: Any) -> str:
    with pytest.raises(ValueError, match=r"could not be loaded as an image-text-to-text model: \S") as error:
        load_model(str(directory), **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_pickle_of_weights_is_neither_loaded_nor_run(model_dir: Path, mark: Path) -> None:
    (model_dir / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.bin", "tf_model.h5"):
        (model_dir / name).write_bytes(pickle.dumps(Touch(mark)))
    refusal_of(model_dir)
    assert not mark.exists()
    pickle.loads((model_dir / "pytorch_model.bin").read_bytes())
    assert mark.exists()  # it would have


def test_a_pickle_under_another_name_is_no_safetensors_file(model_dir: Path, mark: Path) -> None:
    (model_dir / "model.safetensors").write_bytes(pickle.dumps(Touch(mark)))
    refusal_of(model_dir)
    torch.save({"lm_head.weight": Touch(mark)}, model_dir / "model.safetensors")
    refusal_of(model_dir)
    assert not mark.exists()


def test_a_pickle_as_an_adapter_is_neither_loaded_nor_run(model_dir: Path, mark: Path) -> None:
    """Adapters put their weights on another model, which they name themselves."""
    (model_dir / "adapter_model.bin").write_bytes(pickle.dumps(Touch(mark)))
    adapter = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": str(model_dir)}
    (model_dir / "adapter_config.json").write_text(json.dumps(adapter))
    assert "it holds an adapter (adapter_config.json) for weights elsewhere" in refusal_of(model_dir)
    assert not mark.exists()


def header(tensors: dict[str, Any]) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


DAMAGED = {
    "nothing": b"",
    "half_a_length": b"\x01\x00",
    "header_of_exabytes": struct.pack("<Q", 2**63) + b"{}",
    "header_over_the_limit": struct.pack("<Q", 100_000_001) + b"{" + b" " * 1000,
    "header_that_is_no_json": struct.pack("<Q", 4) + b"\xff\xfe{}",
    "overlapping_offsets": header({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}) + bytes(12),
    "hole_between_tensors": header({"a": tensor(0, 8, [2]), "b": tensor(16, 24, [2])}) + bytes(24),
    "offsets_backwards": header({"a": tensor(8, 0, [2])}) + bytes(8),
    "bytes_of_another_dtype": header({"a": tensor(0, 8, [2], "F64")}) + bytes(8),
    "unknown_dtype": header({"a": tensor(0, 8, [2], "PICKLE")}) + bytes(8),
    "shape_that_overflows": header({"a": tensor(0, 8, [2**62, 8])}) + bytes(8),
    "trailing_bytes": header({"a": tensor(0, 8, [2])}) + bytes(80),
    "missing_bytes": header({"a": tensor(0, 8, [2])}) + bytes(4),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_weights_are_refused_in_one_sentence(model_dir: Path, content: bytes) -> None:
    (model_dir / "model.safetensors").write_bytes(content)
    refusal_of(model_dir)


def test_bytes_after_the_last_tensor_are_refused(model_dir: Path) -> None:
    with (model_dir / "model.safetensors").open("ab") as weights:
        weights.write(b"x")
    refusal_of(model_dir)


def test_an_index_names_files_beside_it_only(model_dir: Path, tmp_path: Path) -> None:
    shutil.move(model_dir / "model.safetensors", tmp_path / "elsewhere.safetensors")
    names = load_file(tmp_path / "elsewhere.safetensors")
    for place in ("../elsewhere.safetensors", str(tmp_path / "elsewhere.safetensors"), 3, {"a": []}):
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, place)}
        (model_dir / "model.safetensors.index.json").write_text(json.dumps(index))
        assert "which is no file beside it" in refusal_of(model_dir)


def give_code(directory: Path, mark: Path, repository: str = "") -> None:
    """Its config and its processor are classes of the model's own."""
    (directory / "own.py").write_text(CODE.format(mark=str(mark)))
    edit(directory / "config.json", auto_map={"AutoConfig": f"{repository}own.OwnConfig"})
    edit(directory / "processor_config.json", auto_map={"AutoProcessor": f"{repository}own.OwnProcessor"})


def test_code_does_not_run_without_the_flag(model_dir: Path, mark: Path) -> None:
    give_code(model_dir, mark)
    assert "names Python files to run (auto_map), and these run only with trust_remote_code=true" in refusal_of(
        model_dir
    )
    with pytest.raises(ValueError, match="auto_map"):
        architecture_config(str(model_dir))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_code_of_a_processor_does_not_run_without_the_flag(model_dir: Path, mark: Path, name: str) -> None:
    give_code(model_dir, mark)
    config = json.loads((model_dir / "config.json").read_text())
    (model_dir / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "auto_map"}))
    (model_dir / name).touch()
    (model_dir / name).write_text(json.dumps({"auto_map": {"AutoTokenizer": ["own.Slow", None]}}))
    assert "names Python files to run" in refusal_of(model_dir)
    assert not mark.exists()


def test_code_of_a_directory_runs_with_the_flag(
    model_dir: Path, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which also shows that the tests above would see it."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    give_code(model_dir, mark)
    assert type(loading.load_config(str(model_dir), trust_remote_code=True)).__name__ == "OwnConfig"
    assert mark.exists()
    edit(model_dir / "config.json", auto_map={})
    assert type(load_model(str(model_dir), trust_remote_code=True)[1]).__name__ == "OwnProcessor"


def test_code_of_a_second_repository_is_refused_even_so(model_dir: Path, mark: Path) -> None:
    give_code(model_dir, mark, "owner/other--")
    refusal = refusal_of(model_dir, trust_remote_code=True)
    assert "names code of a second repository, owner/other, which no revision here pins" in refusal
    assert not mark.exists()


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:12], COMMIT.upper(), f"{COMMIT}\n"])
def test_code_of_a_hub_id_needs_a_full_commit(revision: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(path: str, name: str, **arguments: Any) -> None:
        return None

    monkeypatch.setattr("rlaifv.models.trust.cached_file", ask)
    with pytest.raises(ValueError, match="runs only from a full commit of 40 hexadecimal digits"):
        check_files("owner/name", revision, runs_code=True)
    check_files("owner/name", COMMIT, runs_code=True)
    check_files("owner/name", revision)


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"_attn_implementation_internal": "evil/kernel"}, "'_attn_implementation_internal' to 'evil/kernel'"),
        ({"_attn_implementation_internal": "sdpa"}, "'_attn_implementation_internal' to 'sdpa'"),
        ({"_attn_implementation": "evil/kernel"}, "'_attn_implementation' to 'evil/kernel'"),
        ({"attn_implementation": {"": "sdpa", "text_config": "evil/kernel@v1:f"}}, "evil/kernel@v1:f"),
        ({"experts_implementation": "evil/kernel"}, "'experts_implementation' to 'evil/kernel'"),
        ({"text_config": {"deep": [{"_experts_implementation_internal": "evil/kernel"}]}}, "evil/kernel"),
        ({"_hooks": "own.hook"}, "sets '_hooks', which belongs to the loader alone"),
    ],
    ids=str,
)
def test_keys_of_the_loader_are_refused(model_dir: Path, members: dict[str, Any], named: str) -> None:
    """A kernel that is named by a repository is code (CVE-2026-4372)."""
    edit(model_dir / "config.json", **members)
    assert named in refusal_of(model_dir)


def test_what_a_loader_writes_itself_is_read(model_dir: Path, model: Any) -> None:
    harmless = {"_name_or_path": "owner/name", "_attn_implementation_autoset": True, "attn_implementation": "eager"}
    edit(model_dir / "config.json", **harmless)
    assert weights_digest(load_model(str(model_dir))[0]) == weights_digest(model)


def test_without_the_check_the_keys_would_reach_the_loader(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "check_files", lambda *arguments: None)
    edit(model_dir / "config.json", attn_implementation="evil/kernel")
    assert "belongs to the loader" not in refusal_or_nothing(model_dir)
    assert loading.load_config(str(model_dir))._attn_implementation == "evil/kernel"


def refusal_or_nothing(directory: Path) -> str:
    try:
        load_model(str(directory))
    except ValueError as error:
        return str(error)
    return ""


BROKEN: dict[str, Callable[[str], str]] = {
    "deep": lambda text: "[" * 100_000,
    "list": lambda text: "[1]",
    "number": lambda text: "7",
    "not_utf_8": lambda text: text + "\ud800",
    "wrong_types": lambda text: json.dumps({key: [[{}]] for key in json.loads(text)}),
}


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json"])
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_settings_are_refused_in_one_sentence(model_dir: Path, name: str, kind: str) -> None:
    text = BROKEN[kind]((model_dir / name).read_text())
    (model_dir / name).write_text(text, encoding="utf-8", errors="surrogatepass")
    refusal_of(model_dir)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_header_gives_a_model_or_one_sentence(model_dir: Path, data: st.DataObject) -> None:
    whole = (model_dir / "model.safetensors").read_bytes()
    size = 8 + struct.unpack("<Q", whole[:8])[0]
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, size - 1))] = data.draw(st.integers(0, 255))
    damaged = model_dir.parent / "damaged"
    shutil.copytree(model_dir, damaged, dirs_exist_ok=True)
    (damaged / "model.safetensors").write_bytes(content)
    assert "\n" not in refusal_or_nothing(damaged)
