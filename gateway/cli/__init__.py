"""The command line: ``gateway``. A command is imported when it is called, not before; click, when
a command line needs it (`gateway.cli.brief`)."""

from __future__ import annotations

import os
import sys

from gateway.cli.brief import Command, Done, echo
from gateway.client import (
    EXIT_FAILED,
    EXIT_UNREACHABLE,
    Client,
    CommandError,
    Unsaid,
    find_socket,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final

COMMANDS: Final = {
    "status": "status",
    "top": "top",
    "adapters": "places",
    "endpoints": "places",
    "calls": "calls",
    "call": "call",
    "alarms": "alarms",
    "explain": "plan",
    "check": "plan",
    "doctor": "doctor",
    "dial": "act",
    "test": "test",
    "hangup": "act",
    "safe-state": "act",
    "reload": "reload",
    "stop": "act",
    "events": "history",
    "diag": "diag",
    "trace": "trace",
    "capture": "capture",
    "replay": "replay",
    "records": "history",
    "stats": "history",
    "support-bundle": "doctor",
    "run": "daemon",
    "lab": "lab",
    "completion": "complete",
}
"""Command and the module of this package that has it, in the order of ``--help``."""

HELP: Final = {
    "status": "Is everything well? The gateway in one screen.",
    "top": "Live: health, alarms, calls, levels, floor holders; keys to dig and hang up.",
    "adapters": "Adapters: up or down since when, and why.",
    "endpoints": "Endpoints: condition, calls, inputs, counters.",
    "calls": "Calls that are up now; --watch keeps the table live.",
    "call": "One call: legs, codecs, loss, jitter, levels, route; why is there no audio.",
    "alarms": "Alarms; 'alarms ack' acknowledges.",
    "explain": "Which route would take a call or alarm, and why the others do not.",
    "check": "Check a configuration without running it.",
    "doctor": "Check a box before it goes live; what to type.",
    "dial": "Call one place, then another, and connect both.",
    "test": "Test the path to an endpoint: tone, loop, loudspeaker and microphone.",
    "hangup": "End a call or a leg.",
    "safe-state": "Release transmitters, open relays, hang up lines: now.",
    "reload": "Use the changed configuration; says first what changes and whom it touches.",
    "stop": "Stop the gateway, after the present calls if wanted.",
    "events": "Events and actions, live or from the journal.",
    "diag": "What was wrong with a call: the faulty layer and the remedy, in one sentence.",
    "trace": "One timeline of a call or alarm over all networks.",
    "capture": "SIP, RTP and all other wires of a call as a file for Wireshark.",
    "replay": "Run a journal through the switchboard again, or make a test of it.",
    "records": "Call detail records.",
    "stats": "Contact-centre measures from the records.",
    "support-bundle": "Pack what a helper far away needs, without secrets.",
    "run": "Run the gateway.",
    "lab": "A gateway with every network around it, without hardware.",
    "completion": "Print the shell's completion script.",
}


_OTHERS: Final = frozenset(("click", "threading"))
"""With these something may be left to do at the end."""


class Settings:
    """What stands before the command."""

    def __init__(self, socket: str | None, config: str | None, as_json: bool) -> None:
        self.socket, self.config, self.as_json = socket, config, as_json

    def client(self) -> Client:
        """The daemon's client."""
        return Client(find_socket(self.socket, self.config))


class ReaderGone(Exception):
    """`gateway events | head`: the reader has what it wanted."""


def main(args: list[str] | None = None) -> None:
    """Run the command line; ends the process with a documented exit code."""
    words = sys.argv[1:] if args is None else args
    code: Any = 0
    try:
        if not _briefly(words):
            code = _by_click(words)
    except CommandError as error:
        _complain(error, "--json" in words)
        code = error.code
    except Unsaid as error:
        # What a newer one says besides is passed over; what an older one does not say is missed.
        lacks = f"the gateway's answer lacks {error}: it is of another version than this command"
        _complain(
            CommandError(lacks, remedy="gateway --version; systemctl restart crosspoint"),
            "--json" in words,
        )
        code = EXIT_FAILED
    except Done as done:
        code = done.code
    except KeyboardInterrupt:
        code = 130
    except (ReaderGone, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    if args is None and not _OTHERS.intersection(sys.modules):
        # Nothing is open any more; to take the interpreter apart takes a tenth of a command's time.
        os._exit(code if isinstance(code, int) else 0)
    sys.exit(code if isinstance(code, int) else 0)


def _briefly(words: Sequence[str]) -> bool:
    """Run what can be understood without click, which takes longer to import than all the rest;
    False: nothing was done, click has to look at it. Raises as the command does."""
    settings, at = Settings(None, None, False), 0
    while at < len(words) and words[at].startswith("-"):
        name, equals, text = words[at].partition("=")
        if words[at] == "--json":
            settings.as_json = True
        elif name in ("--socket", "--config"):
            if not equals:
                at += 1
                text = words[at] if at < len(words) else "-"
            if text.startswith("-"):
                return False
            setattr(settings, name[2:], text)
        else:
            return False
        at += 1
    if "_GATEWAY_COMPLETE" in os.environ or at == len(words) or words[at] not in COMMANDS:
        return False
    declared = declaration(words[at])
    if not isinstance(declared, Command):
        return False
    found = declared.understood(settings, words[at + 1 :])
    if found is None:
        return False
    try:
        declared.run(settings, found)
    except Exception as error:
        click = sys.modules.get("click")
        if click is not None and isinstance(error, click.exceptions.Abort):
            raise Done(130) from None
        if click is None or not isinstance(error, click.UsageError):
            raise
        # It has not begun, and click says best how the command is used.
        return False
    return True


def declaration(command: str) -> Any:
    """What a command of `COMMANDS` was declared as: a `Command`, or one of click's."""
    name = command.replace("-", "_")
    return getattr(__import__(f"gateway.cli.{COMMANDS[command]}", fromlist=[name]), name)


def _by_click(words: Sequence[str]) -> Any:
    import click

    from gateway.cli.group import gateway

    try:
        return gateway.main(args=list(words), prog_name="gateway", standalone_mode=False)
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code


def _complain(error: CommandError, as_json: bool) -> None:
    from gateway.cli.show import clean

    if as_json:
        import json

        document: dict[str, Any] = {"error": error.what, "remedy": error.remedy, "code": error.code}
        echo(json.dumps(document, ensure_ascii=False), err=True)
        return
    for line in error.what.splitlines():
        echo(f"gateway: {clean(line)}", err=True)
    if error.remedy:
        echo(f"  -> {clean(error.remedy)}", err=True)


__all__ = ["EXIT_FAILED", "EXIT_UNREACHABLE", "Settings", "main"]
