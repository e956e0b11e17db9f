"""Offline: what the files of a gateway that does not run still tell."""

from __future__ import annotations

import os

from gateway.cli import Settings
from gateway.cli import lazily as click
from gateway.client import DEFAULT_DATA, EXIT_CONFIG, EXIT_UNREACHABLE, CommandError, find_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from gateway.config import Configuration
    from gateway.kept import Kept
    from gateway.records import Database


def configuration(settings: Settings) -> Configuration:
    """The configuration that the gateway would run with. Raises `CommandError`."""
    from gateway.config import load
    from gateway.errors import ConfigError

    file = find_config(settings.config)
    try:
        return load(file)
    except ConfigError as error:
        raise CommandError(str(error), remedy=f"gateway check {file}", code=EXIT_CONFIG) from None


def last_good(settings: Settings) -> Configuration:
    """The configuration, and where it is wrong, which may be why nothing runs, the one that was in
    use last; says so. Raises `CommandError`."""
    try:
        return configuration(settings)
    except CommandError as error:
        from gateway.config import load
        from gateway.errors import ConfigError

        newest = kept(settings).all()[-1:]
        try:
            found = load(newest[0].path)
        except (ConfigError, IndexError):
            raise error from None
        if not found.journal_dir.exists():
            raise
        click.echo(
            f"({find_config(settings.config)} is wrong: gateway check; this is by configuration "
            f"{newest[0].number}, the last that was in use)",
            err=True,
        )
        return found


def instead(
    settings: Settings, error: CommandError, how: str, *, present: bool = False
) -> Configuration:
    """The configuration, when there is no gateway to ask; says so. present: none but the present
    one will do. Raises `error` if it is another one, `CommandError` when the configuration cannot
    be used."""
    if error.code != EXIT_UNREACHABLE or not _exists(settings):
        # With nothing to fall back on, that no gateway answers is the answer.
        raise error
    found = configuration(settings) if present else last_good(settings)
    click.echo(f"({error.what}; {how})", err=True)
    return found


def _exists(settings: Settings) -> bool:
    return os.path.exists(find_config(settings.config))


def recorded(
    settings: Settings, error: CommandError, how: str, read: Callable[[Database], Any]
) -> Any:
    """What `read` answers from the records, as JSON types. Raises as `instead`, and `error` when
    nothing has been recorded yet."""
    if error.code != EXIT_UNREACHABLE or not _exists(settings):
        raise error
    import msgspec
    import sqlalchemy as sa

    from gateway.errors import GatewayError, UsageError
    from gateway.records import Database

    url = last_good(settings).records_url
    try:
        database = Database(url, read_only=True)
        if database.path is not None and not database.path.exists():
            raise error
        click.echo(f"({error.what}; {how})", err=True)
        try:
            return msgspec.to_builtins(read(database))
        finally:
            database.close()
    except UsageError as wrong:
        raise CommandError(str(wrong)) from None
    except (sa.exc.SQLAlchemyError, GatewayError) as wrong:
        raise CommandError(
            f"the records cannot be read: {getattr(wrong, 'orig', None) or wrong}",
            remedy="try again with sudo",
            code=EXIT_UNREACHABLE,
        ) from None


def kept(settings: Settings) -> Kept:
    """The configurations that were in use, also when the present one cannot be read."""
    import tomllib
    from pathlib import Path

    from gateway.kept import Kept

    found = DEFAULT_DATA
    try:
        with open(find_config(settings.config), "rb") as file:
            found = str(tomllib.load(file)["gateway"]["data_dir"])
    except (OSError, ValueError, KeyError, TypeError):
        # What is wrong with it is perhaps why somebody wants the one before.
        pass
    return Kept(Path(found) / "configurations")
