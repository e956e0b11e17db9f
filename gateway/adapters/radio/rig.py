"""Carrier detect by hamlib's rigctld, asked again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.adapters.radio.config import RigctldCarrier
from gateway.errors import PeerError
from gateway.protocols.radio import rigctld

ANSWER_S: Final = 0.5


async def follow_carrier(
    config: RigctldCarrier,
    heard: Callable[[bool], None],
    told: Callable[[bytes | str, bool], None] = lambda data, outward: None,
) -> str:
    """Tell of every answer until rigctld fails; why it did.

    told: gets a question and its answer, and whether we said it, where the answer is a new one.
    """
    last = b""
    where = f"rigctld {config.host}:{config.port}"
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(ANSWER_S):
            streams, writer = await asyncio.open_connection(config.host, config.port)
        reader = rigctld.Reader()
        while True:
            async with asyncio.timeout(ANSWER_S):
                question = rigctld.command("get_dcd")
                writer.write(question)
                answers: list[rigctld.Answer] = []
                while not answers:
                    data = await streams.read(4096)
                    if not data:
                        return f"{where} closed the connection"
                    answers = reader.feed(data)
                if data != last:
                    last = data
                    told(question.decode("ascii", "replace").strip(), True)
                    told(data.decode("ascii", "replace").strip(), False)
            heard(answers[-1].number("dcd") != 0)
            await asyncio.sleep(config.every_ms / 1000)
    except TimeoutError:
        return f"{where} does not answer"
    except (OSError, PeerError) as error:
        return f"{where}: {error}"
    finally:
        if writer is not None:
            writer.transport.abort()
