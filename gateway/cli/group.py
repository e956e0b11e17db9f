"""All commands together, as click has them."""

from __future__ import annotations

import sys
from typing import Any

import click

from gateway.cli import COMMANDS, HELP, ReaderGone, Settings, declaration
from gateway.cli.brief import Command


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        declared = declaration(cmd_name)
        command: click.Command = declared.made() if isinstance(declared, Command) else declared
        command.short_help = HELP[cmd_name]
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=2)
            if not close:
                raise
            meant = " or ".join(close)
            raise click.UsageError(f"{error.message} Did you mean {meant}?", ctx) from None

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except BrokenPipeError:
            raise ReaderGone from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            found = super().invoke(ctx)
            # What is still in the buffer must meet the broken pipe here, not at the very end.
            sys.stdout.flush()
        except BrokenPipeError:
            # Click would make it a failure: exit code 1.
            raise ReaderGone from None
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # From the table: `--help` must not import every command.
        with formatter.section("Commands"):
            formatter.write_dl(list(HELP.items()))


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
