"""``gateway completion``: what a shell needs to complete commands, options and ids."""

from __future__ import annotations

from gateway.cli import lazily as click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  gateway completion bash | sudo tee /etc/bash_completion.d/gateway
    zsh:   gateway completion zsh > "${fpath[1]}/_gateway"
    fish:  gateway completion fish > ~/.config/fish/completions/gateway.fish

    Ids of endpoints, calls and adapters are completed by asking the gateway.
    """
    from click.shell_completion import get_completion_class

    from gateway.cli.group import gateway

    kind = get_completion_class(shell)
    assert kind is not None, "click knows these shells"
    click.echo(kind(gateway, {}, "gateway", "_GATEWAY_COMPLETE").source())
