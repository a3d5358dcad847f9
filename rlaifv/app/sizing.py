"""Reduce a run's sizes when the data set is smaller than the settings ask for. Pure functions on plain values."""

from collections.abc import Collection
from dataclasses import dataclass, replace

# Hold out at most one prompt in this many when the data set is too small; half of them select candidates.
HELD_OUT_SHARE = 4
# Minimum number of held-out prompts for a meaningful measurement.
LEAST_HELD_OUT = 4
# Minimum number of prompts per iteration; with fewer, an iteration may yield no pair.
LEAST_PROMPTS = 3
# `min_pairs` is at most one in this many of the possible pairs, because sampling yields far fewer than the maximum.
PAIRS_SHARE = 4


@dataclass(frozen=True, slots=True)
class Sizes:
    """How the prompts of a run are split.

    `num_prompts` is the number per iteration, or None for an equal share of the data; `per_epoch` is the number of
    candidates per epoch.
    """

    num_iterations: int
    num_prompts: int | None
    num_held_out: int
    per_epoch: int
    min_pairs: int


@dataclass(frozen=True, slots=True)
class Data:
    """Size of a data set: `num_prompts` prompts, each usable in several iterations if `reuse` is set.

    A prompt yields at most `pairs_per_prompt` pairs. If `given` is set, the data set already contains the pairs, and
    all of them are used.
    """

    name: str
    num_prompts: int
    pairs_per_prompt: float
    given: bool = False
    reuse: bool = False


class TooLarge(ValueError):
    """Raised when an explicitly set size exceeds what the data set can provide."""


def fit_to_data(wanted: Sizes, data: Data, typed: Collection[str]) -> tuple[Sizes, str]:
    """Lower sizes that the data set cannot provide so that the run uses all of the data.

    Args:
        wanted: the sizes as configured.
        data: size of the data set.
        typed: names of the sizes that the user set explicitly; these are never changed.

    Returns:
        The sizes, and one sentence describing what changed (empty if nothing did).

    Raises:
        TooLarge: an explicitly set size is impossible, whatever the other sizes are.
    """
    sizes = wanted
    if data.num_prompts < _needed(wanted) and not (data.reuse and wanted.num_prompts):
        sizes = _shared_out(wanted, data, typed)
    elif wanted.num_held_out and data.num_prompts <= wanted.num_held_out:
        sizes = replace(sizes, num_held_out=_held_out(wanted, data, typed))
    if sizes.num_held_out < 2 and sizes.num_held_out != wanted.num_held_out and "per_epoch" not in typed:
        sizes = replace(sizes, per_epoch=0)
    sizes = replace(sizes, min_pairs=_min_pairs(sizes, data, typed))
    return sizes, "" if sizes == wanted else _sentence(wanted, sizes, data)


def _needed(sizes: Sizes) -> int:
    """Return the number of prompts needed by all iterations (at least one each) plus the held-out ones."""
    return sizes.num_iterations * (sizes.num_prompts or 1) + sizes.num_held_out


def _shared_out(wanted: Sizes, data: Data, typed: Collection[str]) -> Sizes:
    least = wanted.num_prompts if "num_prompts" in typed and wanted.num_prompts else 1
    iterations = wanted.num_iterations if "num_iterations" in typed else 1
    held_out = _held_out(wanted, data, typed)
    if held_out + least * iterations > data.num_prompts and "num_held_out" not in typed:
        held_out = max(0, data.num_prompts - least * iterations)
        held_out = held_out if held_out >= LEAST_HELD_OUT else 0
    available = data.num_prompts - held_out
    if available < least * iterations:
        needed = replace(wanted, num_iterations=iterations, num_prompts=least, num_held_out=held_out)
        raise TooLarge(
            f"{_plural(iterations, 'iteration')} of {_plural(least, 'prompt')} and {held_out:,} held-out ones need "
            f"{_needed(needed):,} prompts, but {data.name} has {data.num_prompts:,} rows; lower iteration.num_prompts or set "
            "data.reuse_prompts=true."
        )
    if "num_iterations" not in typed:
        iterations = max(1, min(wanted.num_iterations, available // max(least, LEAST_PROMPTS)))
    keeps = "num_prompts" in typed and wanted.num_prompts is not None
    num_prompts = wanted.num_prompts if keeps else None
    return replace(wanted, num_iterations=iterations, num_prompts=num_prompts, num_held_out=held_out)


def _held_out(wanted: Sizes, data: Data, typed: Collection[str]) -> int:
    if "num_held_out" in typed:
        if wanted.num_held_out >= data.num_prompts:
            raise TooLarge(
                f"data.num_held_out={wanted.num_held_out} leaves nothing to train on: {data.name} has "
                f"{_plural(data.num_prompts, 'prompt')}."
            )
        return wanted.num_held_out
    share = min(wanted.num_held_out, data.num_prompts // HELD_OUT_SHARE)
    return share if share >= min(LEAST_HELD_OUT, wanted.num_held_out) else 0


def _min_pairs(sizes: Sizes, data: Data, typed: Collection[str]) -> int:
    """Return `min_pairs`, capped at a share of the pairs that the smallest iteration can yield.

    An explicitly set value is never lowered.

    Raises:
        TooLarge: an explicitly set value exceeds the maximum.
    """
    most = int(_smallest(sizes, data) * data.pairs_per_prompt)
    if "min_pairs" not in typed:
        return min(sizes.min_pairs, max(1, most // PAIRS_SHARE))
    if sizes.min_pairs > most and not data.given:  # given pairs are checked when they are read
        raise TooLarge(
            f"iteration.min_pairs={sizes.min_pairs} is out of reach: {_plural(_smallest(sizes, data), 'prompt')} of an "
            f"iteration give at most {_plural(most, 'pair')}."
        )
    return sizes.min_pairs


def _smallest(sizes: Sizes, data: Data) -> int:
    """Return the number of prompts of the smallest iteration."""
    shared = max(1, (data.num_prompts - sizes.num_held_out) // sizes.num_iterations)
    return sizes.num_prompts or shared


def _sentence(wanted: Sizes, sizes: Sizes, data: Data) -> str:
    num_prompts = f"{_smallest(sizes, data):,}"
    left = data.num_prompts - sizes.num_held_out - sizes.num_iterations * _smallest(sizes, data)
    if sizes.num_prompts is None and left > 0:
        num_prompts = f"{_smallest(sizes, data):,} or {_smallest(sizes, data) + 1:,}"
    noun = "prompt" if num_prompts == "1" else "prompts"
    parts = [f"{_plural(sizes.num_iterations, 'iteration')} of {num_prompts} {noun}"]
    if wanted.num_held_out:
        parts.append(
            f"{sizes.num_held_out:,} held out" if sizes.num_held_out else "none held out, so nothing is measured"
        )
    if wanted.per_epoch and not sizes.per_epoch:
        parts.append("no candidates, as there is nothing to choose on")
    if wanted.min_pairs != sizes.min_pairs:
        parts.append(f"at least {_plural(sizes.min_pairs, 'pair')} an iteration instead of {wanted.min_pairs:,}")
    return f"{data.name} has {_plural(data.num_prompts, 'prompt')}: {', '.join(parts)}."


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
