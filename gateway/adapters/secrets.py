"""Secret: a password, PIN or token of the configuration that never shows itself."""

from __future__ import annotations

import hmac


class Secret:
    """Text that prints as ``***``; `reveal` is the only way to it.

    In the configuration it is written as text, ``{ file = "path" }`` or ``{ env = "NAME" }``.
    Not serialisable on purpose: what would write it into a journal or log fails instead.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Secret):
            return hmac.compare_digest(self._text.encode(), other._text.encode())
        return NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__
