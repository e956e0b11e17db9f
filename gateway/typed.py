"""Plain data to typed structs: every error at once, each with its key and a remedy."""

from __future__ import annotations

import difflib
import os
import re
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from gateway.adapters.secrets import Secret
from gateway.errors import ConfigError, GatewayError

Key = tuple[str | int, ...]

_S = TypeVar("_S", bound=msgspec.Struct)
_SECRET_NAME: Final = re.compile(r"(?:^|_)(?:password|passwd|secret|pins?|token)$")
_SECRET_BYTES: Final = 65536
_NAMES: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "text in quotes",
    "bool": "true or false",
    "array": "a list in [ ]",
    "object": "a table",
    "null": "nothing",
}
_EXPECTED: Final = re.compile(r"Expected `([^`]+)`(?:, got `([^`]+)`)?(.*)", re.DOTALL)
_AT: Final = re.compile(r" - at `(key in )?\$([^`]*)`\Z")
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")
_MISSING: Final = object()


class ConfigErrors(ConfigError):
    """Everything that is wrong with a configuration; `errors` in the order of the file."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors = sorted(errors, key=lambda error: error.line or 0)
        first = self.errors[0]
        super().__init__(
            first.what, file=first.file, line=first.line, key=first.key, remedy=first.remedy
        )

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong, before it is known where the key stands."""

    key: Key
    what: str
    remedy: str = ""


def dotted(key: Key) -> str:
    """``routes[0].targets`` for ``("routes", 0, "targets")``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def is_secret(name: object) -> bool:
    """Whether a key of this name holds what nobody may see."""
    return isinstance(name, str) and bool(_SECRET_NAME.search(name))


def nearest(wrong: str, legal: Iterable[str]) -> str:
    """A remedy: the legal word that was probably meant, or all of them."""
    known = sorted(legal)
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(known)}" if known else ""


def convert(kind: type[_S], data: Mapping[str, Any], *, base: Path | None = None) -> _S:
    """A typed struct of plain data, secrets fetched from files below `base` or the environment.

    Raises `ConfigErrors` with everything that is wrong.
    """
    problems: list[Problem] = []
    found = check(kind, fetch_secrets(data, (), problems, base or Path()), (), problems)
    if problems:
        raise ConfigErrors(
            ConfigError(each.what, key=dotted(each.key) or None, remedy=each.remedy or None)
            for each in problems
        )
    assert isinstance(found, kind)
    return found


def fetch_secrets(value: Any, key: Key, problems: list[Problem], base: Path) -> Any:
    """The same data with ``{ file = ... }`` and ``{ env = ... }`` of secret keys replaced."""
    if isinstance(value, Mapping):
        return {
            name: _secret(each, (*key, name), problems, base)
            if is_secret(name)
            else fetch_secrets(each, (*key, name), problems, base)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [
            fetch_secrets(each, (*key, index), problems, base) for index, each in enumerate(value)
        ]
    return value


def _secret(value: Any, key: Key, problems: list[Problem], base: Path) -> Any:
    if isinstance(value, list):
        return [_secret(each, (*key, n), problems, base) for n, each in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    if len(value) == 1:
        ((source, name),) = value.items()
        if source in ("file", "env") and isinstance(name, str):
            try:
                return _read(base / name) if source == "file" else _environment(name)
            except GatewayError as error:
                problems.append(Problem(key, str(error)))
                return ""
    # A table of several, such as person to PIN.
    return {name: _secret(each, (*key, name), problems, base) for name, each in value.items()}


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_SECRET_BYTES + 1)
        text = data.decode().rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    if len(data) > _SECRET_BYTES:
        raise ConfigError(f"{path} is too long for a secret")
    return text


def _environment(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise ConfigError(f"the environment has no variable {name}")
    return value


def check(kind: Any, value: Any, key: Key, problems: list[Problem]) -> Any:
    """`value` as `kind`, going on after each problem; meaningless when one was found.

    Structs are looked into key by key, also inside lists, tables and ``| None``; everything else
    is msgspec's to convert.
    """
    inner, outer = _strip(kind)
    struct = _struct(inner)
    origin = get_origin(inner)
    if struct is not None:
        if value is None and inner is not struct:
            return None
        return _check_struct(struct, value, key, problems)
    if origin in (tuple, list, set, frozenset) and isinstance(value, list):
        arguments = [each for each in get_args(inner) if each is not Ellipsis]
        # A tuple of fixed length may hold another type at each place.
        if len(arguments) == 1 and _struct(_strip(arguments[0])[0]) is not None:
            before = len(problems)
            items = [check(arguments[0], each, (*key, n), problems) for n, each in enumerate(value)]
            return _convert(outer, items, key, problems) if len(problems) == before else None
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        names, items_kind = get_args(inner)
        if _struct(_strip(items_kind)[0]) is not None:
            before = len(problems)
            table = {
                _convert(names, name, (*key, name), problems): check(
                    items_kind, each, (*key, name), problems
                )
                for name, each in value.items()
            }
            return _convert(outer, table, key, problems) if len(problems) == before else None
    return _convert(outer, value, key, problems)


def _strip(kind: Any) -> tuple[Any, Any]:
    inner = kind
    while get_origin(inner) is Annotated:
        inner = get_args(inner)[0]
    return inner, kind


def _struct(kind: Any) -> type[msgspec.Struct] | None:
    """The struct that `kind` is, or is optionally; None for a union of several."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    if get_origin(kind) in (Union, types.UnionType):
        rest = [each for each in get_args(kind) if each is not types.NoneType]
        return _struct(_strip(rest[0])[0]) if len(rest) == 1 else None
    return None


