"""Seeds derived from the name of a unit of work."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Derive a 63-bit seed from the name of a unit of work, e.g. (run seed, iteration, "generate", prompt id).

    Work seeded this way gives the same result regardless of what ran before it, in which order, and on which rank.
    """
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1
