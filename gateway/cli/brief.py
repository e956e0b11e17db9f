"""Brief: commands that are declared as with click, and run without it where nothing needs it.

To import click takes longer than the gateway takes to answer. So what a command is declared with
is kept here, and made a click command only for what click is good at: help, completion, errors of
usage, values that have a type. A command line that is simpler than that is understood here, and
one that is not, by click. Modules import all of it as `gateway.cli.lazily`.
"""

from __future__ import annotations

import sys

# `typing` and `re` are a third of what a command would have to load; who declares commands names
# types for the checker alone.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final, TypeVar

    import click

    from gateway.cli import Settings

    _F = TypeVar("_F", bound=Callable[..., Any])

_UNDERSTOOD: Final = frozenset(
    ("callback", "default", "expose_value", "flag_value", "help", "is_eager", "is_flag", "metavar",
     "required", "shell_complete", "show_default", "type")
)  # fmt: skip
_ANSI: Final = {"red": 31, "green": 32, "yellow": 33}


class Done(Exception):
    """A command is over, with this exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Later:
    """One of click's types, not made yet."""

    def __init__(self, name: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self.name, self.args, self.keywords = name, args, keywords

    def made(self) -> Any:
        """The type itself."""
        import click

        return getattr(click, self.name)(*self.args, **self.keywords)


class _Declared:
    def __init__(self, kind: str, names: tuple[str, ...], keywords: dict[str, Any]) -> None:
        self.kind, self.names, self.keywords = kind, names, keywords
        """``argument`` or ``option``; as for click."""

    def decorate(self, function: Callable[..., Any]) -> Callable[..., Any]:
        import click

        keywords = {
            name: value.made() if isinstance(value, Later) else value
            for name, value in self.keywords.items()
        }
        found: Callable[..., Any] = getattr(click, self.kind)(*self.names, **keywords)(function)
        return found

    @property
    def name(self) -> str:
        """The function's parameter, by click's rule."""
        plain = [name for name in self.names if not name.startswith("-")]
        if plain:
            return plain[0]
        longest = max(self.names, key=lambda name: len(name) - len(name.lstrip("-")))
        return longest.partition("/")[0].lstrip("-").replace("-", "_")


class Command:
    """A command as it was declared."""

    def __init__(self, function: Callable[..., Any], name: str | None, **keywords: Any) -> None:
        self._function, self._name, self._keywords = function, name, keywords
        self._declared: list[_Declared] = getattr(function, "declared", [])
        self._gets: str = getattr(function, "gets", "")
        self._under: list[Command] = []
        """Its commands; with any it is a group."""

    def command(self, name: str | None = None, **keywords: Any) -> Callable[[_F], Command]:
        """Declare a command of this group."""

        def declare(function: _F) -> Command:
            found = Command(function, name, **keywords)
            self._under.append(found)
            return found

        return declare

    def made(self) -> click.Command:
        """The click command."""
        import click

        making: Any = click.group if self._under else click.command
        function = self._function
        if self._gets:
            function = getattr(click, self._gets)(function)
        for each in self._declared:
            function = each.decorate(function)
        found: click.Command = making(self._name, **self._keywords)(function)
        if isinstance(found, click.Group):
            for under in self._under:
                found.add_command(under.made())
        return found

    def understood(self, settings: Settings, words: Sequence[str]) -> dict[str, Any] | None:
        """The function's arguments; None: click has to look at these words."""
        flags: dict[str, tuple[_Declared, bool]] = {}
        valued: dict[str, _Declared] = {}
        arguments: list[_Declared] = []
        found: dict[str, Any] = {}
        for each in reversed(self._declared):
            if not _UNDERSTOOD.issuperset(each.keywords):
                return None
            default = each.keywords.get("default")
            if each.kind == "argument":
                arguments.append(each)
                continue
            pairs = [name.partition("/") for name in each.names if name.startswith("-")]
            if each.keywords.get("is_flag") or any(off for _, _, off in pairs):
                for on, _, off in pairs:
                    flags[on] = each, True
                    if off:
                        flags[off] = each, False
                if "default" not in each.keywords:
                    default = False
            else:
                if "flag_value" not in each.keywords:
                    valued |= {on: each for on, _, _ in pairs}
                if isinstance(default, str) and callable(each.keywords.get("type")):
                    return None
            if each.keywords.get("expose_value", True):
                found[each.name] = default
        rest: list[str] = []
        at = iter(words)
        for word in at:
            if not word.startswith("-"):
                rest.append(word)
            elif word in flags:
                each, value = flags[word]
                if each.names == ("--json",):
                    settings.as_json = True
                else:
                    found[each.name] = value
            else:
                name, equals, text = word.partition("=")
                known = valued.get(name)
                if known is None or not name.startswith("--"):
                    return None
                text = text if equals else next(at, "-")
                if "type" in known.keywords or "callback" in known.keywords or text[:1] == "-":
                    return None
                found[known.name] = text
        if (self._under and rest) or len(rest) > len(arguments):
            return None
        for n, each in enumerate(arguments):
            if n < len(rest) and "type" not in each.keywords:
                found[each.name] = rest[n]
            elif n < len(rest) or each.keywords.get("required", "default" not in each.keywords):
                return None
            else:
                found[each.name] = each.keywords.get("default")
        return found

    def run(self, settings: Settings, found: dict[str, Any]) -> None:
        """Carry it out, with what was understood."""
        if not self._gets:
            self._function(**found)
        else:
            self._function(settings if self._gets == "pass_obj" else _Context(settings), **found)


class _Context:
    """As much of click's context as a group asks for that none of its commands was named."""

    invoked_subcommand = None

    def __init__(self, obj: Settings) -> None:
        self.obj = obj


def command(name: str | None = None, **keywords: Any) -> Callable[[_F], Command]:
    """As click's."""
    return lambda function: Command(function, name, **keywords)


group = command


def option(*names: str, **keywords: Any) -> Callable[[_F], _F]:
    """As click's."""
    return _declaring(_Declared("option", names, keywords))


def argument(*names: str, **keywords: Any) -> Callable[[_F], _F]:
    """As click's."""
    return _declaring(_Declared("argument", names, keywords))


def _declaring(declared: _Declared) -> Callable[[_F], _F]:
    def note(function: _F) -> _F:
        # Decorators are applied from below: the last one declared comes first, as click has it.
        vars(function).setdefault("declared", []).append(declared)
        return function

    return note


def pass_obj(function: _F) -> _F:
    """As click's: the settings come first."""
    vars(function)["gets"] = "pass_obj"
    return function


def pass_context(function: _F) -> _F:
    """As click's."""
    vars(function)["gets"] = "pass_context"
    return function


def echo(message: object = "", err: bool = False) -> None:
    """As click's: one line, at once."""
    file = sys.stderr if err else sys.stdout
    file.write(f"{message}\n")
    file.flush()


def style(text: str, fg: str) -> str:
    """As click's."""
    return f"\x1b[{_ANSI[fg]}m{text}\x1b[0m"


def __getattr__(name: str) -> Any:
    """What is left of click: its types, which need not be made now, and the rest of it."""
    if name in ("Choice", "FloatRange", "IntRange", "Path"):
        return lambda *args, **keywords: Later(name, args, keywords)
    if name.startswith("__"):
        # The import system asks every module whether it is a package.
        raise AttributeError(name)
    import click

    return getattr(click, name)
