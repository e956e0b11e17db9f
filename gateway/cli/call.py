"""``gateway call``: one call in all detail."""

from __future__ import annotations

from gateway.cli import Settings, show
from gateway.cli import lazily as click
from gateway.cli.options import complete_call_or_leg, json_option
from gateway.client import CommandError
from gateway.unix_http import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@click.command()
@json_option
@click.argument("call", shell_complete=complete_call_or_leg)
@click.pass_obj
def call(settings: Settings, call: str) -> None:
    """One call: legs, codecs, loss, jitter, levels, route; why is there no audio.

    CALL is the end of a call's or trace's id as the tables show it, a leg's id (fxs/1#18), an
    endpoint that has one call (fxs/1), or 'last'. Of one that is over the records of its legs are
    shown.
    """
    try:
        found = settings.client().get(f"/v1/calls/{quoted(call)}")
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
    wanted = call.lower()
    ids = {
        item["id"]
        for item in calls
        if item["call"].endswith(wanted) or item["trace"].endswith(wanted)
    }
    ids |= {item["call"] for item in recent if item["leg"] == call}
    if wanted == "last" and calls:
        newest = max(calls, key=lambda item: float(item["demanded_at"]))
        ids = {item["id"] for item in calls if item["trace"] == newest["trace"]}
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
                "followed",
                f"{moves} times to another port" if (moves := audio.get("moves", 0)) else "",
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
