"""``gateway reload``: what would change, then the change, then back if it does not work."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any, Final

from gateway.cli import Settings, offline, show
from gateway.cli import lazily as click
from gateway.cli.options import json_option
from gateway.cli.show import Column
from gateway.client import EXIT_UNREACHABLE, Client, CommandError, find_config

WITHIN_S: Final = 90.0
"""Adapters are ended, begun, watched, and perhaps all of it undone."""
_SETTLE_S: Final = 1.5
"""How long a device may take to be found missing."""
_LOOK_S: Final = 0.1
_SIGNS: Final = {"added": "+", "removed": "-", "changed": "~", "moved": ">"}


@click.command()
@json_option
@click.option("--dry-run", is_flag=True, help="Only say what would change and whom it touches.")
@click.option("--now", is_flag=True, help="Also when it ends calls; no question.")
@click.option("--kept", is_flag=True, help="List the last configurations that were in use.")
@click.option(
    "--changes",
    type=click.IntRange(min=0),
    is_flag=False,
    flag_value=0,
    metavar="[NUMBER]",
    help="What the last reload changed, or the one that NUMBER came with.",
)
@click.option("--restore", type=int, metavar="NUMBER", help="Go back to one of them.")
@click.pass_obj
def reload(
    settings: Settings,
    dry_run: bool,
    now: bool,
    kept: bool,
    changes: int | None,
    restore: int | None,
) -> None:
    """Use the changed configuration without a restart.

    Shows first what changes. Routes are replaced, changed adapters are started anew; calls on other
    adapters go on. If a changed adapter does not come up, all of it is undone. Exit code 1: refused
    or undone, the configuration before stays in use.

    --restore copies a kept configuration over the configuration file, then reloads it. It works
    without a daemon too, as --kept and --changes do.
    """
    client = settings.client()
    if kept:
        _list(settings, client)
        return
    if changes is not None:
        _changes(settings, client, changes)
        return
    if restore is not None and not _restore(settings, client, restore):
        return
    down = _down(client)
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
    _health(client, down, found["changes"])


def _down(client: Client) -> dict[str, str]:
    """Endpoints that cannot be used, and why."""
    found = client.get("/v1/endpoints", condition="down")
    return {item["id"]: item["reason"] for item in found}


def _health(client: Client, before: dict[str, str], changes: list[dict[str, Any]]) -> None:
    """Say which endpoints have gone down since: a device may be gone although its adapter runs."""
    if all(change["what"] != "adapter" for change in changes):
        return
    due = time.monotonic() + _SETTLE_S
    fresh: dict[str, str] = {}
    while not fresh and time.monotonic() < due:
        time.sleep(_LOOK_S)
        fresh = {name: why for name, why in _down(client).items() if name not in before}
    for name, why in fresh.items():
        click.echo(f"warning: {show.clean(f'{name} was up and is down now: {why}')}", err=True)
    if fresh:
        click.echo(
            "  -> to undo it: gateway reload --kept, gateway reload --restore NUMBER", err=True
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
    found = _kept(settings, client)
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


def _kept(settings: Settings, client: Client) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = client.get("/v1/configurations")
    except CommandError as error:
        if error.code != EXIT_UNREACHABLE:
            raise
        import msgspec

        click.echo(f"({error.what}; read from its files)", err=True)
        # Nothing runs with the newest one.
        found = [
            msgspec.to_builtins(each) | {"current": False} for each in offline.kept(settings).all()
        ]
    return found


def _changes(settings: Settings, client: Client, number: int) -> None:
    try:
        found = client.get("/v1/changes", number=number)
    except CommandError as error:
        if error.code != EXIT_UNREACHABLE:
            raise
        import msgspec

        from gateway.changes import between
        from gateway.errors import ConfigError, UsageError

        click.echo(f"({error.what}; read from its files)", err=True)
        try:
            before, after = offline.kept(settings).pair(number)
            file = Path(find_config(settings.config))
            found = msgspec.to_builtins(between(before.path, after.path, file))
        except (ConfigError, UsageError) as wrong:
            raise CommandError(str(wrong), remedy="gateway reload --kept") from None
    if settings.as_json:
        show.emit_json(found)
    else:
        _describe({"changes": found, "touched": []})


def _restore(settings: Settings, client: Client, number: int) -> bool:
    """Put a kept configuration in the place of the file; whether a gateway runs to use it."""
    kept = next((k for k in _kept(settings, client) if k["number"] == number), None)
    if kept is None:
        raise CommandError(f"configuration {number} is not kept", remedy="gateway reload --kept")
    try:
        file, runs = Path(client.get("/v1/status")["config"]), True
    except CommandError as error:
        if error.code != EXIT_UNREACHABLE:
            raise
        file, runs = Path(find_config(settings.config)), False
    _copy(kept["path"], file)
    if not runs:
        if settings.as_json:
            show.emit_json({"file": str(file), "restored": number})
        else:
            click.echo(f"{file}: as configuration {number} was; systemctl restart crosspoint")
    return runs


def _copy(source: str, file: Path) -> None:
    """Replace the file, with its owner's and its own rights."""
    part = file.with_name(f".{file.name}.part")
    try:
        state = file.stat()
        shutil.copyfile(source, part)
        os.chmod(part, state.st_mode & 0o777)
        if os.geteuid() == 0:
            os.chown(part, state.st_uid, state.st_gid)
        part.replace(file)
    except OSError as error:
        raise CommandError(
            f"{error.filename}: {error.strerror}",
            remedy="become root: sudo gateway reload --restore",
        ) from None
