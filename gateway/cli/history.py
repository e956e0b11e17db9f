"""Commands about what has happened: events, records, stats."""

from __future__ import annotations

import time

from gateway.cli import Settings, offline, show
from gateway.cli import lazily as click
from gateway.cli.options import complete_adapter, complete_endpoint, json_option, past
from gateway.cli.options import until as until_option
from gateway.cli.show import Column
from gateway.client import EXIT_UNREACHABLE, CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

    from gateway.config import Configuration
    from gateway.records import Database

_DAY: Final = 86_400.0


@click.command()
@json_option
@click.option("--type", "type_", default="", metavar="TYPES", help="'Leg*,Dial,AlarmRaised'.")
@click.option("--endpoint", default="", metavar="PATTERN", shell_complete=complete_endpoint)
@click.option("--call", default="", metavar="ID", help="Of this call (the end of its id).")
@click.option("--trace", default="", metavar="ID", help="Of this trace (the end of its id).")
@click.option("--leg", default="", metavar="ID", help="Of this leg: fxs/1#18.")
@click.option("--adapter", default="", metavar="NAME", shell_complete=complete_adapter)
@click.option(
    "--since", type=past, is_eager=True, metavar="WHEN", help="History from 2h, 1d ago; 14:30."
)
@click.option("--until", callback=until_option, metavar="WHEN", help="History up to then.")
@click.option("--last", type=click.IntRange(1, 100_000), help="History: the newest so many.")
@click.option("--follow/--no-follow", "-f/-n", default=None, help="Go on with what happens now.")
@click.pass_obj
def events(settings: Settings, /, type_: str, follow: bool | None, **question: Any) -> None:
    """Events and actions, live or from the journal.

    Without --since, --until or --last: what happens from now on, until Ctrl-C. With them: history
    (--last alone: of the last 24 hours), and with -f what happens afterwards too. History also
    works while the gateway is down, for those who may read its journal.

    A line is the time, '>' for an action of the gateway, the type, whom it concerns, the facts,
    and the end of the call's id. --json gives CloudEvents 1.0, one in a line. Digits that people
    press are shown as '?' unless the configuration says journal.keep_digits.
    """
    history = any(question[name] is not None for name in ("since", "until", "last"))
    question |= {"type": type_, "follow": bool(follow) if follow is not None else not history}
    since, to = question["since"], question["until"]
    if since is not None and to is not None and since >= to:
        raise click.UsageError("--since must be before --until")
    if history and question["since"] is None:
        question["since"] = (question["until"] or time.time()) - _DAY
    if question["until"] is not None and question["follow"]:
        raise click.UsageError("--until and --follow contradict each other")
    try:
        lines = settings.client().stream("/v1/events", **question)
        _print(lines, settings.as_json)
        if question["follow"]:
            raise CommandError(
                "the gateway has stopped",
                remedy="systemctl status crosspoint",
                code=EXIT_UNREACHABLE,
            )
    except CommandError as error:
        if not history or question["follow"]:
            raise
        configuration = offline.instead(settings, error, "read from its journal")
        _print(_offline(configuration, question), settings.as_json)


def _offline(configuration: Configuration, question: dict[str, Any]) -> Iterator[dict[str, Any]]:
    import json

    from gateway.control import history
    from gateway.control.questions import EventsQuery
    from gateway.errors import UsageError

    given = {name: value for name, value in question.items() if value is not None}
    try:
        for envelope in history.past(configuration.journal_dir, EventsQuery(**given)):
            keep = configuration.journal.keep_digits
            yield json.loads(history.line(envelope, keep_digits=keep))
    except UsageError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"the journal cannot be read: {error}") from None


def _print(lines: Iterator[dict[str, Any]], as_json: bool) -> None:
    none = True
    for event in lines:
        none = False
        if as_json:
            show.emit_line(event)
        else:
            click.echo(show.clean(_line(event)))
    if none and not as_json:
        click.echo("nothing of that kind happened then", err=True)


