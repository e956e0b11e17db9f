"""``gateway run``: the daemon."""

from __future__ import annotations

import asyncio
import functools
import gc
from pathlib import Path

from gateway.cli import Settings
from gateway.cli import lazily as click
from gateway.client import EXIT_CONFIG, CommandError, find_config


@click.command()
@click.option("--config", metavar="FILE", help="Configuration [$GATEWAY_CONFIG].")
@click.option("--socket", metavar="FILE", help="Control socket [$GATEWAY_SOCKET].")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]),
    help="Instead of the configured one.",
)  # fmt: skip
@click.pass_obj
def run(settings: Settings, config: str | None, socket: str | None, log_level: str | None) -> None:
    """Run the gateway in the foreground until SIGTERM or SIGINT.

    The first signal lets calls finish within the configured time, the second ends them. SIGHUP
    reads the routes again. Under systemd: Type=notify, with WatchdogSec if wanted.
    """
    import os

    from gateway import logs
    from gateway.config import load
    from gateway.errors import ConfigError, DeviceError

    file = find_config(config or settings.config)
    try:
        configuration = load(file)
    except ConfigError as error:
        raise CommandError(str(error), remedy=f"gateway check {file}", code=EXIT_CONFIG) from None
    box = configuration.gateway
    # journald has the time already.
    stamped = "JOURNAL_STREAM" not in os.environ
    logs.setup(level=log_level or box.log_level, style=box.log_style, timestamps=stamped)
    log = logs.get()
    for warning in configuration.warnings:
        log.warning("configuration", what=warning)
    path = socket or settings.socket or os.environ.get("GATEWAY_SOCKET")
    where = Path(path or Path(file).parent / configuration.control.socket)
    # Who called whom, and what was recorded, is for the gateway's group; not for every account.
    os.umask(0o027)
    try:
        asyncio.run(_serve(configuration, where, log))
    except ConfigError as error:
        raise CommandError(str(error), code=EXIT_CONFIG) from None
    except DeviceError as error:
        raise CommandError(str(error)) from None


async def _serve(configuration: object, socket: Path, log: object) -> None:
    from gateway.config import Configuration
    from gateway.control.desk import Desk
    from gateway.control.metrics import Scrape, exposition
    from gateway.control.server import Control
    from gateway.heap import Heap, tend
    from gateway.logs import of_loop
    from gateway.runtime import Gateway

    assert isinstance(configuration, Configuration)
    gateway = Gateway(configuration)
    asyncio.get_running_loop().set_exception_handler(of_loop(log))
    settle()
    desk = Desk(gateway)
    control = Control(desk, socket, group=configuration.control.group, log=log)
    # First of all: a second gateway must fail here, before it touches a device.
    await control.start()
    tending = asyncio.create_task(tend(Heap(), bulky=gateway.wires.unpacked), name="heap")
    scrape = None
    try:
        gateway.handle_signals()
        desk.reloader.handle_signal()
        desk.reloader.keep()
        if configuration.metrics.listen:
            host, port = configuration.metrics.address()
            answer = functools.partial(exposition, gateway, desk.version)
            scrape = Scrape(answer, host, port, log=log)
            await scrape.start()
        await gateway.run()
    finally:
        tending.cancel()
        if scrape is not None:
            await scrape.stop()
        await control.stop()


def settle() -> None:
    """Let the collector of garbage leave alone what is alive now, and come seldom."""
    # What is alive now stays for years: never look through it again. Calls make many small objects
    # and few cycles: collecting each 20,000 instead of each 700 takes a fifth off a call.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
