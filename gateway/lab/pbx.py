"""The lab's other PBX: a second gateway that gives the first one an account, and Dora's telephone.

The account is held by pyVoIP, which is under the GPL and therefore not installed by itself.
"""

from __future__ import annotations

import contextlib
import importlib.util
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from string import Template
from typing import Final

from gateway.lab.daemon import daemon
from gateway.lab.softphone import Softphone, free_port
from gateway.testing.audio import tone, write_wav

DORA_HZ: Final = 1300.0
TEMPLATE: Final = Path(__file__).parents[2] / "hardware" / "lab" / "pbx.toml"
INSTALL: Final = "pip install 'crosspoint-gateway[pyvoip]' (GPL-3)"


def why_not() -> str:
    """Why there is no account at another PBX here; empty if there can be one."""
    if importlib.util.find_spec("pyVoIP") is None:
        return f"pyVoIP is not installed: {INSTALL}"
    if importlib.util.find_spec("audioop") is None:
        return "pyVoIP needs Python 3.12 or older"
    return ""


class Pbx:
    """The PBX, and the telephone of one of its people."""

    def __init__(self, port: int, dora: Softphone) -> None:
        self.port, self.dora = port, dora


@contextlib.asynccontextmanager
async def pbx(directory: Path) -> AsyncIterator[Pbx]:
    """Run it in a directory of its own. Raises `DeviceError`."""
    directory.mkdir()
    port = free_port(socket.SOCK_DGRAM)
    control = directory / "control.sock"
    configuration = directory / "gateway.toml"
    configuration.write_text(
        Template(TEMPLATE.read_text()).substitute(directory=directory, sip=port)
    )
    voice = write_wav(directory / "dora.wav", list(tone(DORA_HZ, 1.0)) * 60)
    dora = Softphone(
        account=f"<sip:dora@127.0.0.1:{port}>;auth_pass=lab;regint=60;audio_codecs=PCMU/8000/1",
        microphone=voice,
        directory=directory / "dora",
    )
    log = directory / "gateway.log"
    async with daemon(configuration, control, log, later=("sip/dora", "sip/account")), dora:
        await dora.registered()
        yield Pbx(port, dora)