def _line(event: dict[str, Any]) -> str:
    """One event for a person."""
    kind, _, name = event["type"].removeprefix("crosspoint.").partition(".")
    data = dict(event["data"])
    if kind == "control":
        return f"!! {data['dropped']} events were dropped: this reader is too slow"
    from datetime import datetime

    from gateway.cli.story import UUID

    at = datetime.fromisoformat(event["time"]).astimezone()
    subject = event.get("subject", "")
    if isinstance(data.get("endpoint"), dict):
        place = data.pop("endpoint")
        data |= {key: place[key] for key in ("condition", "reason") if key in place}
    # Said already, or said by the columns.
    for key in ("trace", "call", "demanded_at", "raised_at"):
        data.pop(key, None)
    facts = [
        f"{key}={UUID.sub(lambda found: show.short(found[0]), str(value))}"
        for key, value in data.items()
        if value not in (subject, None, "")
    ]
    text = data["text"] if name == "Note" else " ".join(facts)
    call = show.short(event.get("call", ""))
    stamp = f"{at:%H:%M:%S}.{at.microsecond // 1000:03}"
    mark = ">" if kind == "action" else " "
    return " ".join(
        part
        for part in (
            stamp,
            mark,
            name.ljust(15),
            UUID.sub(lambda found: show.short(found[0]), subject),
            text,
            call and f"[{call}]",
        )
        if part
    )


@click.command()
@json_option
@click.option("--legs", is_flag=True, help="One row for each leg, not for each call.")
@click.option(
    "--since", type=past, is_eager=True, metavar="WHEN", help="From 2h, 1d ago; 14:30; 2026-03-01."
)
@click.option("--until", callback=until_option, metavar="WHEN", help="Up to then.")
@click.option("--endpoint", default="", metavar="PATTERN", shell_complete=complete_endpoint)
@click.option("--trace", default="", metavar="ID", help="Of this trace (the end of its id).")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True,
    help="At most so many, the newest.",
)  # fmt: skip
@click.pass_obj
def records(settings: Settings, /, legs: bool, **question: Any) -> None:
    """Call detail records, newest first.

    WAIT is from the first human or physical demand to the first human answer. --legs shows what
    became of each side, with loss and jitter. Works without a daemon too.
    """
    try:
        kind = "legs" if legs else "calls"
        found = settings.client().get(f"/v1/records/{kind}", **question)
    except CommandError as error:

        def read(database: Database) -> Any:
            from gateway.control import recorded
            from gateway.control.questions import RecordsQuery

            query = RecordsQuery(**question)
            return (recorded.legs if legs else recorded.calls)(database, query)

        found = offline.recorded(settings, error, "read from its records", read)
    if settings.as_json:
        show.emit_json(found)
    elif legs:
        _legs(found)
    else:
        _calls(found)


def _calls(found: list[dict[str, Any]]) -> None:
    show.table(
        (
            Column("BEGAN"), Column("FROM"), Column("NUMBER", fold=True), Column("BY"),
            Column("OUTCOME", fold=True), Column("WAIT", right=True), Column("TALK", right=True),
            Column("CALL"), Column("ROUTE", fold=True),
        ),
        [
            (
                _short_clock(item["demanded_at"]), item["endpoint"], item["called"],
                item["answered_by"], _outcome(item),
                show.duration(item["wait_s"]), show.duration(item["talk_s"]),
                show.short(item["trace"] or item["call"]), item["route"],
            )
            for item in found
        ],
        empty="no records",
    )  # fmt: skip


def _short_clock(at: float) -> str:
    return show.clock(at, date=True)[5:]


def _outcome(item: dict[str, Any]) -> str:
    """How it went; of what failed also why."""
    outcome: str = item["outcome"]
    said = f"{outcome}: {item['cause']}" if outcome == "failed" else outcome
    return f"{said}, {_partial(item)}" if item.get("partial") else said


def _partial(item: dict[str, Any]) -> str:
    return f"recording partial: {item['partial']}"