def _check_struct(kind: type[msgspec.Struct], value: Any, key: Key, problems: list[Problem]) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        problems.append(Problem(key, f"is {_name_of(value)}, not a table"))
        return None
    before = len(problems)
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    tag_field = kind.__struct_config__.tag_field
    for name in value:
        if name not in fields and name != tag_field:
            problems.append(Problem((*key, name), "unknown key", nearest(str(name), fields)))
    found: dict[str, Any] = {}
    for name, field in fields.items():
        given = value.get(name, _MISSING)
        if given is not _MISSING:
            found[field.name] = check(field.type, given, (*key, name), problems)
        elif field.required:
            problems.append(Problem((*key, name), "is missing", f"give it {_wanted(field.type)}"))
    if len(problems) > before:
        return None
    try:
        return kind(**found)
    except (ValueError, TypeError) as error:
        # What the struct itself says of its fields together (`__post_init__`).
        problems.append(Problem(key, str(error)))
    except ConfigError as error:
        inner = (error.key,) if error.key else ()
        problems.append(Problem((*key, *inner), error.what, error.remedy or ""))
    except GatewayError as error:
        problems.append(Problem(key, str(error)))
    return None


def _hook(kind: type, value: Any) -> Any:
    if kind is Secret:
        if not isinstance(value, str):
            raise ValueError("Expected `str`")
        return Secret(value)
    if kind is Path:
        if not isinstance(value, str):
            raise ValueError("Expected `str`")
        return Path(value)
    raise NotImplementedError


def _convert(kind: Any, value: Any, key: Key, problems: list[Problem]) -> Any:
    try:
        return msgspec.convert(value, kind, dec_hook=_hook)
    except msgspec.ValidationError as error:
        problems.append(_problem(str(error), kind, value, key))
    except GatewayError as error:
        problems.append(Problem(key, str(error)))
    return None


def _problem(text: str, kind: Any, value: Any, key: Key) -> Problem:
    """msgspec's message in the words of one who writes TOML."""
    at = _AT.search(text)
    inside: list[str | int] = []
    if at:
        text = text[: at.start()]
        for step in _STEP.finditer(at[2]):
            if step[1] is not None:
                inside.append(step[1])
            elif step[2] is not None:
                inside.append(int(step[2]))
    where = (*key, *inside)
    for step_in in inside:
        try:
            value = value[step_in]
        except (LookupError, TypeError):
            break
    legal = _legal(kind, inside)
    if legal and text.startswith("Invalid enum value"):
        shown = "" if any(is_secret(part) for part in where) else f"{value!r} "
        return Problem(where, f"{shown}is not a legal value", nearest(str(value), legal))
    found = _EXPECTED.match(text)
    if not found:
        return Problem(where, text[:1].lower() + text[1:])
    wanted, got, rest = found.groups()
    names = " or ".join(_NAMES.get(each.strip(), each.strip()) for each in wanted.split("|"))
    if got is not None and got not in ("", wanted):
        return Problem(where, f"is {_NAMES.get(got, got)}, not {names}")
    if rest.strip():
        return Problem(where, f"must be {names}{rest}")
    return Problem(where, f"must be {names}")


def _legal(kind: Any, inside: list[str | int]) -> list[str]:
    inner, _ = _strip(kind)
    if inside and get_origin(inner) in (tuple, list, set, frozenset):
        return _legal(get_args(inner)[0], inside[1:])
    if inside and get_origin(inner) is dict:
        return _legal(get_args(inner)[1], inside[1:])
    if get_origin(inner) in (Union, types.UnionType):
        return [word for each in get_args(inner) for word in _legal(each, inside)]
    if get_origin(inner) is Literal:
        return [str(each) for each in get_args(inner)]
    if isinstance(inner, type) and issubclass(inner, Enum):
        return [str(each.value) for each in inner]
    return []


def _wanted(kind: Any) -> str:
    inner, _ = _strip(kind)
    legal = _legal(inner, [])
    if legal:
        return f"one of {', '.join(legal)}"
    if inner is Secret:
        return 'text, { file = "..." } or { env = "..." }'
    if _struct(inner) is not None or get_origin(inner) is dict:
        return "a table"
    if get_origin(inner) in (tuple, list, set, frozenset):
        return "a list"
    return _NAMES.get(getattr(inner, "__name__", ""), "a value")


def _name_of(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return _NAMES.get(type(value).__name__, type(value).__name__)
