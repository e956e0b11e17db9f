"""Click for those who may do without: the names are click's, what they do is in `brief`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from click import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        from gateway.cli import brief

        return getattr(brief, name)
