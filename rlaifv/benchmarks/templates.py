"""How the question to a judge is made of a template.

A template is plain text with placeholders, as in `{question}`; `{question:json}` stands for the same as a JSON string, out
of which no text leads. Braces around anything else stay as they are.
"""

import json
import re
from collections.abc import Iterable, Mapping


def fill(template: str, fields: Mapping[str, str]) -> str:
    """Return a template with its placeholders filled in; what they hold is not searched for more of them.

    Raises:
        ValueError: a field has no placeholder.

    >>> fill('{question:json} {"a": 1} {answer}', {"question": "Is it?", "answer": "{question}"})
    '"Is it?" {"a": 1} {question}'
    """
    pattern = _places(fields)
    present = {found[1] for found in pattern.finditer(template)}
    if missing := [name for name in fields if name not in present]:
        raise ValueError(
            f"The judge's template has no {{{missing[0]}}}; it needs {', '.join(f'{{{name}}}' for name in fields)}."
        )

    def put(found: re.Match[str]) -> str:
        text = fields[found[1]]
        return json.dumps(text, ensure_ascii=False) if found[2] else text

    return pattern.sub(put, template)


def check_places(template: str, own: str) -> None:
    """Refuse a user's template that lacks a placeholder of this project's own.

    Raises:
        ValueError: it does; `fill` would say so when the answers are there already.

    >>> check_places("Rate {answer}: {a}", "How good is {answer:json}?")
    """
    names = dict.fromkeys(found[1] for found in re.finditer(r"\{([a-z_]+)(?::json)?\}", own))
    fill(template, dict.fromkeys(names, ""))


def _places(names: Iterable[str]) -> re.Pattern[str]:
    return re.compile(r"\{(" + "|".join(map(re.escape, names)) + r")(:json)?\}")
