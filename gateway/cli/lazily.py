"""Click for those who may do without: the names are click's, what they do is in `brief`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from click import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        from gateway.cli import brief

        return getattr(brief, name)
