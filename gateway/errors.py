"""One family of exceptions, split by whose fault it is.

``except GatewayError`` catches everything Crosspoint raises on purpose; anything else that
escapes is a bug.
"""

from __future__ import annotations


class GatewayError(Exception):
    """Base of every error that Crosspoint raises on purpose."""


class ConfigError(GatewayError):
    """The configuration is wrong: the person who wrote it can mend it.

    ``str()`` reads ``file:line: key: what is wrong (remedy)``.
    """

    def __init__(
        self,
        what: str,
        *,
        file: str | None = None,
        line: int | None = None,
        key: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.file, self.line, self.key, self.remedy = what, file, line, key, remedy
        where = ":".join(str(part) for part in (file, line) if part is not None)
        text = ": ".join(part for part in (where, key, what) if part)
        super().__init__(f"{text} ({remedy})" if remedy else text)


class DeviceError(GatewayError):
    """A device, port or broker of ours is missing, refused or broken."""


class PeerError(GatewayError):
    """The far end sent something wrong; ``status`` is the protocol's answer to it."""

    def __init__(self, what: str, *, status: int | None = None) -> None:
        self.status = status
        super().__init__(what)


class UsageError(GatewayError):
    """Our own caller broke the contract: wrong order, unknown id, closed object."""


class Unsupported(GatewayError):
    """This adapter or endpoint does not do this action; says so instead of pretending."""
