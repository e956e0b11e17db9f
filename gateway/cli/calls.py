"""``gateway calls``: who talks to whom."""

from __future__ import annotations

import time

from gateway.cli import Settings, show
from gateway.cli import lazily as click
from gateway.cli.options import complete_endpoint, json_option
from gateway.cli.show import Column

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Final

_CALLS: Final = (
    Column("CALL"), Column("FROM"), Column("TO"), Column("NUMBER"), Column("STATE"),
    Column("TIME", right=True), Column("ROUTE", fold=True),
)  # fmt: skip


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
        # The table has no use for the counters of the streams.
        found: list[dict[str, Any]] = client.get(
            "/v1/calls", endpoint=pattern, hints={"audio": settings.as_json}
        )
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
            width = show.size().columns
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
