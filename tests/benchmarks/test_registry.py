"""Names lead to benchmarks, and other names to a sentence."""

from dataclasses import fields
from types import SimpleNamespace

import pytest

from rlaifv.benchmarks import registry
from rlaifv.benchmarks.places import PLACES
from rlaifv.benchmarks.protocol import Given
from rlaifv.benchmarks.registry import MODULES, benchmark
from rlaifv.models.sampling import Decoding


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^benchmark=poope is not one of amber, pope, mme, chair, .*, mhumaneval\.$"):
        benchmark("poope")


@pytest.mark.parametrize("name", MODULES)
def test_every_name_leads_to_what_it_says(name: str) -> None:
    """Uses are fields of what can be given, places are of fields that are used, and the official parser is the default."""
    found = benchmark(name)
    assert found.name == name
    assert found.parsers[0] == "official"
    assert isinstance(found.decoding, Decoding)
    assert {*found.uses} <= {field.name for field in fields(Given)}
    assert {*PLACES[name]} <= {*found.uses}
    for method in ("items", "answer_rows", "score"):
        assert callable(getattr(found, method))


def test_a_module_is_imported_when_its_benchmark_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr(
        registry, "import_module", lambda name: imported.append(name) or SimpleNamespace(BENCHMARK=name)
    )
    assert benchmark("mme") == "rlaifv.benchmarks.mme"  # type: ignore[comparison-overlap]
    assert imported == ["rlaifv.benchmarks.mme"]
