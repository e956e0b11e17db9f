"""What there is: ``gateway adapters``, ``gateway endpoints``."""

from __future__ import annotations

from gateway.cli import Settings, show
from gateway.cli import lazily as click
from gateway.cli.options import complete_endpoint, json_option
from gateway.cli.show import Column
from gateway.client import EXIT_UNREACHABLE, CommandError, find_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.metadata import EntryPoint
    from typing import Any


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
    import re
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
        import difflib

        names = [item["id"] for item in settings.client().get("/v1/endpoints")]
        close = difflib.get_close_matches(pattern, names, n=2, cutoff=0.7)
        hint = f"did you mean {' or '.join(close)}?" if close else "gateway endpoints lists them"
        raise CommandError(f"there is no endpoint {pattern}", remedy=hint)
    if settings.as_json:
        show.emit_json(found)
        return
    if detail:
        for n, item in enumerate(found):
            if n:
                click.echo()
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
