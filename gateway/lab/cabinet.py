"""The lab's cabinet: contacts and relays behind Modbus TCP, served by pymodbus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from gateway.errors import DeviceError

if TYPE_CHECKING:
    from pymodbus.server import ModbusTcpServer

CONTACTS: Final = {"door": 0, "push": 1, "key": 2}
"""Contact: its discrete input. The push rings the bell, the key acknowledges the fire."""
RELAYS: Final = {"siren": 0, "lamp": 1}
"""Relay: its coil."""
_UNIT: Final = 1
_READ_COILS: Final = 1
_READ_INPUTS: Final = 2


class Cabinet:
    """The contacts are put by hand, the relays by the gateway."""

    def __init__(self, server: ModbusTcpServer) -> None:
        self._server = server
        listening = server.transport
        assert isinstance(listening, asyncio.Server)
        self.port = int(listening.sockets[0].getsockname()[1])

    async def close(self, contact: str, closed: bool = True) -> None:
        """Close or open a contact. Raises `DeviceError` when there is none of that name."""
        address = _address(CONTACTS, "contact", contact)
        await self._server.async_setValues(_UNIT, _READ_INPUTS, address, [closed])

    async def closed(self, contact: str) -> bool:
        """How a contact is. Raises `DeviceError`."""
        return await self._bit(_READ_INPUTS, _address(CONTACTS, "contact", contact))

    async def relay(self, relay: str) -> bool:
        """Whether a relay is on. Raises `DeviceError` when there is none of that name."""
        return await self._bit(_READ_COILS, _address(RELAYS, "relay", relay))

    async def _bit(self, function: int, address: int) -> bool:
        return bool((await self._server.async_getValues(_UNIT, function, address, 1))[0])


@contextlib.asynccontextmanager
async def cabinet() -> AsyncIterator[Cabinet]:
    """A cabinet on a free loopback port. Raises `DeviceError` when pymodbus is too old."""
    # Here and not above: every `gateway lab` command would wait for it.
    try:
        from pymodbus.server import ModbusTcpServer
        from pymodbus.simulator import DataType, SimData, SimDevice
    except ImportError:
        raise DeviceError(
            "the lab needs pymodbus 3.16 or newer: pip install 'crosspoint-gateway[lab]'"
        ) from None

    def bits() -> list[SimData]:
        return [SimData(0, values=[False] * 16, datatype=DataType.BITS)]

    def registers() -> list[SimData]:
        return [SimData(0, datatype=DataType.REGISTERS)]

    server = ModbusTcpServer(
        SimDevice(_UNIT, simdata=(bits(), bits(), registers(), registers())),
        address=("127.0.0.1", 0),
    )
    await server.serve_forever(background=True)
    try:
        yield Cabinet(server)
    finally:
        await server.shutdown()  # type: ignore[no-untyped-call]


def _address(known: dict[str, int], what: str, name: str) -> int:
    if name not in known:
        raise DeviceError(f"there is no {what} {name!r}: the lab has {', '.join(known)}")
    return known[name]
