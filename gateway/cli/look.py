"""Commands that look: status, adapters, endpoints, calls, call, alarms."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import click

from gateway.cli import Settings, show
from gateway.cli.options import (
    complete_alarm,
    complete_call_or_leg,
    complete_endpoint,
    json_option,
)
from gateway.cli.show import Column
from gateway.client import EXIT_UNREACHABLE, CommandError, find_config

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_CALLS: Final = (
    Column("CALL"), Column("FROM"), Column("TO"), Column("NUMBER"), Column("STATE"),
    Column("TIME", right=True), Column("ROUTE", fold=True),
)  # fmt: skip


@click.command()
@json_option
@click.pass_obj
def status(settings: Settings) -> None:
    """Is everything well? The gateway in one screen.

    Exit code 0: all adapters and endpoints are up, no alarm is active, journal and records reach
    the disk. 1: something is not well. 3: the gateway is not reachable.
    """
    found = settings.client().get("/v1/status")
    wrong = troubles(found)
    if settings.as_json:
        show.emit_json(found | {"well": not wrong, "wrong": wrong})
    else:
        _status(found)
        click.echo("\nall is well" if not wrong else "")
        for text in wrong:
            click.echo(f"! {show.clean(text)}")
    if wrong:
        raise click.exceptions.Exit(1)


def _status(found: dict[str, Any]) -> None:
    adapters = found["adapters_up"] + len(found["adapters_down"])
    pairs = [
        ("box", f"{found['box']} (version {found['version']})"),
        ("state", found["state"]),
        ("up for", f"{show.duration(found['up_s'])} (pid {found['pid']})"),
        ("config", found["config"]),
        ("adapters", f"{found['adapters_up']} of {adapters} up"),
        (
            "endpoints",
            f"{found['endpoints_up']} up, {len(found['endpoints_down'])} down, "
            f"{found['endpoints_unknown']} unknown",
        ),
        ("calls", f"{found['calls']} ({found['legs']} legs)"),
        ("alarms", f"{found['alarms_active']} active"),
    ]
    for store in found["stores"]:
        state = "DEGRADED" if store["degraded"] else "ok"
        more = f", {store['waiting']} waiting" if store["waiting"] else ""
        pairs.append((store["name"], state + more))
    counted = found["counters"] | {f"ignored {name}": n for name, n in found["ignored"].items()}
    pairs.append(("counted", ", ".join(f"{name} {n}" for name, n in sorted(counted.items()))))
    show.facts(pairs)


def troubles(found: dict[str, Any]) -> list[str]:
    """What is not well, and the command that says more."""
    wrong = [f"adapter {name} is down: gateway adapters" for name in found["adapters_down"]]
    down = found["endpoints_down"]
    if down:
        names = ", ".join(down[:5]) + (", ..." if len(down) > 5 else "")
        wrong.append(f"endpoints down: {names}: gateway endpoints --down")
    if found["alarms_active"]:
        wrong.append(f"{found['alarms_active']} alarms are active: gateway alarms")
    for test in found["tests_failed"]:
        wrong.append(
            f"{test['kind']} test of {test['endpoint']}: {test['verdict']}, "
            f"{show.duration(test['age_s'])} ago: gateway endpoints {test['endpoint']} --detail"
        )
    for store in found["stores"]:
        if store["degraded"]:
            wrong.append(f"{store['name']} does not reach the disk: {store['reason']}")
        if store["dropped"]:
            wrong.append(f"{store['name']}: {store['dropped']} entries were lost")
    for name, n in sorted(found["counters"].items()):
        if name.endswith(("_failed", "_overload", "_dropped", "_refused")):
            wrong.append(f"{name}: {n}: see the log")
    if found["state"] != "running":
        wrong.append("the gateway is stopping")
    return wrong


@click.command()
@json_option
@click.option("--counters", is_flag=True, help="Show what each adapter counted.")
@click.pass_obj
def adapters(settings: Settings, counters: bool) -> None:
    """Adapters: up or down since when, and why.

    Without a daemon: which are configured, and which others are installed.
    """
    try:
        found = settings.client().get("/v1/adapters")
    except CommandError as error:
        if error.code != EXIT_UNREACHABLE:
            raise
        click.echo(f"({error.what}; these are installed)", err=True)
        _installed(settings)
        return
    if settings.as_json:
        show.emit_json(found)
        return
    show.table(
        (
            Column("ADAPTER"), Column("KIND"), Column("STATE"), Column("UP FOR", right=True),
            Column("ENDPOINTS", right=True), Column("LEGS", right=True),
            Column("RESTARTS", right=True), Column("REASON", fold=True),
        ),
        [
            (
                item["name"], item["kind"], item["state"], show.duration(item["up_s"]),
                str(item["endpoints"]), str(item["legs"]), str(item["restarts"]), item["reason"],
            )
            for item in found
        ],
        empty="no adapter is configured",
    )  # fmt: skip
    if counters:
        _counters((item["name"], item["counters"]) for item in found)


def _installed(settings: Settings) -> None:
    """The kinds that can be configured, and those that the configuration names: by the packages'
    metadata, for to import them all would take a second."""
    from importlib.metadata import entry_points

    points = {point.name: point for point in entry_points(group="gateway.adapters")}
    sections = _sections(find_config(settings.config))
    rows = []
    for kind in sorted({*points, *sections.values()}):
        reason = _missing(points[kind]) if kind in points else f"no adapter is called {kind!r}"
        for name in [name for name, of in sections.items() if of == kind] or [""]:
            state = "unusable" if reason else "not running" if name else "not configured"
            rows.append({"name": name, "kind": kind, "state": state, "reason": reason})
    if settings.as_json:
        show.emit_json(rows)
        return
    show.table(
        (Column("ADAPTER"), Column("KIND"), Column("STATE"), Column("REASON", fold=True)),
        [(row["name"], row["kind"], row["state"], row["reason"]) for row in rows],
        empty="no adapter is installed",
    )


def _missing(point: EntryPoint) -> str:
    """Which package an optional adapter lacks; empty: none."""
    from importlib.metadata import PackageNotFoundError, version

    for wanted in (point.dist.requires or []) if point.dist else []:
        package, _, marker = wanted.partition(";")
        if re.search(rf"extra *== *[\"']{re.escape(point.name)}[\"']", marker):
            found = re.match(r"[A-Za-z0-9._-]+", package)
            try:
                version(found[0] if found else package)
            except PackageNotFoundError:
                return f"{package.strip()} is missing (pip install '{package.strip()}')"
    return ""


def _sections(file: str) -> dict[str, str]:
    """Name and kind of the adapters that a file configures; none when it cannot be read."""
    import tomllib
    from pathlib import Path

    try:
        found = tomllib.loads(Path(file).read_text()).get("adapters", {})
        return {name: str(section.get("kind", name)) for name, section in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


@click.command()
@json_option
@click.argument("pattern", required=False, default="", shell_complete=complete_endpoint)
@click.option("--down", is_flag=True, help="Only those that are down.")
@click.option("--counters", is_flag=True, help="Show what the adapters counted.")
@click.option("--detail", is_flag=True, help="Everything about each of them.")
@click.pass_obj
def endpoints(settings: Settings, pattern: str, down: bool, counters: bool, detail: bool) -> None:
    """Endpoints: condition, calls, inputs, counters.

    PATTERN chooses some: 'fxs/*', sip/telco. Counters are kept by the adapter, for all of its
    endpoints together.
    """
    found = settings.client().get(
        "/v1/endpoints", endpoint=pattern, condition="down" if down else ""
    )
    if not found and pattern and not down:
        raise CommandError(f"there is no endpoint {pattern}", remedy="gateway endpoints lists them")
    if settings.as_json:
        show.emit_json(found)
        return
    if detail:
        for item in found:
            _endpoint(item)
        return
    show.table(
        (
            Column("ENDPOINT"), Column("NUMBER"), Column("CONDITION"), Column("IN USE", fold=True),
            Column("LABEL", fold=True), Column("REASON", fold=True),
        ),
        [
            (
                item["id"], item["number"], item["condition"], _in_use(item), item["label"],
                item["reason"],
            )
            for item in found
        ],
        empty="no endpoint is down" if down else "there is no such endpoint",
    )  # fmt: skip
    if counters:
        _counters({item["adapter"]: item["counters"] for item in found}.items())


def _in_use(item: dict[str, Any]) -> str:
    legs = item["legs"]
    if not legs:
        return ""
    if item["capacity"] == 1:
        return f"{legs[0]['state']} {show.short(legs[0]['call'])}"
    return f"{len(legs)} of {item['capacity'] or 'any number'}"


def _counters(groups: Any) -> None:
    rows = [(name, key, str(n)) for name, counts in groups for key, n in counts.items()]
    click.echo()
    show.table(
        (Column("ADAPTER"), Column("COUNTER"), Column("COUNT", right=True)),
        rows,
        empty="nothing was counted",
    )


def _endpoint(item: dict[str, Any]) -> None:
    values = {each["input"]: each for each in item["inputs"]}
    show.facts(
        (
            ("endpoint", item["id"]),
            ("label", item["label"]),
            ("location", item["location"]),
            ("number", item["number"]),
            ("adapter", item["adapter"]),
            ("condition", item["condition"]),
            ("reason", item["reason"]),
            ("speech", item["duplex"]),
            ("can be called", "yes" if item["can_ring"] else "no"),
            ("legs at a time", str(item["capacity"] or "any number")),
            ("in use", ", ".join(f"{leg['leg']} {leg['state']}" for leg in item["legs"])),
            ("panel", item["panel"]),
            ("outputs", ", ".join(item["outputs"])),
            *(
                (f"input {name}", f"{each['value']:g} ({each.get('quality', 'good')})")
                for name, each in values.items()
            ),
            *sorted(item["detail"].items()),
            *(
                (f"test {test['kind']}", _tested(test))
                for test in sorted(item["tests"], key=lambda test: str(test["kind"]))
            ),
        )
    )
    click.echo()


def _tested(test: dict[str, Any]) -> str:
    words = [f"{'ok' if test['ok'] else 'FAILED'}: {test['verdict']}"]
    if test["detail"]:
        words.append(test["detail"])
    if test["listen"]:
        words.append(f"heard by {test['listen']}")
    words += [f"{what} {value}" for what, value in figures_in_words(test["figures"])]
    words.append(f"{show.duration(test['age_s'])} ago")
    if test["waiting"]:
        words.append(f"put off since: {test['waiting']}")
    return ", ".join(words)


def figures_in_words(figures: dict[str, float]) -> list[tuple[str, str]]:
    """What a test measured, and with its unit how much."""
    found = []
    for name, value in figures.items():
        what, _, unit = name.rpartition("_")
        shown = {"db": "dB", "dbm0": "dBm0", "hz": "Hz", "percent": "%"}.get(unit, unit)
        # A band is named by its frequency: "band_300_db".
        what = f"gain at {what[5:]} Hz" if what.startswith("band_") else what.replace("_", " ")
        found.append((what, f"{value:.0f}" if unit == "n" else f"{value:.1f} {shown}"))
    return found


@click.command()
@json_option
@click.argument("pattern", required=False, default="", shell_complete=complete_endpoint)
@click.option(
    "--watch", "--follow", "watch", is_flag=True, help="Keep the table live until Ctrl-C."
)
@click.option(
    "--every", type=click.FloatRange(0.2, 3600), default=1.0, show_default=True, metavar="SECONDS",
    help="How often to look again.",
)  # fmt: skip
@click.pass_obj
def calls(settings: Settings, pattern: str, watch: bool, every: float) -> None:
    """Calls that are up now: who talks to whom.

    PATTERN chooses those with such an endpoint: 'fxs/*'. With --watch and a pipe, or --json, a
    new table or document is written whenever something but the time has changed.
    """
    client = settings.client()

    def ask() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = client.get("/v1/calls", endpoint=pattern)
        return found

    if watch:
        _watch(settings, ask, every)
        return
    found = ask()
    if settings.as_json:
        show.emit_json(found)
    else:
        show.table(_CALLS, _call_rows(found), empty="no calls")


def _watch(settings: Settings, ask: Callable[[], list[dict[str, Any]]], every: float) -> None:
    if show.terminal() and not settings.as_json:
        live = show.Live()
        for found in _looks(ask, every):
            width = shutil.get_terminal_size((80, 24)).columns
            head = f"{show.clock(time.time())}  {len(found)} calls (Ctrl-C ends)"
            rows = list(_call_rows(found))
            live.draw([head, *show.layout(_CALLS, rows, width=width, colour=show.colours())]
                      if rows else [head])  # fmt: skip
        return
    before: Any = None
    for found in _looks(ask, every):
        present = [(call["id"], call["state"], [leg["state"] for leg in call["legs"]])
                   for call in found]  # fmt: skip
        if present == before:
            continue
        before = present
        if settings.as_json:
            show.emit_line({"at": time.time(), "calls": found})
            continue
        click.echo(f"-- {show.clock(time.time())}  {len(found)} calls")
        if found:
            click.echo("\n".join(show.layout(_CALLS, list(_call_rows(found)))))


def _looks(ask: Callable[[], list[dict[str, Any]]], every: float) -> Iterator[list[dict[str, Any]]]:
    while True:
        yield ask()
        time.sleep(every)


def _impaired(call: dict[str, Any]) -> list[str]:
    """What is wrong with its audio, of any leg."""
    return sorted({word for leg in call["legs"] for word in leg.get("impaired", ())})


def _call_rows(found: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for call in found:
        origins = [leg["endpoint"] for leg in call["legs"] if leg["direction"] == "in"]
        others = [leg for leg in call["legs"] if leg["direction"] == "out"]
        if not origins and others:
            # Asked for by an operator or an alarm: the gateway dialled both sides.
            origins, others = [others[0]["endpoint"]], others[1:]
        number = next((leg["number"] for leg in call["legs"] if leg["number"]), "")
        talking = call["state"] in ("connected", "held") and call["answered_s"] is not None
        since = call["answered_s"] if talking else call["age_s"]
        yield (
            show.short(call["id"]),
            ",".join(origins),
            ",".join(leg["endpoint"] for leg in others),
            number,
            " ".join([call["state"], *_impaired(call)]),
            show.duration(since),
            call["route"],
        )


@click.command()
@json_option
@click.argument("call", shell_complete=complete_call_or_leg)
@click.pass_obj
def call(settings: Settings, call: str) -> None:
    """One call: legs, codecs, loss, jitter, levels, route; why is there no audio.

    CALL is the end of a call's id as the tables show it, a leg's id (fxs/1#18), or an endpoint
    that has one call (fxs/1). Of one that is over the records of its legs are shown.
    """
    try:
        found = settings.client().get(f"/v1/calls/{quote(call, safe='')}")
    except CommandError:
        if not _over(settings, call):
            raise
        return
    if settings.as_json:
        show.emit_json(found)
        return
    bridge = f"{found['bridge']} {found['room']}".strip()
    show.facts(
        (
            ("call", found["id"]),
            ("trace", found["trace"] if found["trace"] != found["id"] else ""),
            ("state", found["state"]),
            ("priority", found["priority"] if found["priority"] != "routine" else ""),
            ("since", show.duration(found["age_s"])),
            ("answered for", show.duration(found["answered_s"])),
            ("joined as", bridge or "(not joined)"),
            ("route", found["route"] or "(none)"),
            ("why", found["why"]),
        )
    )
    for refusal in found["refusals"]:
        click.echo(f"  not {show.clean(refusal['route'])}: {show.clean(refusal['reason'])}")
    for leg in found["legs"]:
        click.echo()
        _leg(leg)
    click.echo()
    if not found["findings"]:
        click.echo("audio: nothing suspicious")
    for finding in found["findings"]:
        click.echo(f"! {show.clean(finding['leg'])}: {show.clean(finding['what'])}")
        click.echo(f"    -> {show.clean(finding['remedy'])}")


def _over(settings: Settings, call: str) -> bool:
    """Show the records of a call that is over; False when there is none."""
    client = settings.client()
    recent = client.get("/v1/records/legs", limit=1000)
    calls = client.get("/v1/records/calls", limit=1000)
    ids = {item["id"] for item in calls if item["call"].endswith(call)}
    ids |= {item["call"] for item in recent if item["leg"] == call}
    found = [item for item in recent if item["call"] in ids]
    if not found:
        return False
    if settings.as_json:
        show.emit_json(found)
        return True
    for item in sorted(found, key=lambda each: each["offered_at"]):
        show.facts(
            (
                (
                    "leg",
                    f"{item['leg']} ({'called us' if item['direction'] == 'in' else 'called'})",
                ),
                ("state", "over"),
                ("ended", show.clock(item["ended_at"], date=True)),
                ("talked", show.duration(item["talk_s"])),
                ("number", item["called"]),
                ("route", item["route"]),
                ("ending", f"{item['cause']} {item['detail']}".strip()),
                ("played by", item["played"]),
                ("no sign from", item["missing"]),
            )
        )
        click.echo()
    return True


def _leg(leg: dict[str, Any]) -> None:
    audio = leg["audio"]
    marks = [name for name in ("early", "floor", "keyed") if leg[name]]
    marks += leg.get("impaired", ())
    show.facts(
        (
            ("leg", f"{leg['id']} ({'called us' if leg['direction'] == 'in' else 'we called it'})"),
            ("state", leg["state"]),
            ("for", show.duration(leg["age_s"])),
            ("number", leg["number"]),
            ("caller", " ".join(part for part in (leg["calling"], leg["display"]) if part)),
            ("also", ", ".join(marks)),
            ("ending", f"{leg['cause']} {leg['detail']}".strip()),
            ("played by", ", ".join(f"{m['name']} ({m['by']})" for m in leg["played"])),
            ("no sign from", ", ".join(leg["missing"])),
        )
    )
    if audio is None:
        show.facts((("audio", "none"),))
        return
    expected = audio["packets_received"] + audio["packets_lost"]
    loss = 100.0 * audio["packets_lost"] / expected if expected else 0.0
    trip, agc = audio["round_trip_ms"], audio.get("agc_db")
    show.facts(
        (
            ("codec", audio["codec"] or "(none)"),
            ("between", f"{audio['local']} and {audio['remote'] or '?'}" if audio["local"] else ""),
            (
                "received",
                f"{audio['packets_received']} packets, {audio['packets_lost']} lost "
                f"({loss:.1f} %), {audio['packets_late']} late, {audio['packets_refused']} refused",
            ),
            (
                "srtp",
                f"{audio['srtp_suite']}, {audio['srtp_failed']} packets failed, "
                f"{audio['srtp_replayed']} replayed"
                if audio.get("srtp_suite")
                else "",
            ),
            (
                "sent",
                f"{audio['packets_sent']} packets, far end lost "
                f"{audio['remote_loss_percent']:.1f} %",
            ),
            (
                "jitter",
                f"{audio['jitter_ms']:.1f} ms, buffer {audio['buffer_ms']} ms, "
                f"{audio['frames_concealed']} frames concealed"
                + (f", round trip {trip:.0f} ms" if trip is not None else ""),
            ),
            ("heard here", _quality(audio.get("quality"))),
            ("heard there", _quality(audio.get("remote_quality"))),
            (
                "level",
                f"in {show.level(audio['level_in_dbm0'])}, "
                f"out {show.level(audio['level_out_dbm0'])} dBm0"
                + (f", silent for {audio['silent_s']:.0f} s" if audio["silent_s"] >= 1 else "")
                + (f", gain control {agc:+.0f} dB" if agc is not None else ""),
            ),
            ("echo", _echo(audio)),
        )
    )


def _quality(found: dict[str, Any] | None) -> str:
    """VoIP metrics of one direction in a line; empty when there are none."""
    if not found:
        return ""
    bad = f"{found['loss_percent']:.1f} % lost, {found['discard_percent']:.1f} % too late"
    if found["burst_ms"]:
        bad += f", in bursts of {found['burst_ms']} ms"
    rated = ""
    if found["r_factor"] is not None:
        rated = f"R {found['r_factor']}"
    if found["mos_cq"] is not None:
        rated += f"{' ' if rated else ''}(MOS {found['mos_cq']:.1f})"
    return f"{rated}, {bad}" if rated else bad


def _echo(audio: dict[str, Any]) -> str:
    if not audio.get("echo_tail_ms"):
        return ""
    if audio["echo_delay_ms"] is None:
        return f"canceller for {audio['echo_tail_ms']} ms, no echo found"
    found = f"{audio['echo_delay_ms']} ms behind what we send"
    if audio["erle_db"] is None:
        return f"{found}, not measured yet"
    return (
        f"{found}, {audio['erl_db']:.0f} dB weaker, cancelled by {audio['erle_db']:.0f} dB (ERLE)"
    )


@click.group(invoke_without_command=True)
@json_option
@click.option("--active", is_flag=True, help="Only those that nobody has taken in hand.")
@click.option("--endpoint", default="", metavar="PATTERN", shell_complete=complete_alarm)
@click.pass_context
def alarms(ctx: click.Context, active: bool, endpoint: str) -> None:
    """Alarms; 'alarms ack ENDPOINT [ALARM]' acknowledges.

    TOLD says whether people are being called now. An alarm without a route reaches nobody.
    """
    if ctx.invoked_subcommand:
        return
    settings: Settings = ctx.obj
    found = settings.client().get("/v1/alarms", endpoint=endpoint, state="active" if active else "")
    if settings.as_json:
        show.emit_json(found)
        return
    show.table(
        (
            Column("ENDPOINT"), Column("ALARM"), Column("SEVERITY"), Column("STATE"),
            Column("AGE", right=True), Column("TOLD"), Column("ROUTE", fold=True),
            Column("TEXT", fold=True),
        ),
        [
            (
                item["endpoint"], item["alarm"], item["severity"], item["state"],
                show.duration(item["age_s"]), "now" if item["being_told"] else "",
                item["route"] or "NONE", f"by {item['by']}" if item["by"] else item["text"],
            )
            for item in found
        ],
        empty="no alarms",
    )  # fmt: skip


@alarms.command()
@json_option
@click.argument("endpoint", shell_complete=complete_alarm)
@click.argument("alarm", required=False, default="")
@click.pass_obj
def ack(settings: Settings, endpoint: str, alarm: str) -> None:
    """Acknowledge an alarm: its pages and calls stop, its source is told.

    Without ALARM every active alarm of the endpoint. Who did it is journalled.
    """
    done = settings.client().post("/v1/acknowledge", endpoint=endpoint, alarm=alarm)
    if settings.as_json:
        show.emit_json(done)
        return
    for name in done["alarms"]:
        click.echo(f"acknowledged {show.clean(endpoint)} {show.clean(name)}")
