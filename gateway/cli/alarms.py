"""``gateway alarms``: which there are, and taking them in hand."""

from __future__ import annotations

from gateway.cli import Settings, show
from gateway.cli import lazily as click
from gateway.cli.options import complete_alarm, json_option
from gateway.cli.show import Column


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
