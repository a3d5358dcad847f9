"""Prompts in, their kinds out: which prompts ask for facts of the image (FLAME, arXiv 2405.01525, section 3.2).

An answer that a person wrote may say what the model cannot see or does not know; learning it teaches the model to guess. FLAME
therefore lets it learn its own answers to prompts that ask for facts, and people's answers to the others.
"""

import re
from collections import Counter
from collections.abc import Sequence

from rlaifv.records import Prompt, Route
from rlaifv.stages.score import ClaimLabeler, ask, verdict_of
from rlaifv.stages.stage import Made, Stage, Task

# What asks for facts of an image, and what asks for something else even if it speaks of an image.
FACT_PATTERN = (
    r"\b(describe|description|caption|what|which|who|whose|where|when|how many|how much|list|name|count|identify|read|"
    r"is there|are there|does|do you see|tell me about)\b"
)
OTHER_PATTERN = (
    r"\b(write|compose|imagine|invent|story|poem|song|joke|suggest|recommend|translate|rewrite|advice|idea|ideas)\b"
)


class RouteByRules(Stage):
    """Tell prompts that ask for facts from others by regular expressions; case does not matter.

    A prompt that matches `other` is of that kind, even if it matches `fact` too; one that matches neither is counted as
    `no_route`, and no later stage makes anything of it.

    Args:
        fact: what asks for facts.
        other: what asks for something else.

    Raises:
        ValueError: an expression that is none.
    """

    name = "route"
    reads = ("prompts",)
    writes = "routes"

    def __init__(self, fact: str = FACT_PATTERN, other: str = OTHER_PATTERN) -> None:
        self.patterns = {"other": _compiled("other", other), "fact": _compiled("fact", fact)}

    def producer(self) -> dict[str, str]:
        return {"route": repr({kind: pattern.pattern for kind, pattern in self.patterns.items()})}

    def __call__(self, task: Task, prompts: Sequence[Prompt]) -> Made:
        routes = [Route(prompt.id, self._kind(prompt.question)) for prompt in prompts]
        task.advance(len(prompts))
        return _made(routes)

    def _kind(self, question: str) -> str:
        return next((kind for kind, pattern in self.patterns.items() if pattern.search(question)), "unknown")


class RouteByLabeler(Stage):
    """Ask the labeler whether a prompt asks for facts of its image; a prompt without a usable answer is counted as `no_route`.

    Args:
        labeler: is asked.
        question: its form, with {question} in it.

    Raises:
        ValueError: a form without {question}.
    """

    name = "route"
    reads = ("prompts",)
    writes = "routes"

    def __init__(self, labeler: ClaimLabeler, question: str) -> None:
        if "{question}" not in question:
            raise ValueError(f"The form of the routing question lacks {{question}}: {question!r}.")
        self.labeler, self.question = labeler, question

    def producer(self) -> dict[str, str]:
        return {"route": self.question}

    def __call__(self, task: Task, prompts: Sequence[Prompt]) -> Made:
        asked = [(prompt, [self.question.replace("{question}", prompt.question)]) for prompt in prompts]
        answers = ask(self.labeler.engine, asked, self.labeler.wording, task.advance)
        kinds = {"accepted": "fact", "rejected": "other", "unknown": "unknown"}
        return _made(
            [Route(one.id, kinds[verdict_of(*answered[0])]) for one, answered in zip(prompts, answers, strict=True)]
        )


def _made(routes: Sequence[Route]) -> Made:
    counts = Counter(route.kind for route in routes)
    return Made(routes, {"no_route": counts["unknown"]} if counts["unknown"] else {})


def _compiled(name: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"The pattern {name!r} of RouteByRules is no regular expression: {error}.") from error
