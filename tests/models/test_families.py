from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from rlaifv.models import families
from rlaifv.models.budget.architecture import parameter_table
from rlaifv.models.families import FAMILIES, PARTS, check_family, family_of, missing_architecture


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_prefixes_of_parts_do_not_overlap(family):
    prefixes = [prefix for part in PARTS for prefix in getattr(family, part)]
    for one in prefixes:
        assert [other for other in prefixes if other.startswith(one)] == [one]


def test_every_parameter_is_in_exactly_one_part(tiny: Any) -> None:
    family = FAMILIES[tiny.name]
    assert family_of(tiny.model.config) is family
    for name, _ in tiny.model.named_parameters():
        assert sum(name.startswith(getattr(family, part)) for part in PARTS) == 1, name
    sizes = {row.name: row.total for row in parameter_table(tiny.model)}
    assert sum(sizes.values()) == sum(parameter.numel() for parameter in tiny.model.parameters())
    tied = tiny.model.lm_head.weight is tiny.model.get_input_embeddings().weight
    assert {part for part, size in sizes.items() if size == 0} == ({"head"} if tied else set())


def test_what_is_called_a_part_is_that_part(tiny: Any) -> None:
    """Told by use: the language model's layers, the embedding, and the head stand where transformers says they do."""
    family = FAMILIES[tiny.name]
    part_of = {id(parameter): family.part_of(name) for name, parameter in tiny.model.named_parameters()}
    assert {part_of[id(parameter)] for parameter in tiny.model.get_decoder().parameters()} == {"language_model"}
    assert part_of[id(tiny.model.get_output_embeddings().weight)] in ("head", "language_model")
    assert part_of[id(tiny.model.get_input_embeddings().weight)] == "language_model"


def test_all_families_have_a_tiny_model_that_is_tested(tiny_names: list[str]) -> None:
    assert sorted(tiny_names) == sorted(FAMILIES)


def test_unknown_family_and_unknown_parameter_are_named():
    with pytest.raises(ValueError, match=r"type 'llama' are not known; those of gemma3, .*llava, llava_next"):
        family_of(AutoConfig.for_model("llama"))
    with pytest.raises(ValueError, match=r"'model\.audio\.weight' fits no part of 'llava'"):
        FAMILIES["llava"].part_of("model.audio.weight")


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5_moe", "minicpmv4_6", "minicpmv4_7", "lfm3_vl"])
def test_models_that_keep_a_state_are_refused(name: str) -> None:
    """MiniCPM-V 4.6 and 4.7 stand on Qwen3.5 unless their configs say otherwise."""
    kind = "conv" if name == "lfm3_vl" else "linear_attention"
    with pytest.raises(ValueError, match=f"^This '{name}' model has layers of type {kind}, which do not go by a mask"):
        check_family(AutoConfig.for_model(name))


@pytest.mark.parametrize("path", ["openbmb/OmniLMM-12B", "openbmb/RLAIF-V-12B"])
def test_what_a_model_needs_that_transformers_does_not_have(path: str, tmp_path: Path) -> None:
    """Told by the hub id, or by the config of a directory, whatever its name: converted weights are of another type."""
    sentence = missing_architecture(path)
    assert sentence is not None
    assert sentence.startswith(f"{path} is of type 'omnilmm', an architecture that transformers does not have")
    directory = tmp_path / path
    directory.mkdir(parents=True)
    assert missing_architecture(str(directory)) is None
    (directory / "config.json").write_text('{"model_type": "omnilmm"}')
    assert missing_architecture(str(directory)) == sentence.replace(path, str(directory))
    (directory / "config.json").write_text('{"model_type": "llava"}')
    assert missing_architecture(str(directory)) is None
    assert missing_architecture("llava-hf/llava-1.5-7b-hf") is None


def test_what_reads_no_images_is_refused() -> None:
    with pytest.raises(ValueError, match="type 'llama' do not answer questions about images"):
        check_family(AutoConfig.for_model("llama"))


def test_torchvision_is_asked_for_where_a_processor_needs_it(monkeypatch: pytest.MonkeyPatch, tiny: Any) -> None:
    owns_one = tiny.name not in ("llava", "llava_next", "idefics3", "gemma3")
    monkeypatch.setattr(families, "is_torchvision_available", lambda: True)
    check_family(tiny.model.config)
    monkeypatch.setattr(families, "is_torchvision_available", lambda: False)
    if owns_one:
        with pytest.raises(
            ValueError, match=f"processor of '{tiny.name}' models needs torchvision, which is not installed"
        ):
            check_family(tiny.model.config)
    else:
        check_family(tiny.model.config)


def test_a_family_without_an_entry_may_be_run() -> None:
    check_family(AutoConfig.for_model("vipllava"))
