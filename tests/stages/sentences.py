"""Answers of the embedded world by sentence, with claims and verdicts, for tests of pairs made of them."""

from collections.abc import Sequence

from rlaifv.models.prompting import Prompter
from rlaifv.records import Claim, Judgement, Response, Verdict
from rlaifv.stages.segments import segments_of

VERDICTS: dict[str, Verdict] = {"+": "accepted", "-": "rejected", "?": "unknown"}
Records = tuple[list[Response], list[Judgement], list[Claim]]


def sentence(colour: str, shape: str, place: str) -> str:
    return f"At the {place}, there is a {colour} {shape}."


RED, BLUE, GREEN, BLACK = (
    sentence("red", "ring", "top"),
    sentence("blue", "ring", "top"),
    sentence("green", "star", "left"),
    sentence("black", "cross", "bottom"),
)


def ids_of(prompter: Prompter, text: str, is_whole: bool = True) -> tuple[int, ...]:
    """The tokens of a text as a policy would emit them, with the end token where the text is a whole answer."""
    ids = tuple(prompter.tokenizer(text, add_special_tokens=False).input_ids)
    return (*ids, prompter.tokenizer.eos_token_id) if is_whole else ids


def table(prompter: Prompter, answers: Sequence[tuple[str, str]], ends: bool = True) -> Records:
    """Answers "p/0", "p/1", … of texts, and for each sentence a mark: "+" accepted, "-" rejected, "?" unknown, "." none."""
    responses, judgements, claims = [], [], []
    for number, (text, marks) in enumerate(answers):
        key = f"p/{number}"
        ids = ids_of(prompter, text)
        responses.append(Response(key, "p", text, ids, True, 0))
        found = segments_of(ids, prompter.decode, parts=False)
        assert len(found) == len(marks)
        for k, ((said, end), mark) in enumerate(zip(found, marks, strict=True)):
            if mark != ".":
                claims.append(Claim(f"{key}/{k}", key, "p", said, f"{said}?", end=end if ends else -1))
                judgements.append(Judgement(f"{key}/{k}", key, "p", 0.9 if mark == "+" else 0.1, 0.1, VERDICTS[mark]))
    return responses, judgements, claims
