"""Answers in, the labeler's ratings of whole answers out."""

import re
from collections.abc import Mapping, Sequence

from rlaifv.records import AnswerScore, Prompt, Response
from rlaifv.stages.score import ClaimLabeler, ask
from rlaifv.stages.stage import Made, Stage, Task

MODEL = "labeler"


class RateAnswers(Stage):
    """Ask the labeler yes/no questions about whole answers; a rating is P(yes) / (P(yes) + P(no)), 0.5 if it says neither.

    The term `Score` reads it as labeler/NAME.

    Args:
        labeler: is asked.
        questions: their forms by name, with {answer} in them and, if wanted, {question}.

    Raises:
        ValueError: no question, or a form without {answer}.
    """

    name = "rate"
    reads = ("prompts", "responses")
    writes = "scores"

    def __init__(self, labeler: ClaimLabeler, questions: Mapping[str, str]) -> None:
        if not questions:
            raise ValueError("There is no question to rate answers by.")
        if lacking := [name for name, form in questions.items() if "{answer}" not in form]:
            raise ValueError(f"The form of the question {lacking[0]!r} lacks {{answer}}: {questions[lacking[0]]!r}.")
        self.labeler, self.questions = labeler, dict(questions)

    def producer(self) -> dict[str, str]:
        return {"rate": repr(self.questions)}

    def __call__(self, task: Task, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Made:
        groups: dict[str, list[Response]] = {}
        for response in responses:
            if response.text.strip():
                groups.setdefault(response.prompt_id, []).append(response)
        asked = [prompt for prompt in prompts if prompt.id in groups]
        task.advance(len(prompts) - len(asked))
        forms = [
            (
                prompt,
                [_filled(form, prompt, one) for one in groups[prompt.id] for form in self.questions.values()],
            )
            for prompt in asked
        ]
        answers = ask(self.labeler.engine, forms, self.labeler.wording, task.advance)
        names, records = tuple(self.questions), []
        for prompt, found in zip(asked, answers, strict=True):
            ratings = iter([p_yes / (p_yes + p_no) if 0 < p_yes + p_no < 3 else 0.5 for p_yes, p_no in found])
            for response in groups[prompt.id]:
                values = tuple(next(ratings) for _ in names)
                ends = (len(response.token_ids) - 1,)
                records.append(AnswerScore(response.id, prompt.id, MODEL, names, values, ends))
        return Made(records)


def _filled(form: str, prompt: Prompt, response: Response) -> str:
    texts = {"question": prompt.question, "answer": response.text.strip()}
    # All at once: what is put in may hold braces.
    return re.sub(r"\{(question|answer)\}", lambda found: texts[found[1]], form)
