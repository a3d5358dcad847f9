"""What a divider is: one response at a time, or many at once and some of them in vain."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rlaifv.records import Claim, Prompt, Response

logger = logging.getLogger(__name__)


class Divider(Protocol):
    """What turns one response into its claims: in order, with unique ids, none for an answer that asserts nothing."""

    def divide(self, prompt: Prompt, response: Response) -> list[Claim]: ...


@dataclass(frozen=True, slots=True)
class NotDivided:
    """Why a divider made nothing of a response, which is not the same as finding no claims in it."""

    reason: str


class BatchDivider(Protocol):
    """A divider that takes many responses at once, and may fail at some. `producer` says what its claims depend on."""

    producer: str

    def divide_all(self, pairs: Sequence[tuple[Prompt, Response]]) -> list[list[Claim] | NotDivided]: ...


AnyDivider = Divider | BatchDivider


def producer_of(divider: AnyDivider) -> str:
    """Return what a divider's claims depend on: its `producer`, or the name of its class."""
    return str(getattr(divider, "producer", type(divider).__name__))


def divide_all(divider: AnyDivider, pairs: Sequence[tuple[Prompt, Response]]) -> list[list[Claim] | NotDivided]:
    """Divide responses to their prompts, in one call where the divider has one; says so where some were not divided."""
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
