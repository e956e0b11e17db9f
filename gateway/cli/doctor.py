"""``gateway doctor`` and ``gateway support-bundle``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli import Settings, offline, show
from gateway.cli import lazily as click
from gateway.cli.brief import Done
from gateway.cli.options import json_option
from gateway.cli.show import Column
from gateway.client import EXIT_CONFIG, Client, CommandError, find_config

if TYPE_CHECKING:
    from gateway.config import Configuration
    from gateway.doctor.findings import Finding


@click.command()
@json_option
@click.option("--strict", is_flag=True, help="Warnings count as faults.")
@click.option("--all", "-a", "everything", is_flag=True, help="Show what is well, too.")
@click.pass_obj
def doctor(settings: Settings, strict: bool, everything: bool) -> None:
    """Check a box before it goes live, and say what to type.

    Clock, processor, codecs, real-time limits, ports, devices, certificates, disk, permissions,
    group, service, and alarms that nobody would be told of. Changes nothing. Run it as the daemon's
    user (sudo -u crosspoint gateway doctor) to have its permissions looked at. Exit code 0: nothing
    is wrong; 1: something is.
    """
    configuration = _load(settings)
    found = list(examine(configuration, settings.client()))
    bad = [each for each in found if each.grade == "wrong" or (strict and each.grade == "warning")]
    if settings.as_json:
        import msgspec

        show.emit_json({"ok": not bad, "findings": msgspec.to_builtins(found)})
    else:
        shown = [each for each in found if everything or each.grade != "ok"]
        show.table(
            (
                Column("GRADE"),
                Column("CHECK"),
                Column("WHAT", fold=True),
                Column("TYPE", fold=True),
            ),
            [(str(each.grade), each.check, each.what, each.remedy) for each in shown],
            empty="nothing to complain of",
        )
        well = sum(each.grade == "ok" for each in found)
        click.echo(f"{well} checks are well, {len(bad)} {'is' if len(bad) == 1 else 'are'} not")
    if bad:
        raise Done(1)


def _load(settings: Settings) -> Configuration:
    from gateway.config import load
    from gateway.errors import ConfigError

    file = find_config(settings.config)
    try:
        return load(file)
    except ConfigError as error:
        raise CommandError(str(error), remedy=f"gateway check {file}", code=EXIT_CONFIG) from None


def examine(configuration: Configuration, client: Client) -> Iterator[Finding]:
    """All checks, in the order of what else depends on them."""
    from gateway.doctor import bundle, files, machine, plan

    status, adapters, endpoints, figures = _ask(client)
    realtime = None
    if status is not None and status["realtime_wanted"]:
        realtime = "crosspoint_engine_realtime 1.0" in figures
    down = degraded = None
    if status is not None:
        down = {each["name"]: each["reason"] for each in adapters if each["state"] != "up"}
        stores = (each for each in status["stores"] if each["degraded"])
        degraded = {each["name"]: each["reason"] for each in stores}
    running = status is not None
    yield from plan.adapters(down, degraded)
    yield from plan.places(endpoints)
    yield from machine.clock()
    yield from machine.processor()
    yield from machine.codecs()
    yield from plan.encryption(configuration)
    yield from machine.limits(status["pid"] if status else None, realtime)
    yield from machine.packets(configuration, figures)
    yield from machine.ports(configuration, running=running)
    yield from files.devices(configuration)
    yield from files.certificates(configuration)
    yield from files.disk(configuration)
    yield from files.permissions(configuration, bool(bundle.secrets(configuration)))
    yield from files.group(configuration)
    yield from files.programs(configuration)
    yield from files.service()
    yield from plan.alarms(configuration)
    yield from plan.emergencies(configuration)


def _ask(
    client: Client,
) -> tuple[dict[str, Any] | None, list[dict[str, Any]], list[dict[str, Any]], str]:
    """Status, adapters, endpoints and metrics of the running gateway, as far as it answers."""
    try:
        status = client.get("/v1/status")
        adapters = client.get("/v1/adapters")
        endpoints = client.get("/v1/endpoints")
        figures = client.text("/v1/metrics")
    except CommandError:
        return None, [], [], ""
    return status, adapters, endpoints, figures


@click.command("support-bundle")
@json_option
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--journal-mb", type=click.IntRange(0, 1000), default=8, show_default=True,
              help="How much of the journal, the newest.")  # fmt: skip
@click.option("--log", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="The gateway's log, where it is not in the system's journal.")  # fmt: skip
@click.pass_obj
def support_bundle(settings: Settings, file: Path, journal_mb: int, log: Path | None) -> None:
    """Pack what somebody far away needs to help: FILE.tar.gz.

    Configuration, status, endpoints, calls, alarms, metrics, records, the end of the journal and
    log, versions, and what gateway doctor says. Without passwords, PINs and keys; with numbers and
    names. Works without a daemon too, then with less.
    """
    import msgspec

    from gateway.doctor import bundle

    answers: dict[str, str] = {}
    try:
        configuration = _load(settings)
    except CommandError as error:
        # That it is wrong may be what help is needed for.
        configuration = offline.last_good(settings)
        answers["check.txt"] = f"{error.what}\n"
    client = settings.client()
    for name, path in (
        ("status.json", "/v1/status"), ("adapters.json", "/v1/adapters"),
        ("endpoints.json", "/v1/endpoints"), ("calls.json", "/v1/calls"),
        ("alarms.json", "/v1/alarms"), ("records-calls.json", "/v1/records/calls?limit=500"),
        ("records-legs.json", "/v1/records/legs?limit=1000"), ("metrics.txt", "/v1/metrics"),
    ):  # fmt: skip
        try:
            answers[name] = client.text(path)
        except CommandError as error:
            answers[f"{name}.missing"] = f"{error.what}\n"
    found = list(examine(configuration, client))
    answers["doctor.json"] = msgspec.json.format(msgspec.json.encode(found), indent=1).decode()
    try:
        names = bundle.pack(file, configuration, answers, journal_bytes=journal_mb << 20, log=log)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}", remedy="another place, or sudo") from None
    if settings.as_json:
        show.emit_json({"file": str(file), "holds": names})
    else:
        click.echo(f"{file}: {file.stat().st_size / 1024:.0f} KiB, {len(names)} files")
        click.echo("passwords, PINs and keys are not in it; numbers and names are")
