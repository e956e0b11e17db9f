from collections.abc import Iterable

def cut(head: bytes, most: int) -> tuple[str, dict[str, list[str]], str | None, bool]:
    """Start line, headers by key, what is wrong with the header lines (None: nothing), and whether
    a key has several lines. ``head`` is unfolded and ends before the empty line; of its lines
    ``most`` are read."""

def plain_params(text: str) -> dict[str, str] | None:
    """Parameters without blanks and quotes, names in lower case; None if these are not plain.

    ``text`` begins with the first semicolon. Raises `PeerError` (400) for a name given twice.
    """

def encode(start: str, headers: Iterable[tuple[str, str]], body: bytes = b"") -> bytes:
    """Write a message; Content-Length is added.

    Raises `UsageError` if a value holds CR or LF: nobody can slip a header into ours.
    """
