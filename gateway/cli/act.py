"""Commands that do something: dial, hangup, safe-state, stop."""

from __future__ import annotations

import time

from gateway.cli import Settings, show
from gateway.cli import lazily as click
from gateway.cli.options import (
    complete_adapter,
    complete_call_or_leg,
    complete_endpoint,
    json_option,
)
from gateway.client import EXIT_UNREACHABLE, CommandError


@click.command()
@json_option
@click.argument("origin", metavar="A", shell_complete=complete_endpoint)
@click.argument("target", metavar="B", shell_complete=complete_endpoint)
@click.option(
    "--priority", default="routine",
    type=click.Choice(["routine", "priority", "urgent", "emergency"]),
)  # fmt: skip
@click.option("--wait", is_flag=True, help="Wait until B has answered or the call is over.")
@click.pass_obj
def dial(settings: Settings, origin: str, target: str, priority: str, wait: bool) -> None:
    """Call A; when it answers call B, and connect both.

    A and B are endpoints, trunks with a number: fxs/1, sip/telco:5551234. Prints the end of the
    call's id. With --wait the exit code is 0 only when B has answered.
    """
    client = settings.client()
    begun = client.post("/v1/dial", origin=origin, target=target, priority=priority)
    answered = _answered(settings, begun["call"]) if wait else None
    if settings.as_json:
        show.emit_json(begun if answered is None else begun | {"answered": answered})
    elif answered is None or answered:
        click.echo(show.short(begun["call"]))
    if answered is False:
        raise CommandError(
            f"the call from {origin} to {target} ended without an answer",
            remedy=f"gateway events --trace {show.short(begun['trace'])} --since 5m",
        )


def _answered(settings: Settings, call: str) -> bool:
    client = settings.client()
    while True:
        try:
            found = client.get(f"/v1/calls/{call}")
        except CommandError as error:
            if error.code == EXIT_UNREACHABLE:
                raise
            return False
        connected = [leg for leg in found["legs"] if leg["state"] == "connected"]
        if len(connected) >= 2:
            return True
        time.sleep(0.2)


@click.command()
@json_option
@click.argument("call", shell_complete=complete_call_or_leg)
@click.pass_obj
def hangup(settings: Settings, call: str) -> None:
    """End a call or one leg of it.

    CALL is the end of a call's id, an endpoint that has one call, or a leg's id (fxs/1#18).
    """
    client = settings.client()
    leg = "#" in call
    done = client.post("/v1/hangup", leg=call) if leg else client.post("/v1/hangup", call=call)
    if settings.as_json:
        show.emit_json(done)
        return
    for leg in done["legs"]:
        click.echo(f"hung up {show.clean(leg)}")


@click.command()
@json_option
@click.argument("adapter", required=False, default="", shell_complete=complete_adapter)
@click.pass_obj
def safe_state(settings: Settings, adapter: str) -> None:
    """Release transmitters, open relays, hang up lines: now.

    Of one adapter, or of all. The gateway goes on: what happens next may switch outputs again. If
    the gateway does not answer, stop it: systemctl stop crosspoint.
    """
    done = settings.client().post("/v1/safe-state", adapter=adapter)
    if settings.as_json:
        show.emit_json(done)
    else:
        for name in done["safe"]:
            click.echo(f"safe {show.clean(name)}")
    if done["failed"]:
        names = "; ".join(f"{name}: {why}" for name, why in done["failed"].items())
        raise CommandError(
            f"NOT SAFE: {names}", remedy="look at the outputs yourself, cut their power if needed"
        )


@click.command()
@json_option
@click.option("--now", is_flag=True, help="Do not wait for the present calls.")
@click.pass_obj
def stop(settings: Settings, now: bool) -> None:
    """Stop the gateway, after the present calls.

    They may go on for as long as the configuration says (gateway.drain_s). A service manager that
    is set to restart the gateway will do so: use systemctl stop crosspoint there.
    """
    done = settings.client().post("/v1/stop", now=now)
    if settings.as_json:
        show.emit_json(done)
        return
    click.echo(f"stopping: {done['calls']} calls, at the latest in {done['within_s']:.0f} s")
