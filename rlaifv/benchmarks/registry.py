"""The benchmarks by name; a module is imported when its benchmark is first asked for."""

from importlib import import_module

from rlaifv.benchmarks.protocol import Benchmark, JudgedBenchmark

MODULES = {
    name: f"rlaifv.benchmarks.{name}"
    for name in (
        "amber",
        "pope",
        "mme",
        "chair",
        "object_halbench",
        "mmhal",
        "refomb",
        "llava_bench",
        "hallusionbench",
        "mmstar",
        "faithscore",
        "mhumaneval",
    )
}


def benchmark(name: str) -> Benchmark | JudgedBenchmark:
    """Return the benchmark of a name.

    Raises:
        ValueError: there is none of it.
    """
    if name not in MODULES:
        raise ValueError(f"benchmark={name} is not one of {', '.join(MODULES)}.")
    found: Benchmark = import_module(MODULES[name]).BENCHMARK
    return found
