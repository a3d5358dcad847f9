"""Protocols of dividers: one response at a time, or many at once with possible failures."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rlaifv.records import Claim, Prompt, Response

logger = logging.getLogger(__name__)


class Divider(Protocol):
    """Divides one response into claims: in order, with unique ids, none if it asserts nothing."""

    def divide(self, prompt: Prompt, response: Response) -> list[Claim]: ...


@dataclass(frozen=True, slots=True)
class NotDivided:
    """The reason why a divider failed at a response, as opposed to finding no claims in it."""

    reason: str


class BatchDivider(Protocol):
    """Divides many responses at once, and may fail at some. `producer` names what its claims depend on."""

    producer: str

    def divide_all(self, pairs: Sequence[tuple[Prompt, Response]]) -> list[list[Claim] | NotDivided]: ...


AnyDivider = Divider | BatchDivider


def producer_of(divider: AnyDivider) -> str:
    """Return what a divider's claims depend on: its `producer`, or the name of its class."""
    return str(getattr(divider, "producer", type(divider).__name__))


def divide_all(divider: AnyDivider, pairs: Sequence[tuple[Prompt, Response]]) -> list[list[Claim] | NotDivided]:
    """Divide responses, in one call if the divider takes many at once. Failures are logged."""
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
