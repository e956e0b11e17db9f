"""Commands that need no daemon: check, and explain when it is down."""

from __future__ import annotations

import time

from gateway.cli import Settings, offline, show
from gateway.cli import lazily as click
from gateway.cli.brief import Done
from gateway.cli.options import complete_endpoint, json_option, when
from gateway.client import EXIT_CONFIG, CommandError, find_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from gateway.config import Configuration


_VALUES: Final = {"on": 1.0, "off": 0.0}


@click.command()
@json_option
@click.argument("config", required=False, metavar="[FILE]", type=click.Path())
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@click.pass_obj
def check(settings: Settings, config: str | None, strict: bool) -> None:
    """Check a configuration without running it.

    Says file, line, key, what is wrong and what to do, for everything that is wrong at once. Opens
    no device and no port. Exit code 0: it can be used; 4: it cannot.
    """
    from gateway.config import load
    from gateway.errors import ConfigError

    file = find_config(config or settings.config)
    errors: list[ConfigError] = []
    warnings: list[str] = []
    counts: dict[str, int] = {}
    try:
        found = load(file)
        warnings = list(found.warnings)
        counts = {
            "adapters": len(found.adapters),
            "endpoints": len(found.endpoints),
            "routes": len(found.routes),
        }
    except ConfigError as error:
        errors = list(getattr(error, "errors", [error]))
    bad = bool(errors) or (strict and bool(warnings))
    if settings.as_json:
        document: dict[str, Any] = {
            "file": file,
            "ok": not bad,
            "errors": [
                {
                    "file": each.file or file,
                    "line": each.line,
                    "key": each.key or "",
                    "what": each.what,
                    "remedy": each.remedy or "",
                }
                for each in errors
            ],
            "warnings": warnings,
        }
        show.emit_json(document | counts)
    else:
        for each in errors:
            click.echo(show.clean(str(each)), err=True)
        for warning in warnings:
            click.echo(f"warning: {show.clean(warning)}", err=True)
        if not errors:
            parts = ", ".join(f"{n} {name}" for name, n in counts.items())
            click.echo(f"{file}: {'ok' if not bad else 'not ok (--strict)'}, {parts}")
    if bad:
        raise Done(EXIT_CONFIG)


@click.command()
@json_option
@click.argument("source", metavar="A", shell_complete=complete_endpoint)
@click.argument("called", metavar="[B]", required=False, default="")
@click.option("--calling", default="", metavar="NUMBER", help="The caller's number.")
@click.option("--alarm", default="", metavar="KIND", help="A raises an alarm of this kind.")
@click.option("--severity", default="major", show_default=True, help="Severity of the alarm.")
@click.option("--input", "input_", default="", metavar="NAME=VALUE", help="A's input changes.")
@click.option("--digits", default="", metavar="DIGITS", help="A presses them during a call.")
@click.option("--at", type=when, metavar="WHEN", help="14:30, 2026-03-01T22:00 (default: now).")
@click.option(
    "--offline", "by_file", is_flag=True, help="By the configuration file, not by the daemon."
)
@click.pass_obj
def explain(
    settings: Settings,
    source: str,
    called: str,
    calling: str,
    alarm: str,
    severity: str,
    input_: str,
    digits: str,
    at: float | None,
    by_file: bool,
) -> None:
    """Which route would take a call from A to number B, and why the others do not.

    A is an endpoint, or a number that belongs to one. With --alarm, --input or --digits: which
    route would take that.

    Nothing is called. Without a daemon, or with --offline, the configuration file is asked; then
    nothing is known of what is up or in use. Exit code 1: nothing would take it.
    """
    name, equals, text = input_.partition("=")
    try:
        value = _VALUES.get(text.lower()) if equals else 1.0
        value = float(text) if value is None else value
    except ValueError:
        raise click.UsageError(
            f"--input: {text!r} is no value; write on, off or a number, as "
            "'gateway endpoints A --detail' shows it"
        ) from None
    if called and (alarm or input_ or digits):
        raise click.UsageError("B is whom A calls: leave it out with --alarm, --input or --digits")
    if sum(map(bool, (alarm, input_, digits))) > 1:
        raise click.UsageError("--alarm, --input and --digits contradict each other")
    question: dict[str, Any] = {
        "source": source,
        "called": called,
        "calling": calling,
        "alarm": alarm,
        "severity": severity,
        "input": name,
        "value": value,
        "digits": digits,
    }
    if not by_file:
        try:
            client = settings.client()
            if "/" not in source:
                question["source"] = _named(source, client.get("/v1/endpoints"))
            found = client.get("/v1/explain", at=at, **question)
        except CommandError as error:
            known = offline.instead(
                settings, error, "answered by the configuration file", present=True
            )
            found = _offline(known, question, at)
    else:
        found = _offline(offline.configuration(settings), question, at)
    if settings.as_json:
        show.emit_json(found)
    else:
        _explanation(found)
    if found["by"] == "nothing":
        raise Done(1)


def _named(source: str, places: list[dict[str, Any]]) -> str:
    """The endpoint whose number it is; what is nobody's stays as it is."""
    return next((place["id"] for place in places if place["number"] == source), source)


def _offline(
    configuration: Configuration, question: dict[str, Any], at: float | None
) -> dict[str, Any]:
    import msgspec

    from gateway.control.explain import Chance, probe
    from gateway.control.explain import explain as ask
    from gateway.core.endpoints import Target
    from gateway.core.events import Priority
    from gateway.errors import UsageError

    places = {endpoint.id: endpoint for endpoint in configuration.endpoints}
    known = [{"id": place.id, "number": place.number} for place in places.values()]
    question = question | {"source": _named(question["source"], known)}

    def chances(target: Target, priority: Priority) -> Chance:
        place = places.get(target.endpoint)
        if place is None:
            return Chance(False, "not in the configuration; it may appear at run time")
        if not place.can_ring:
            return Chance(False, f"{place.id} cannot be called")
        if place.takes_number and not target.number:
            return Chance(False, f"{place.id} needs a number")
        return Chance(True)

    try:
        event = probe(**question)
    except UsageError as error:
        raise CommandError(str(error)) from None
    moment = time.time() if at is None else at
    explanation = ask(configuration.table(), event, moment, places, chances, live=False)
    found: dict[str, Any] = msgspec.to_builtins(explanation)
    return found


def _explanation(found: dict[str, Any]) -> None:
    click.echo(show.clean(f"{found['event']}, {show.clock(found['at'], date=True)}"))
    click.echo(show.clean(f"-> {found['why']}"))
    for text in found["does"]:
        click.echo(show.clean(f"   {text}"))
    for target in found["targets"]:
        why = target["reason"] if target["usable"] else f"CANNOT BE CALLED: {target['reason']}"
        click.echo(show.clean(f"   - {target['target']}{f'  {why}' if why else ''}"))
    if found["refusals"]:
        click.echo("the others:")
    for refusal in found["refusals"]:
        click.echo(show.clean(f"   {refusal['route']}: {refusal['reason']}"))
