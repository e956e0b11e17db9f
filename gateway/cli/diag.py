"""``gateway diag``: what was wrong with a call, in one sentence."""

from __future__ import annotations

from gateway.cli import Settings, offline, show
from gateway.cli import lazily as click
from gateway.cli.brief import Done
from gateway.cli.options import complete_call_or_leg, json_option, past
from gateway.client import EXIT_FAILED, CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gateway.config import Configuration


@click.command()
@json_option
@click.argument("which", metavar="CALL|last", shell_complete=complete_call_or_leg)
@click.option("--at", type=past, metavar="WHEN", help="Of an endpoint: its newest call then.")
@click.pass_obj
def diag(settings: Settings, which: str, at: float | None) -> None:
    """What was wrong with a call: the faulty layer and the remedy, in one sentence.

    Then the evidence, leg by leg, and the command to type next. CALL is the end of a call's or
    trace's id, a leg (fxs/1#18), an endpoint (its newest call), or 'last'. The call may be up or
    over; one that is over is judged by journal and records, which works without a daemon too.

    Exit code 0: no fault found; 1: there is one.
    """
    try:
        found = settings.client().get("/v1/diagnosis", id=which, at=at)
    except CommandError as error:
        known = offline.instead(settings, error, "judged by its journal and records")
        found = _offline(known, which, at)
    if settings.as_json:
        show.emit_json(found)
    else:
        _tell(found)
    if found["fault"]:
        raise Done(EXIT_FAILED)


def _offline(configuration: Configuration, which: str, at: float | None) -> dict[str, Any]:
    import msgspec

    from gateway.diagnosis import diagnose, gather
    from gateway.errors import UsageError

    try:
        call, _ = gather.past(configuration.journal_dir, which, at)
    except UsageError as error:
        raise CommandError(str(error), remedy="gateway records") from None
    except OSError as error:
        raise CommandError(
            f"the journal cannot be read: {error}", remedy="try again with sudo"
        ) from None
    missing = gather.recorded(configuration.records_url, call)
    found: dict[str, Any] = msgspec.to_builtins(diagnose(call, [missing] if missing else []))
    return found


def _tell(found: dict[str, Any]) -> None:
    began = show.clock(found["at"], date=True)
    state = "up now" if found["live"] else "over"
    click.echo(f"call {found['trace']}, begun {began}, {state}")
    click.echo()
    click.echo(f"{'! ' if found['fault'] else ''}{show.clean(found['sentence'])}")
    for leg in found["legs"]:
        click.echo()
        click.echo(show.clean(leg["leg"]))
        for fact in leg["facts"]:
            click.echo(f"    {show.clean(fact)}")
        for fault in leg["faults"]:
            click.echo(f"  ! {show.clean(fault['what'])}")
            click.echo(f"    -> {show.clean(fault['remedy'])}")
    click.echo()
    for note in found["notes"]:
        click.echo(f"({show.clean(note)})")
    click.echo(f"next: {show.clean(found['next'])}")
