"""``gateway replay``: the journal through the switchboard again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli import Settings, show
from gateway.cli import lazily as click
from gateway.cli.brief import Done
from gateway.cli.options import json_option
from gateway.client import EXIT_CONFIG, CommandError, find_config

if TYPE_CHECKING:
    from gateway.config import Configuration
    from gateway.core.routes import RouteTable
    from gateway.replay.player import Outcome, Player
    from gateway.replay.tape import Run, Tape


@click.command()
@json_option
@click.argument("journal", required=False, type=click.Path(path_type=Path), metavar="[FILE|DIR]")
@click.option("--routes", metavar="CONFIG", help="Use the routes of this configuration instead.")
@click.option("--last", is_flag=True, help="Only the newest run of the gateway.")
@click.option(
    "--trace",
    default="",
    metavar="ID",
    help="Of --make-test: only this trace, call, leg, endpoint's newest, or 'last'.",
)
@click.option(
    "--make-test", type=click.Path(path_type=Path), metavar="FILE.flow",
    help="Write the newest run, or the --trace, as a flow test.",
)  # fmt: skip
@click.pass_obj
def replay(
    settings: Settings,
    journal: Path | None,
    routes: str | None,
    last: bool,
    trace: str,
    make_test: Path | None,
) -> None:
    """Run a journal through the switchboard again and show the first difference.

    Nothing is called and no daemon is needed. FILE|DIR is a journal, or one file of it; left out:
    that of the configuration. By default the routes are those that the journal says were in use:
    then a difference means that this version of the gateway decides otherwise than the one that
    wrote it. With --routes a changed configuration is tried on what really happened.

    Digits that the journal hides are guessed from what followed them. Exit code 0: no difference.
    """
    from gateway.errors import UsageError
    from gateway.replay.tape import Tape
    from gateway.timeline import search

    if trace and make_test is None:
        raise click.UsageError("--trace is for --make-test")
    if make_test is not None and routes:
        raise click.UsageError("--make-test writes the routes of the journal: leave out --routes")
    trace = trace.lower() if "/" not in trace else trace
    where = journal or _load(find_config(settings.config)).journal_dir
    table = _load(routes).table() if routes else None
    try:
        tape = Tape(where)
        if make_test is not None:
            if trace == search.LAST or "/" in trace:
                trace = search.find(where if where.is_dir() else where.parent, trace)
            _make_test(settings, tape, make_test, trace)
            return
        outcomes = list(_play(tape, table, last=last))
    except UsageError as error:
        raise CommandError(str(error), remedy="gateway status shows the configuration") from None
    except OSError as error:
        raise CommandError(
            f"the journal cannot be read: {error}", remedy="try again with sudo"
        ) from None
    differ = any(outcome.difference for outcome in outcomes)
    if settings.as_json:
        import msgspec

        runs = [msgspec.to_builtins(outcome) for outcome in outcomes]
        show.emit_json({"journal": str(where), "unreadable": tape.unreadable, "runs": runs})
    else:
        _show(tape, outcomes)
    if differ or not any(outcome.events for outcome in outcomes):
        raise Done(1)


def _load(file: str) -> Configuration:
    from gateway.config import load
    from gateway.errors import ConfigError

    try:
        return load(file)
    except ConfigError as error:
        raise CommandError(str(error), remedy=f"gateway check {file}", code=EXIT_CONFIG) from None


def _play(tape: Tape, table: RouteTable | None, *, last: bool) -> Iterator[Outcome]:
    from gateway.replay.digits import play
    from gateway.replay.player import Outcome, Player

    names = _names(tape)
    for name in names[-1:] if last else names:

        def make(known: dict[str, str], name: str = name) -> Player:
            return Player(_run(tape, name), table=table, known=known)

        if name:
            yield play(make)[0]
        else:
            yield Outcome(run="", where=str(tape.path), skipped="it began before this journal does")


def _names(tape: Tape) -> list[str]:
    """The runs there are; an empty name first where the journal begins in the middle of one."""
    found = []
    for run in tape.runs():
        n = sum(1 for _ in run.steps)
        if run.name or n:
            found.append(run.name)
    return found


def _run(tape: Tape, name: str) -> Run:
    for run in tape.runs():
        if run.name == name:
            return run
        for _ in run.steps:
            pass
    raise CommandError(f"the run {name} has just been deleted from the journal")


def _show(tape: Tape, outcomes: list[Outcome]) -> None:
    from gateway.cli.story import sentence

    for outcome in outcomes:
        when = show.clock(outcome.began, date=True) if outcome.began else outcome.where
        if outcome.skipped:
            click.echo(f"a run up to {outcome.where}: not played, {outcome.skipped}")
            continue
        counted = f"{outcome.events} events, {outcome.actions} actions"
        click.echo(f"run of {when}: {counted}: {'DIFFERENT' if outcome.difference else 'the same'}")
        if outcome.guessed:
            click.echo(f"  {outcome.guessed} hidden digits guessed from what followed them")
        if outcome.unwritten and not outcome.difference:
            click.echo(f"  its last {outcome.unwritten} actions are not in the journal (cut off)")
        found = outcome.difference
        if found is None:
            continue
        click.echo(show.clean(f"  at {show.clock(found.at, date=True)}, {found.where}"))
        click.echo(show.clean(f"  after    {sentence(found.event) or 'time passed'}"))
        click.echo(show.clean(f"  journal  {sentence(found.journal) or 'nothing'}"))
        click.echo(show.clean(f"  replay   {sentence(found.replay) or 'nothing'}"))
        if found.fields and found.journal and found.replay:
            click.echo(f"  differs  {', '.join(found.fields)}")
        if found.hint:
            click.echo(f"  note     {found.hint}")
    if tape.unreadable:
        click.echo(f"{tape.unreadable} lines of the journal are not readable")
    if not any(outcome.events for outcome in outcomes):
        click.echo("there is nothing to replay: no run begins in this journal")


def _make_test(settings: Settings, tape: Tape, file: Path, trace: str) -> None:
    from gateway.replay.digits import play
    from gateway.replay.flow import Scribe, find, only
    from gateway.replay.player import Player
    from gateway.testing.flows import run_text

    names = [name for name in _names(tape) if name]
    if not names:
        raise CommandError("no run begins in this journal", remedy="give its whole directory")
    name = names[-1]
    if trace:
        found = ((each, find(_run(tape, each), trace)) for each in reversed(names))
        name, whole = next(((each, of) for each, of in found if of), ("", ""))
        if not name:
            raise CommandError(f"the journal has nothing of {trace}", remedy="gateway records")
        trace = whole
    outcome, known = play(lambda given: Player(_run(tape, name), known=given))
    why = ""
    for exact in (False, True):
        run = _run(tape, name)
        scribe = Scribe(only(run, trace) if trace else run, known=known, exact=exact)
        result = scribe.play()
        text = scribe.text()
        try:
            run_text(text, file.name)
        except AssertionError as error:
            why = str(error)
            continue
        why = ""
        break
    if why:
        raise CommandError(
            f"the flow does not repeat what happened: {why}",
            remedy="make it of the whole run, without --trace" if trace else "",
        )
    try:
        file.write_text(text)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from None
    told: dict[str, Any] = {
        "file": str(file),
        "events": result.events,
        "actions": result.actions,
        "whole": result.difference is None and outcome.difference is None,
    }
    if settings.as_json:
        show.emit_json(told)
    else:
        click.echo(f"{file}: {result.events} events, {result.actions} actions")
        if not told["whole"]:
            click.echo(
                "it ends where the journal and this version part"
                if outcome.difference
                else "it ends where other calls took part: leave out --trace for all of it"
            )
