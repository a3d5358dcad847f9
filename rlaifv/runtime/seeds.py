"""Seeds derived from the names of pieces of work."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed from what names a piece of work, e.g. (run seed, iteration, "generate", prompt id).

    Work with such a seed gives the same result in any order and on any rank.
    """
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1
