"""A response as one claim: feedback on whole responses, for comparison."""

from rlaifv.records import Claim, Prompt, Response
from rlaifv.stages.dividers.rules import quoted


class WholeDivider:
    """Leaves an answer whole: one claim, judged by one question. What dividing is worth shows in comparison with this."""

    def divide(self, prompt: Prompt, response: Response) -> list[Claim]:
        """Return the answer as a claim with the id "<response id>/0", or nothing where it says nothing."""
        text = " ".join(response.text.split())
        ids = (f"{response.id}/0", response.id, response.prompt_id)
        return [Claim(*ids, text, quoted(text))] if text else []
