"""Command that tests the path to an endpoint."""

from __future__ import annotations

from typing import Any

from gateway.cli import Settings, show
from gateway.cli import lazily as click
from gateway.cli.brief import Done
from gateway.cli.options import complete_endpoint, json_option
from gateway.cli.places import figures_in_words

_DEFAULT_S = {"tone": 10.0, "loop": 2.0, "acoustic": 3.0}
_WORK_S = 90.0


@click.command()
@json_option
@click.argument("endpoint", shell_complete=complete_endpoint)
@click.option("--tone", "tone_hz", type=click.FloatRange(100, 3800), metavar="HZ", is_flag=False,
              flag_value=1004.0, help="Play a tone [1004 Hz]; measure hum, noise, DC.")  # fmt: skip
@click.option("--loop", is_flag=True, help="Send noise; what comes back: delay, loss, echo.")
@click.option("--acoustic", is_flag=True, help="From the loudspeaker to the microphone.")
@click.option("--listen", metavar="ENDPOINT", default="", shell_complete=complete_endpoint,
              help="Acoustic: the microphone, or radio, that hears it.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0.5, 30), help="How long is played.")
@click.option("--level", "level_dbm0", type=click.FloatRange(-60, 0), default=-10.0,
              show_default=True, metavar="DBM0", help="Level of what is played.")  # fmt: skip
@click.option("--ring", "ring_s", type=click.FloatRange(1, 300), default=30.0, show_default=True,
              metavar="SECONDS", help="How long it may ring.")  # fmt: skip
@click.option("--expect", type=click.Choice(["closed", "open", "hybrid"]), default=None,
              help="Loop: what is good.")  # fmt: skip
@click.option("--transmit", is_flag=True, help="A transmitter may be keyed for it.")
@click.option("--baseline", is_flag=True, help="What is found is good: hold later tests to it.")
@click.pass_obj
def test(
    settings: Settings,
    endpoint: str,
    tone_hz: float | None,
    loop: bool,
    acoustic: bool,
    listen: str,
    seconds: float | None,
    level_dbm0: float,
    ring_s: float,
    expect: str | None,
    transmit: bool,
    baseline: bool,
) -> None:
    """Test the path to an endpoint with a call of the gateway's own.

    The call makes room for any other; on a line that is in use there is no test. Without --tone,
    --loop or --acoustic it is a loop test. ENDPOINT may carry a number: fxo/1:5551004. Exit code
    0: it is good; 1: it is not, or could not be carried out.

    \b
    gateway test fxs/2                       the line, and what comes back
    gateway test sip/help-3 --acoustic       loudspeaker and microphone
    gateway test radio/north --acoustic --listen radio/monitor --transmit
    """
    kinds = [name for name, given in (("tone", tone_hz), ("loop", loop), ("acoustic", acoustic))
             if given]  # fmt: skip
    if len(kinds) > 1:
        raise click.UsageError(f"--{' and --'.join(kinds)}: one at a time")
    kind = kinds[0] if kinds else "loop"
    if listen and kind != "acoustic":
        raise click.UsageError("--listen is for --acoustic")
    if expect and kind != "loop":
        raise click.UsageError("--expect is for --loop")
    body: dict[str, Any] = {
        "endpoint": endpoint, "kind": kind, "level_dbm0": level_dbm0, "listen": listen,
        "ring_s": ring_s, "transmit": transmit, "baseline": baseline, "expect": expect or "",
    }  # fmt: skip
    if seconds is not None:
        body["seconds"] = seconds
    if tone_hz:
        body["tone_hz"] = tone_hz
    within_s = ring_s + (seconds or _DEFAULT_S[kind]) + _WORK_S
    found = settings.client().post("/v1/test", within_s=within_s, **body)
    if settings.as_json:
        show.emit_json(found)
    else:
        _show(found, baseline)
    if not found["ok"]:
        raise Done(1)


def _show(found: dict[str, Any], baseline: bool) -> None:
    kept = ""
    if baseline:
        kept = "kept: later tests are held to this" if found["baseline"] else "NOT kept"
    show.facts(
        (
            ("endpoint", found["endpoint"]),
            ("test", found["kind"]),
            ("verdict", found["verdict"] + _mark(found)),
            ("detail", found["detail"]),
            *figures_in_words(found["figures"]),
            ("baseline", kept),
            ("more", "" if found["ok"] else f"gateway trace {show.short(found['trace'])}"),
        )
    )


def _mark(found: dict[str, Any]) -> str:
    if not found["judged"]:
        return " (not tested)"
    return "" if found["ok"] else " (NOT GOOD)"
