"""``gateway status``: is everything well?"""

from __future__ import annotations

from gateway.cli import Settings, show
from gateway.cli import lazily as click
from gateway.cli.brief import Done
from gateway.cli.options import json_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


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
        raise Done(1)


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
        n = found["alarms_active"]
        wrong.append(f"{n} {'alarm is' if n == 1 else 'alarms are'} active: gateway alarms")
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
