"""``gateway trace``: one timeline over all legs and networks."""

from __future__ import annotations

from types import SimpleNamespace

from gateway.cli import Settings, offline, show
from gateway.cli import lazily as click
from gateway.cli.options import complete_call_or_leg, json_option, past
from gateway.client import EXIT_UNREACHABLE, CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from gateway.config import Configuration
    from gateway.timeline.ladder import Said


@click.command()
@json_option
@click.argument("which", metavar="ID|CALL|last|next", shell_complete=complete_call_or_leg)
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens now.")
@click.option(
    "--at", type=past, metavar="WHEN", help="What was then: 14:30, 2h ago, 2026-03-01T22:00."
)
@click.option("--html", metavar="FILE", type=click.Path(), help="Write one page.")
@click.pass_obj
def trace(settings: Settings, which: str, follow: bool, at: float | None, html: str | None) -> None:
    """One timeline of a call or alarm over all legs and networks.

    It begins with the first physical or human event. The argument is the end of a trace's or call's
    id, a leg (fxs/1#18), an endpoint (its newest trace), 'last', or, with -f, 'next'. Works without
    a daemon too, then without what went over the wires: that is kept in memory, for ten minutes.

    \b
    The networks are the columns; each of their endpoints has a lane, the gateway the first one:
      >  came from there     <  the gateway did there     *  the gateway by itself

    Digits that people press are shown as '?' unless the configuration says journal.keep_digits.
    --html writes a page that needs nothing else, to be sent to whoever helps.
    """
    if html is not None and follow:
        raise click.UsageError("--html and --follow contradict each other")
    if at is not None and follow:
        raise click.UsageError("--at and --follow contradict each other")
    try:
        lines = settings.client().stream("/v1/trace", id=which, follow=follow, at=at)
        head = next(lines, None)
        if head is None:
            raise CommandError("the gateway ended the answer", code=EXIT_UNREACHABLE)
    except CommandError as error:
        if follow:
            raise
        head, lines = _offline(offline.instead(settings, error, "read from its journal"), which, at)
    if follow:
        _follow(settings, head, lines)
        raise CommandError(
            "the gateway has stopped", remedy="systemctl status crosspoint", code=EXIT_UNREACHABLE
        )
    found = list(lines)
    if html is not None:
        _page(settings, head, found, html)
    elif settings.as_json:
        show.emit_json(head | {"items": found})
    else:
        _ladder(head, found)


def _offline(
    configuration: Configuration, which: str, at: float | None
) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    import msgspec

    from gateway.errors import UsageError
    from gateway.timeline import search
    from gateway.timeline.items import Picker

    directory = configuration.journal_dir
    try:
        found = search.find(directory, which, at)
        picker = Picker(found, keep_digits=configuration.journal.keep_digits)
        items = [msgspec.to_builtins(item) for item in search.read(directory, picker)]
    except UsageError as error:
        raise CommandError(str(error), remedy="gateway events --since 1d") from None
    except OSError as error:
        raise CommandError(
            f"the journal cannot be read: {error}", remedy="try again with sudo"
        ) from None
    labels = {place.id: place.label for place in configuration.endpoints if place.label}
    head: dict[str, Any] = {
        "line": "head",
        "trace": found,
        "box": configuration.gateway.name,
        "labels": {name: labels[name] for name in picker.places if name in labels},
        "cut": False,
        "wire_s": 0.0,
    }
    return head, iter(items)


def _said(line: dict[str, Any]) -> Said:
    return SimpleNamespace(**line)


def _notes(head: dict[str, Any], items: Sequence[Said]) -> list[str]:
    notes = []
    if head["cut"]:
        notes.append("There is more of this trace than is shown here.")
    if not head["wire_s"]:
        notes.append("Without what went over the wires: the gateway does not run.")
    elif items and not any(item.kind in ("in", "out") for item in items):
        minutes = head["wire_s"] / 60
        notes.append(
            f"Of the wires nothing is known any more: it is kept for {minutes:.0f} minutes."
        )
    return notes


def _ladder(head: dict[str, Any], found: list[dict[str, Any]]) -> None:
    from gateway.timeline import ladder

    items = [_said(line) for line in found]
    lanes = ladder.lanes_of(items)
    click.echo(f"trace {head['trace']} on {show.clean(head['box'])}")
    if items:
        began, ended = items[0].at, items[-1].at
        click.echo(f"from  {show.clock(began, date=True)}, {ended - began:.3f} s")
    for text in ladder.head(lanes, head["labels"]):
        click.echo(show.clean(text))
    for item in items:
        click.echo(show.clean(ladder.line(item, lanes, items[0].at)))
    for note in _notes(head, items):
        click.echo(f"({note})")


def _follow(settings: Settings, head: dict[str, Any], lines: Iterator[dict[str, Any]]) -> None:
    from gateway.timeline import ladder

    if settings.as_json:
        show.emit_line(head)
        for line in lines:
            show.emit_line(line)
        return
    click.echo(f"trace {head['trace']} on {show.clean(head['box'])}")
    lanes: list[str] = []
    began = 0.0
    for line in lines:
        item = _said(line)
        began = began or item.at
        if item.lane not in lanes:
            above, lanes = lanes, ladder.grouped([*lanes, item.lane])
            for text in ladder.head(lanes, head["labels"], above):
                click.echo(show.clean(text))
        click.echo(show.clean(ladder.line(item, lanes, began)))


def _page(settings: Settings, head: dict[str, Any], found: list[dict[str, Any]], file: str) -> None:
    import msgspec

    from gateway.timeline import ladder
    from gateway.timeline.items import Item
    from gateway.timeline.page import page

    items = msgspec.convert(found, list[Item])
    facts = {"Box": head["box"]}
    if items:
        facts["Began"] = show.clock(items[0].at, date=True)
        facts["Lasted"] = f"{items[-1].at - items[0].at:.3f} s"
    facts |= {
        lane: head["labels"][lane] for lane in ladder.lanes_of(items) if lane in head["labels"]
    }
    text = page(
        items, ladder.lanes_of(items), trace=head["trace"], facts=facts, notes=_notes(head, items)
    )
    try:
        with open(file, "w", encoding="utf-8", errors="replace") as written:
            written.write(text)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from None
    if settings.as_json:
        show.emit_json({"file": str(file), "items": len(items), "trace": head["trace"]})
    else:
        click.echo(f"{file}: {len(items)} lines")
