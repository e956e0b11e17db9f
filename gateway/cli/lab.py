"""``gateway lab``: the lab without hardware, and everything a person could do in it."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import click

from gateway.client import CommandError
from gateway.errors import DeviceError


class _Verbs(click.Group):
    """The verbs are known to the lab; this group only passes them on."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from gateway.lab.verbs import HELP

        return ["run", *HELP]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from gateway.lab.verbs import HELP

        with formatter.section("Commands"):
            start = ("run", "start the lab, play the tour, then stay up")
            verbs = [(f"{verb} {usage}", what) for verb, (usage, what) in HELP.items()]
            formatter.write_dl([start, *verbs])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from gateway.lab.verbs import HELP

        if cmd_name == "run":
            return run
        if cmd_name not in HELP:
            return None
        usage, what = HELP[cmd_name]

        @click.command(
            cmd_name,
            help=what[:1].upper() + what[1:] + ".",
            options_metavar=usage,
            context_settings={"ignore_unknown_options": True},
        )
        @click.argument("arguments", nargs=-1, metavar="")
        def verb(arguments: tuple[str, ...]) -> None:
            import shlex

            from gateway.lab.verbs import send

            try:
                click.echo(send(shlex.join([cmd_name, *arguments])))
            except DeviceError as error:
                raise CommandError(str(error)) from None

        return verb


@click.command(cls=_Verbs)
def lab() -> None:
    """The lab: every network that the gateway knows, around a gateway, without hardware.

    `gateway lab run` starts it; the other commands do what a person could do in it.
    """


@click.command()
@click.option("--no-tour", is_flag=True, help="Set up and wait, without the tour.")
@click.option("--leave", is_flag=True, help="End after the tour.")
def run(no_tour: bool, leave: bool) -> None:
    """Start the lab, play the tour, then stay up."""
    code = asyncio.run(_run(tour=not no_tour, stay=not leave))
    if code:
        raise SystemExit(code)


async def _run(*, tour: bool, stay: bool) -> int:
    from gateway.lab.stand import Stand
    from gateway.lab.tour import Failed, Tour
    from gateway.lab.verbs import Verbs

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    stand = Stand()
    try:
        click.echo("Starting the gateway and everything around it ...")
        await stand.__aenter__()
    except DeviceError as error:
        raise CommandError(str(error)) from None
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_exit(stand)
        await stack.enter_async_context(Verbs(stand))
        click.secho("The lab is up.", bold=True)
        if tour:
            work = asyncio.create_task(Tour(stand).play())
            ending = asyncio.create_task(stopped.wait())
            await asyncio.wait({work, ending}, return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
            if not work.done():
                work.cancel()
                return 130
            try:
                work.result()
            except Failed as error:
                click.secho(f"\nThe tour failed: {error}", fg="red")
                click.echo(f"The gateway's log is {stand.directory / 'gateway.log'}.")
                return 1
        if stay:
            click.echo()
            for name, address in stand.addresses.items():
                click.echo(f"  {name:14} {address}")
            click.echo(
                "\nTry, in another terminal (after `. .venv/bin/activate`):\n"
                "  gateway lab dial 2 11     telephone 2 calls telephone 1\n"
                "  gateway lab alarm         a fire; `lift 1` and `press 1 1` take it in hand\n"
                "  gateway calls             who is talking to whom\n"
                "\n`gateway lab --help` lists what else your hands can do. Ctrl-C ends the lab."
            )
            await stopped.wait()
    return 0
