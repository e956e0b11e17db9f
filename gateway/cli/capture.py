"""``gateway capture``: SIP, RTP and all other wires as a pcapng file."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import IO

from gateway.cli import Settings, show
from gateway.cli import lazily as click
from gateway.cli.options import complete_call_or_leg, json_option, seconds
from gateway.client import CommandError


@click.command()
@json_option
@click.argument(
    "which", metavar="[ID|CALL|last|next]", default="", shell_complete=complete_call_or_leg
)
@click.option("--follow", "-f", is_flag=True, help="Go on until the call is over, or Ctrl-C.")
@click.option("--last", type=seconds, metavar="TIME", help="Everything of the last 90s, 5m.")
@click.option("--output", "-o", metavar="FILE", default="", help="File; '-': standard output.")
@click.option("--decrypted", is_flag=True, help="With -f: SRTP as what it holds, not encrypted.")
@click.option("--no-media", is_flag=True, help="Without RTP and RTCP: nobody's words.")
@click.pass_obj
def capture(
    settings: Settings,
    which: str,
    follow: bool,
    last: float | None,
    output: str,
    no_media: bool,
    decrypted: bool,
) -> None:
    """SIP, RTP and all other wires of a call as a pcapng file, for Wireshark, tshark, sngrep.

    The argument is as for 'trace'. With -f the audio is captured from now on, both ways; without
    it, and with --last, the file has what is remembered: signalling of the last ten minutes, and
    audio as far as the configuration says capture.rtp_s. The file is named by its trace.

    \b
      gateway capture next -f -o - | tshark -r -     watch the next call
      gateway capture --last 5m -o night.pcapng      what has just gone wrong

    MQTT, Modbus, serial lines, DAHDI and radio are in it too, with names in place of addresses
    (tshark -N n), and every packet says in a comment whose it is. Passwords, keys and pressed
    digits are not; what people said is, and tones that they keyed while speaking. SRTP is in it as
    on the wire, without its keys; --decrypted writes what it holds.
    """
    if bool(which) == (last is not None):
        raise click.UsageError("give either a call (or 'last', 'next') or --last TIME")
    if last is not None and follow:
        raise click.UsageError("--last is over: it cannot be followed")
    if decrypted and not follow:
        raise click.UsageError("only what comes can be decrypted: give -f too")
    parts = settings.client().octets(
        "/v1/capture",
        id=which,
        follow=follow,
        last_s=last,
        media=not no_media,
        decrypted=decrypted,
    )
    # What is refused is refused before a file is made.
    first = next(parts, b"")
    if not first:
        raise CommandError("the gateway ended the answer")
    file = output or f"{_trace_in(first) or 'capture'}.pcapng"
    if decrypted:
        click.echo("warning: encrypted audio is written in the clear", err=True)
    if not no_media:
        click.echo("(the file may hold what people say: treat it as a recording)", err=True)
    n_octets = 0
    with _opened(file) as out:
        try:
            n_octets += out.write(first)
            out.flush()
            for part in parts:
                n_octets += out.write(part)
                out.flush()
        except KeyboardInterrupt:
            if not follow:
                raise
        except BrokenPipeError:
            raise
        except OSError as error:
            raise CommandError(f"{file}: {error.strerror}") from None
    if file == "-":
        return
    if settings.as_json:
        show.emit_json({"file": file, "bytes": n_octets})
    else:
        click.echo(f"{file}: {n_octets} octets")


def _opened(file: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    if file == "-":
        if sys.stdout.isatty():
            raise click.UsageError("standard output is a terminal: give -o FILE, or a pipe")
        return contextlib.nullcontext(sys.stdout.buffer)
    try:
        # What people said is nobody else's business.
        made = os.open(Path(file), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from None
    return open(made, "wb", closefd=True)


def _trace_in(first: bytes) -> str:
    """The trace that the file's first comment names."""
    import re

    found = re.search(rb"trace ([0-9A-Za-z_-]{1,64}) on ", first)
    return found[1].decode() if found else ""
