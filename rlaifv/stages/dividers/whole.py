"""A whole response as one claim: response-level feedback, as a baseline."""

from rlaifv.records import Claim, Prompt, Response
from rlaifv.stages.dividers.rules import quoted


class WholeDivider:
    """Keeps an answer as one claim, judged by one question: the baseline that shows the benefit of dividing."""

    def divide(self, prompt: Prompt, response: Response) -> list[Claim]:
        """Return the answer as a claim with the id "<response id>/0", or an empty list if it is empty."""
        text = " ".join(response.text.split())
        ids = (f"{response.id}/0", response.id, response.prompt_id)
        return [Claim(*ids, text, quoted(text))] if text else []
