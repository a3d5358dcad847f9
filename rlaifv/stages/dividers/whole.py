"""Take a whole response as one claim, for comparison with divided ones."""

from rlaifv.records import Claim, Prompt, Response
from rlaifv.stages.dividers.rules import quoted


class WholeDivider:
    """Makes one claim of a whole answer: a baseline that shows what dividing is worth."""

    def divide(self, prompt: Prompt, response: Response) -> list[Claim]:
        """Return the answer as a claim with the id "<response id>/0", or no claim if it is empty."""
        text = " ".join(response.text.split())
        ids = (f"{response.id}/0", response.id, response.prompt_id)
        return [Claim(*ids, text, quoted(text))] if text else []
