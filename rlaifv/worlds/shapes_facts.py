"""Facts by kind on the embedded world, in the one form of yes/no question that its small model knows."""

from dataclasses import replace

from rlaifv.stages.dividers.kinds import Fact
from rlaifv.stages.dividers.rules import to_claims
from rlaifv.worlds.shapes import COLOURS, SHAPES, parse_claim, polar_question


class ShapesFacts:
    """Facts of a segment: its shape is at its place, whatever the colour (existence); its colour is there, whatever the shape
    (attribute); and shape, colour and place go together (relation).

    "Is there a circle?" is no question that the model knows, so a fact is asked for in all colours, or all shapes.
    """

    producer = "ShapesFacts"

    def __call__(self, segment: str) -> list[Fact]:
        """Return three facts for each claim that names a thing; other claims are no facts of this world.

        >>> [(fact.kind, len(fact.questions)) for fact in ShapesFacts()("At the top, there is a red ring.")]
        [('existence', 6), ('attribute', 6), ('relation', 1)]
        """
        facts = []
        for claim in to_claims(segment):
            thing = parse_claim(claim)
            if thing is None:
                continue
            of_shape = tuple(polar_question(replace(thing, colour=colour)) for colour in COLOURS)
            of_colour = tuple(polar_question(replace(thing, shape=shape)) for shape in SHAPES)
            facts += [
                Fact("existence", claim, of_shape),
                Fact("attribute", claim, of_colour),
                Fact("relation", claim, (polar_question(thing),)),
            ]
        return facts