def _legs(found: list[dict[str, Any]]) -> None:
    show.table(
        (
            Column("ENDED"), Column("LEG"), Column("DIR"), Column("CAUSE", fold=True),
            Column("TALK", right=True), Column("CODEC"), Column("LOSS %", right=True),
            Column("JITTER", right=True), Column("DETAIL", fold=True),
        ),
        [
            (
                _short_clock(item["ended_at"]), item["leg"], item["direction"],
                item["cause"], show.duration(item["talk_s"]), item["codec"],
                show.number(item["loss_percent"], 1), show.number(item["jitter_ms"], 1),
                ", ".join(filter(None, (item["detail"], item.get("partial") and _partial(item)))),
            )
            for item in found
        ],
        empty="no records",
    )  # fmt: skip


@click.command()
@json_option
@click.option(
    "--by", default="network", show_default=True, metavar="NAMES",
    help="network, route, endpoint, box, kind; several with commas; 'all': together.",
)  # fmt: skip
@click.option("--interval", type=click.Choice(["quarter", "hour", "day"]), help="Row for each.")
@click.option(
    "--since", type=past, is_eager=True, metavar="WHEN", help="From 8h, 7d ago; default 1d."
)
@click.option("--until", callback=until_option, metavar="WHEN", help="Up to then (default: now).")
@click.option(
    "--service-level", "service_level_s", type=click.FloatRange(0, 86400), default=20.0,
    show_default=True, metavar="SECONDS", help="Answered within so many is in time.",
)  # fmt: skip
@click.option(
    "--short-abandon", "short_abandon_s", type=click.FloatRange(0, 86400), default=5.0,
    show_default=True, metavar="SECONDS", help="Given up within so many is short.",
)  # fmt: skip
@click.option(
    "--variant", type=click.Choice(["offered", "less-short", "answered"]), default="less-short",
    show_default=True, help="What the service level is a share of.",
)  # fmt: skip
@click.option("--kinds", default="", metavar="KINDS", help="call, alarm, requested, page.")
@click.pass_obj
def stats(
    settings: Settings, /, by: str, since: float | None, until: float | None, **question: Any
) -> None:
    """Contact-centre measures from the records.

    OFF, ANS, ABN and FAIL count the calls that were offered, answered, given up and failed. SL is
    the service level, WAIT and P90 the average and the 90th percentile of the wait from the
    first human or physical demand to the first human answer, AHT the average handle time, FCR
    first-call resolution. '-' where there is nothing to measure. How each is computed is written
    in docs/measures.md.
    """
    now = time.time()
    end = min(until if until is not None else now, now)
    begin = since if since is not None else end - _DAY
    if begin >= end:
        raise click.UsageError("--since must be before --until")
    question |= {"since": begin, "until": end, "by": "" if by == "all" else by}
    try:
        found = settings.client().get("/v1/stats", **question)
    except CommandError as error:

        def read(database: Database) -> Any:
            import msgspec

            from gateway.control import recorded
            from gateway.control.questions import StatsQuery

            given = {name: value for name, value in question.items() if value not in (None, "")}
            return recorded.stats(database, msgspec.convert(given, StatsQuery))

        found = offline.recorded(settings, error, "measured from its records", read)
    if settings.as_json:
        show.emit_json(found)
        return
    names = list(found[0]["group"]) if found else []
    show.table(
        (
            *([Column("FROM TIME")] if question["interval"] else []),
            *(Column(name.upper()) for name in names),
            Column("OFF", right=True), Column("ANS", right=True), Column("ABN", right=True),
            Column("FAIL", right=True), Column("SL %", right=True), Column("WAIT", right=True),
            Column("P90", right=True), Column("AHT", right=True), Column("FCR %", right=True),
        ),
        [
            (
                *([show.clock(item["begin"], date=True)[5:16]] if question["interval"] else []),
                *item["group"].values(),
                str(item["offered"]), str(item["answered"]), str(item["abandoned"]),
                str(item["failed"]), _percent(item["service_level"]),
                show.number(item["wait_avg_s"], 1), show.number(item["wait_p90_s"], 1),
                show.number(item["aht_s"], 1), _percent(item["resolution_rate"]),
            )
            for item in found
        ],
        empty="no calls in this period",
    )  # fmt: skip


def _percent(ratio: float | None) -> str:
    return "" if ratio is None else f"{100 * ratio:.0f}"
