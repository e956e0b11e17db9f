"""``gateway reload``: what would change, then the change, then back if it does not work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Final

import click

from gateway.cli import Settings, show
from gateway.cli.options import json_option
from gateway.cli.show import Column
from gateway.client import Client, CommandError

WITHIN_S: Final = 90.0
"""Adapters are ended, begun, watched, and perhaps all of it undone."""
_SIGNS: Final = {"added": "+", "removed": "-", "changed": "~", "moved": ">"}


@click.command()
@json_option
@click.option("--dry-run", is_flag=True, help="Only say what would change and whom it touches.")
@click.option("--now", is_flag=True, help="Also when it ends calls; no question.")
@click.option("--kept", is_flag=True, help="List the last configurations that were in use.")
@click.option("--restore", type=int, metavar="NUMBER", help="Go back to one of them.")
@click.pass_obj
def reload(settings: Settings, dry_run: bool, now: bool, kept: bool, restore: int | None) -> None:
    """Use the changed configuration without a restart.

    Shows first what changes. Routes are replaced, changed adapters are started anew; calls on other
    adapters go on. If a changed adapter does not come up, all of it is undone. Exit code 1: refused
    or undone, the configuration before stays in use.

    --restore copies a kept configuration over the configuration file, then reloads it.
    """
    client = settings.client()
    if kept:
        _list(settings, client)
        return
    if restore is not None:
        _copy(client, restore)
    found = client.post("/v1/reload", dry_run=True)
    if not settings.as_json:
        _describe(found)
    if dry_run or not found["changes"]:
        if settings.as_json:
            show.emit_json(found)
        return
    if found["touched"] and not now:
        now = show.terminal() and click.confirm("End these calls?")
    done = client.post("/v1/reload", within_s=WITHIN_S, now=now)
    if settings.as_json:
        show.emit_json(done)
    if done["undone"]:
        raise CommandError(
            f"it did not work and was undone: {done['undone']}",
            remedy="the file still holds what does not work: correct it before a restart, or "
            "gateway reload --kept and --restore NUMBER",
        )
    if settings.as_json:
        return
    for warning in done["warnings"]:
        click.echo(f"warning: {show.clean(warning)}", err=True)
    for name in done["still_down"]:
        click.echo(f"warning: {show.clean(name)} was down before and still is: gateway adapters")
    click.echo(
        f"in use: {done['routes']} routes, configuration {done['generation']} since the start"
    )


def _describe(found: dict[str, Any]) -> None:
    if not found["changes"]:
        click.echo("nothing has changed")
    for change in found["changes"]:
        restart = "  (needs a restart)" if change["restart"] else ""
        name = show.clean(change["name"])
        click.echo(f"{_SIGNS[change['how']]} {change['what']} {name} {change['how']}{restart}")
        for detail in change["details"]:
            click.echo(f"    {show.clean(detail)}")
    for touched in found["touched"]:
        legs = ", ".join(show.clean(leg) for leg in touched["legs"])
        click.echo(f"! ends call {show.short(touched['call'])} ({legs})")


def _list(settings: Settings, client: Client) -> None:
    found = client.get("/v1/configurations")
    if settings.as_json:
        show.emit_json(found)
        return
    show.table(
        (
            Column("NUMBER", right=True), Column("IN USE SINCE"), Column("NOW"),
            Column("FILE", fold=True),
        ),
        [
            (
                str(item["number"]), show.clock(item["at"], date=True),
                "now" if item["current"] else "", item["path"],
            )
            for item in found
        ],
        empty="no configuration is kept yet",
    )  # fmt: skip


def _copy(client: Client, number: int) -> None:
    """Put a kept configuration in the place of the file; with its owner's and its own rights."""
    kept = next((k for k in client.get("/v1/configurations") if k["number"] == number), None)
    if kept is None:
        raise CommandError(f"configuration {number} is not kept", remedy="gateway reload --kept")
    file = Path(client.get("/v1/status")["config"])
    part = file.with_name(f".{file.name}.part")
    try:
        state = file.stat()
        shutil.copyfile(kept["path"], part)
        os.chmod(part, state.st_mode & 0o777)
        if os.geteuid() == 0:
            os.chown(part, state.st_uid, state.st_gid)
        part.replace(file)
    except OSError as error:
        raise CommandError(
            f"{error.filename}: {error.strerror}",
            remedy="become root: sudo gateway reload --restore",
        ) from None
