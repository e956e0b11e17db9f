"""Makers: what switches a module's audio to a serial port is each maker's own."""

from __future__ import annotations

from typing import Final

import msgspec


class Maker(msgspec.Struct, frozen=True, kw_only=True):
    """Commands of a family of modules, without ``AT``."""

    probe: str
    """Answered with OK by this family alone."""
    before: tuple[str, ...]
    """Before dialling or answering."""
    after: str
    """Once connected; may have to be repeated."""
    off: str
    setup: tuple[str, ...]
    keys: str
    """Report the keys that the far end presses."""
    reset: str


MAKERS: Final = {
    "quectel": Maker(
        probe="+QPCMV?", before=("+QPCMV=0", "+QPCMV=1,0"), after="", off="+QPCMV=0",
        setup=('+QGPSCFG="outport","none"', "^DSCI=1"),
        keys="+QTONEDET=1", reset="+CFUN=1,1",
    ),
    "simcom": Maker(
        probe="+CPCMREG?", before=("+CPCMREG=0",), after="+CPCMREG=1", off="+CPCMREG=0",
        setup=(), keys="+DDET=1", reset="+CRESET",
    ),
}  # fmt: skip
