"""Divider protocols: one response at a time, or batches in which some responses may fail."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rlaifv.records import Claim, Prompt, Response

logger = logging.getLogger(__name__)


class Divider(Protocol):
    """Splits a response into its claims: in order, with unique ids, empty for an answer that asserts nothing."""

    def divide(self, prompt: Prompt, response: Response) -> list[Claim]: ...


@dataclass(frozen=True, slots=True)
class NotDivided:
    """The reason why a response could not be divided, as opposed to having no claims."""

    reason: str


class BatchDivider(Protocol):
    """A batch divider, which may fail for some responses. `producer` holds what its claims depend on."""

    producer: str

    def divide_all(self, pairs: Sequence[tuple[Prompt, Response]]) -> list[list[Claim] | NotDivided]: ...


AnyDivider = Divider | BatchDivider


def may_fail(divider: AnyDivider) -> bool:
    """Return whether a divider takes many responses at once, and may fail at some."""
    return hasattr(divider, "divide_all")


def producer_of(divider: AnyDivider) -> str:
    """Return what a divider's claims depend on: its `producer`, or the name of its class."""
    return str(getattr(divider, "producer", type(divider).__name__))


def divide_all(divider: AnyDivider, pairs: Sequence[tuple[Prompt, Response]]) -> list[list[Claim] | NotDivided]:
    """Divide responses to their prompts, in one call if the divider supports it; log if some were not divided."""
    if not hasattr(divider, "divide_all"):
        return [divider.divide(prompt, response) for prompt, response in pairs]
    results = divider.divide_all(pairs)
    failed = [
        (response.id, result.reason)
        for (_, response), result in zip(pairs, results, strict=True)
        if isinstance(result, NotDivided)
    ]
    if failed:
        logger.warning("%d of %d answers were not divided; %s: %s", len(failed), len(pairs), *failed[0])
    return results
