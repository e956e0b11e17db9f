"""SvxLink's reflector, and a simplex node of it behind that, as foreign radios."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import Any

from gateway.lab.softphone import free_port
from gateway.testing.audio import tone
from tests.interop.peers import Program, common_port, need

RATE = 16000
REFLECTOR = """\
[GLOBAL]
TIMESTAMP_FORMAT="%H:%M:%S"
LISTEN_PORT={port}
CODECS=OPUS
[USERS]
NODEB=keyB
GATEWAY=keyG
[PASSWORDS]
keyB="secret-b"
keyG="secret-g"
"""
NODE = """\
[GLOBAL]
LOGICS=SimplexLogic,ReflectorLogic
CFG_DIR={home}/svxlink.d
TIMESTAMP_FORMAT="%H:%M:%S"
CARD_SAMPLE_RATE=16000
CARD_CHANNELS=1
LINKS=ALink
[SimplexLogic]
TYPE=Simplex
RX=Rx1
TX=Tx1
CALLSIGN=NODEB
SHORT_IDENT_INTERVAL=0
LONG_IDENT_INTERVAL=0
EVENT_HANDLER=/usr/share/svxlink/events.tcl
DEFAULT_LANG=en_US
RGR_SOUND_DELAY=-1
[ALink]
CONNECT_LOGICS=SimplexLogic:9,ReflectorLogic
DEFAULT_ACTIVE=1
TIMEOUT=0
[ReflectorLogic]
TYPE=Reflector
HOST=127.0.0.1
PORT={port}
CALLSIGN="NODEB"
AUTH_KEY="secret-b"
JITTER_BUFFER_DELAY=0
[Rx1]
TYPE=Local
AUDIO_DEV=udp:127.0.0.1:{rx}
AUDIO_CHANNEL=0
SQL_DET=PTY
PTY_PATH={home}/sql
SQL_HANGTIME=50
DEEMPHASIS=0
PEAK_METER=0
DTMF_DEC_TYPE=INTERNAL
[Tx1]
TYPE=Local
AUDIO_DEV=udp:127.0.0.1:{tx}
AUDIO_CHANNEL=0
PTT_TYPE=PTY
PTT_PTY={home}/ptt
TIMEOUT=300
TX_DELAY=0
PREEMPHASIS=0
"""


class Node:
    """A simplex node of SvxLink behind a reflector: its receiver, squelch, transmitter, PTT."""

    def __init__(self, home: Path, *, air: bool = True) -> None:
        """air: the test is the air around it; otherwise a radio of the gateway is."""
        need("svxlink", "svxreflector")
        self._air_is_ours = air
        self.home = home
        self.port = common_port()
        self.rx = free_port(socket.SOCK_DGRAM)
        self.heard = bytearray()
        """What it transmitted."""
        self.ptt = ""
        self.tone_hz = 0.0
        self._open = False
        self._audio = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._audio.bind(("127.0.0.1", 0))
        self._audio.setblocking(False)
        self.tx = self._audio.getsockname()[1]
        self._stack = contextlib.AsyncExitStack()

    def reflector(self) -> Program:
        home = self.home / "reflector"
        home.mkdir(exist_ok=True)
        (home / "conf").write_text(REFLECTOR.format(port=self.port))
        return Program(["svxreflector", f"--config={home}/conf"], home)

    async def __aenter__(self) -> Node:
        try:
            return await self._begin()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _begin(self) -> Node:
        home = self.home / "node"
        (home / "svxlink.d").mkdir(parents=True)
        (home / "conf").write_text(
            NODE.format(
                home=home, port=self.port, rx=self.rx, tx=self._audio.getsockname()[1]
            )
        )  # fmt: skip
        self.running = await self._stack.enter_async_context(self.reflector())
        self.node = await self._stack.enter_async_context(
            Program(["svxlink", f"--config={home}/conf"], home)
        )
        await self.running.says("NODEB: Login OK", 25.0)
        if not self._air_is_ours:
            return self
        self._sql, self._ptt = (
            os.open(home / name, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK) for name in ("sql", "ptt")
        )
        work = asyncio.create_task(self._air())
        self._stack.callback(work.cancel)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        self._audio.close()
        for fd in () if not self._air_is_ours else (self._sql, self._ptt):
            os.close(fd)

    @property
    def site(self) -> dict[str, Any]:
        """It as a site of the gateway: what its squelch opens on, what it transmits."""
        self._audio.close()
        home = self.home / "node"
        return {
            "key": {"by": "pty", "path": f"{home}/sql"},
            "carrier": {"by": "pty", "path": f"{home}/ptt"},
            "audio": {
                "by": "udp",
                "listen": f"127.0.0.1:{self.tx}",
                "send": f"127.0.0.1:{self.rx}",
            },
            "transmit": True,
        }

    def squelch(self, is_open: bool) -> None:
        self._open = is_open
        os.write(self._sql, b"O" if is_open else b"Z")

    @property
    def keyed(self) -> bool:
        return self.ptt.endswith("T")

    async def _air(self) -> None:
        loop = asyncio.get_running_loop()
        silence = bytes(640)
        second: dict[float, bytes] = {0.0: silence * 50}
        due, n = loop.time(), 0
        while True:
            if self.tone_hz not in second:
                second[self.tone_hz] = tone(self.tone_hz, 1.0, rate=RATE).tobytes()
            samples = second[self.tone_hz]
            self._audio.sendto(samples[640 * (n % 50) :][:640], ("127.0.0.1", self.rx))
            n += 1
            if n % 10 == 0:
                # Like a level, not an edge: SvxLink forgets it whenever it has transmitted.
                with contextlib.suppress(BlockingIOError):
                    self.squelch(self._open)
            with contextlib.suppress(BlockingIOError):
                self.ptt += os.read(self._ptt, 100).decode()
            with contextlib.suppress(BlockingIOError):
                while True:
                    data = self._audio.recv(65536)
                    self.heard += data if self.keyed else b""
            due += 0.02
            await asyncio.sleep(due - loop.time())


def reflector(node: Node, **fields: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": node.port, "callsign": "GATEWAY",
            "password": "secret-g", **fields}  # fmt: skip
