"""The command line: ``gateway``. Commands are imported when they are called, not before."""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any, Final

import click

from gateway.client import EXIT_FAILED, EXIT_UNREACHABLE, Client, CommandError, find_socket

_COMMANDS: Final = {
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

_HELP: Final = {
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


class Settings:
    """What stands before the command."""

    def __init__(self, socket: str | None, config: str | None, as_json: bool) -> None:
        self.socket, self.config, self.as_json = socket, config, as_json

    def client(self) -> Client:
        """The daemon's client."""
        return Client(find_socket(self.socket, self.config))


class _ReaderGone(Exception):
    """`gateway events | head`: the reader has what it wanted."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"gateway.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        command.short_help = _HELP[cmd_name]
        return command

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except BrokenPipeError:
            raise _ReaderGone from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            found = super().invoke(ctx)
            # What is still in the buffer must meet the broken pipe here, not at the very end.
            sys.stdout.flush()
        except BrokenPipeError:
            # Click would make it a failure: exit code 1.
            raise _ReaderGone from None
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # From the table: `--help` must not import every command.
        with formatter.section("Commands"):
            formatter.write_dl(list(_HELP.items()))


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog="\b\nExit codes:\n"
    "  0  done\n"
    "  1  what was asked for failed or does not exist\n"
    "  2  wrong use of the command\n"
    "  3  the gateway is not reachable (not running, or no permission)\n"
    "  4  the configuration is wrong\n"
    "  130  interrupted (Ctrl-C)",
)
@click.option("--socket", metavar="FILE", help="Control socket [$GATEWAY_SOCKET].")
@click.option("--config", metavar="FILE", help="Configuration [$GATEWAY_CONFIG].")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of tables.")
@click.version_option(package_name="crosspoint-gateway", message="%(prog)s %(version)s")
@click.pass_context
def gateway(ctx: click.Context, socket: str | None, config: str | None, as_json: bool) -> None:
    """Crosspoint: a gateway between SIP, telephones, radio, intercom and alarms.

    Ids of calls may be shortened to their last characters, as the tables show them. --json works
    before and after every command.
    """
    ctx.obj = Settings(socket, config, as_json)


def main(args: list[str] | None = None) -> None:
    """Run the command line; ends the process with a documented exit code."""
    as_json = "--json" in (sys.argv[1:] if args is None else args)
    try:
        code = gateway.main(args=args, prog_name="gateway", standalone_mode=False)
    except CommandError as error:
        _complain(error, as_json)
        code = error.code
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except (_ReaderGone, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _complain(error: CommandError, as_json: bool) -> None:
    from gateway.cli.show import clean

    if as_json:
        document: dict[str, Any] = {"error": error.what, "remedy": error.remedy, "code": error.code}
        click.echo(json.dumps(document, ensure_ascii=False), err=True)
        return
    for line in error.what.splitlines():
        click.echo(f"gateway: {clean(line)}", err=True)
    if error.remedy:
        click.echo(f"  -> {clean(error.remedy)}", err=True)


__all__ = ["EXIT_FAILED", "EXIT_UNREACHABLE", "Settings", "gateway", "main"]
