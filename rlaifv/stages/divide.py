"""Responses in, claims out."""

from collections.abc import Sequence

from rlaifv.records import Prompt, Response
from rlaifv.stages.dividers.protocol import AnyDivider, NotDivided, divide_all, producer_of
from rlaifv.stages.stage import Made, Stage, Task


class Divide(Stage):
    """Divide every response into atomic claims.

    `not_divided` counts responses that the divider failed at and that pairing could have used: finished, and not empty.
    """

    name = "divide"
    reads = ("prompts", "responses")
    writes = "claims"

    def __init__(self, divider: AnyDivider) -> None:
        self.divider = divider

    def producer(self) -> dict[str, str]:
        return {"divider": producer_of(self.divider)}

    def __call__(self, task: Task, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Made:
        by_id = {prompt.id: prompt for prompt in prompts}
        divided = divide_all(self.divider, [(by_id[response.prompt_id], response) for response in responses])
        claims = [claim for some in divided if not isinstance(some, NotDivided) for claim in some]
        failed = sum(
            isinstance(some, NotDivided) and response.finished and bool(response.text.strip())
            for response, some in zip(responses, divided, strict=True)
        )
        task.advance(len(prompts))
        return Made(claims, {"not_divided": failed} if failed else {})
