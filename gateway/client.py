"""Client of the control interface: HTTP over a unix socket with nothing but the standard library.

Every command starts this: importing the daemon's parts here would cost each of them half a second.
"""

from __future__ import annotations

import os

from gateway.unix_http import Exchange, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Final

    _Dict = dict[str, Any]
else:
    _Dict = dict

DEFAULT_SOCKET: Final = "/run/crosspoint/control.sock"
DEFAULT_CONFIG: Final = "/etc/crosspoint/gateway.toml"
DEFAULT_DATA: Final = "/var/lib/crosspoint"
TIMEOUT_S: Final = 20.0

# Exit codes, documented in `gateway --help`.
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_CONFIG: Final = 4


class Unsaid(KeyError):
    """An answer lacks what it should say."""


class _Answer(_Dict):
    def __missing__(self, name: str) -> Any:
        raise Unsaid(name)


class _Scanner:
    """What the scanner of the standard library's `json` is told: as `json.loads` reads."""

    strict = True
    object_hook = None
    object_pairs_hook = _Answer
    parse_float, parse_int = float, int
    memo: dict[str, str] = {}  # noqa: RUF012

    @staticmethod
    def parse_constant(name: str) -> float:
        """``NaN`` and both infinities."""
        return float(name)


def parsed(data: bytes) -> Any:
    """What a JSON document says. Raises `ValueError`.

    `json` itself would load regular expressions and enumerations first, which takes longer than
    most commands have to do; its scanner, in C, needs neither.
    """
    text = data.decode("utf-8").strip(" \t\r\n")
    try:
        from _json import make_scanner

        # What it is told may be anything that has these attributes.
        scanner: Any = _Scanner
        found, end = make_scanner(scanner)(text, 0)
        if end == len(text):
            return found
    except (ImportError, StopIteration):
        pass
    # An interpreter without that scanner, or what it has to complain of.
    import json

    return json.loads(text, object_pairs_hook=_Answer)


def _written(body: dict[str, Any]) -> bytes:
    import json

    return json.dumps(body).encode()


class CommandError(Exception):
    """What went wrong, what to do about it, and the exit code that says so to scripts."""

    def __init__(self, what: str, *, remedy: str = "", code: int = EXIT_FAILED) -> None:
        super().__init__(what)
        self.what, self.remedy, self.code = what, remedy, code


class Client:
    """Asks the daemon behind one socket. Raises `CommandError` for whatever goes wrong."""

    def __init__(self, path: str) -> None:
        self.path = path

    def get(self, path: str, *, hints: dict[str, Any] | None = None, **query: Any) -> Any:
        """The JSON answer of a GET; None and empty values are left out of the query.

        hints: parameters that only save work: a gateway of an older version, which refuses what it
        does not know, is asked again without them.
        """
        if hints:
            try:
                return self._ask("GET", _with_query(path, query | hints), None)
            except CommandError as error:
                if error.code != EXIT_FAILED:
                    raise
        return self._ask("GET", _with_query(path, query), None)

    def text(self, path: str) -> str:
        """The answer of a GET as it came."""
        return self._fetch("GET", path, None).decode("utf-8", "replace")

    def post(self, path: str, *, within_s: float = TIMEOUT_S, **body: Any) -> Any:
        """The JSON answer of a POST."""
        return self._ask("POST", path, body, within_s)

    def stream(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """The lines of a JSON-lines answer, as they come, for ever if the daemon goes on."""
        for line in self._follow(path, query, Exchange.lines):
            if line.strip():
                yield parsed(line)

    def octets(self, path: str, **query: Any) -> Iterator[bytes]:
        """A file as it grows, for ever if the daemon goes on."""
        return self._follow(path, query, Exchange.parts)

    def _follow(
        self, path: str, query: dict[str, Any], parts: Callable[[Exchange], Iterator[bytes]]
    ) -> Iterator[bytes]:
        exchange = self._connect()
        try:
            exchange.ask("GET", _with_query(path, query), timeout_s=None)
            if exchange.status != 200:
                raise _refused(exchange.status, exchange.body())
            yield from parts(exchange)
        except OSError:
            raise CommandError(
                "the connection to the gateway was lost",
                remedy="was it stopped? systemctl status crosspoint",
                code=EXIT_UNREACHABLE,
            ) from None
        finally:
            exchange.close()

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None, within_s: float = TIMEOUT_S
    ) -> Any:
        data = self._fetch(method, path, body, within_s)
        try:
            return parsed(data)
        except ValueError:
            raise CommandError(
                f"{self.path} answers, but not as a gateway", code=EXIT_UNREACHABLE
            ) from None

    def _fetch(
        self, method: str, path: str, body: dict[str, Any] | None, within_s: float = TIMEOUT_S
    ) -> bytes:
        exchange = self._connect()
        try:
            sent = None if body is None else _written(body)
            exchange.ask(method, path, sent, timeout_s=within_s)
            data = exchange.body()
        except TimeoutError:
            raise CommandError(
                f"the gateway did not answer within {within_s:.0f} s",
                remedy="it is overloaded or stuck: systemctl status crosspoint, journalctl -u "
                "crosspoint",
                code=EXIT_UNREACHABLE,
            ) from None
        except OSError as error:
            raise CommandError(
                f"the gateway broke off the answer: {error}",
                remedy="was it stopped? systemctl status crosspoint",
                code=EXIT_UNREACHABLE,
            ) from None
        finally:
            exchange.close()
        if exchange.status >= 300:
            raise _refused(exchange.status, data)
        return data

    def _connect(self) -> Exchange:
        try:
            return Exchange(self.path, TIMEOUT_S)
        except PermissionError:
            raise CommandError(
                f"you may not use {self.path}: permission denied",
                remedy=_permission_remedy(self.path),
                code=EXIT_UNREACHABLE,
            ) from None
        except TimeoutError:
            raise CommandError(
                f"the gateway behind {self.path} does not take calls: it is stuck",
                remedy="systemctl restart crosspoint",
                code=EXIT_UNREACHABLE,
            ) from None
        except OSError as error:
            raise CommandError(
                f"the gateway does not answer on {self.path}: {_why(error, self.path)}",
                remedy="is it running? systemctl status crosspoint; another socket? --socket FILE",
                code=EXIT_UNREACHABLE,
            ) from None


def lab_directory() -> str:
    """Where this user's lab lives, whether it runs or not."""
    # Not tempfile's: its import takes as long as the rest of a command.
    place = f"{os.environ.get('TMPDIR') or '/tmp'}/crosspoint-lab-{os.getuid()}"
    return os.environ.get("CROSSPOINT_LAB") or place


def _box_or_lab() -> str:
    """The box's socket, or the lab's on a machine that is no box but runs a lab of this user."""
    if os.path.exists(DEFAULT_SOCKET):
        return DEFAULT_SOCKET
    lab = f"{lab_directory()}/control.sock"
    try:
        own = os.stat(lab).st_uid == os.getuid()
        # One that was killed leaves its socket behind.
        Exchange(lab, TIMEOUT_S).close()
    except OSError:
        return DEFAULT_SOCKET
    return lab if own else DEFAULT_SOCKET


def find_config(given: str | None) -> str:
    """The configuration file: as given, else $GATEWAY_CONFIG, else the box's.

    On a machine that is no box but runs a lab of this user: the lab's.
    """
    named = given or os.environ.get("GATEWAY_CONFIG")
    if named:
        return named
    if os.path.exists(DEFAULT_CONFIG) or _box_or_lab() == DEFAULT_SOCKET:
        return DEFAULT_CONFIG
    lab = f"{lab_directory()}/gateway.toml"
    return lab if os.path.exists(lab) else DEFAULT_CONFIG


def find_socket(given: str | None, config: str | None) -> str:
    """The socket: as given, else $GATEWAY_SOCKET, else as configured, else the box's."""
    named = given or os.environ.get("GATEWAY_SOCKET")
    if named:
        return named
    name = find_config(config)
    try:
        with open(name, encoding="utf-8") as file:
            text = file.read()
        found = _configured(text)
    except (OSError, ValueError, AttributeError):
        # Not readable by everybody, or wrong: `gateway check` is there to say so.
        return _box_or_lab()
    if isinstance(found, str) and found:
        return os.path.join(os.path.dirname(name), found)
    return _box_or_lab()


def _configured(text: str) -> Any:
    """What a configuration names as ``socket`` in ``[control]``; empty: nothing. Raises
    `ValueError`.

    The whole file is read as TOML only when these lines are written in an unusual way: to read a
    long one takes longer than the gateway takes to answer.
    """
    if "socket" not in text:
        return ""
    if '"""' in text or "'''" in text:
        return _by_toml(text)
    inside = False
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            inside = line == "[control]"
            if not inside and "control" in line:
                return _by_toml(text)
            continue
        name, _, value = line.partition("=")
        name, value = name.strip(), value.strip()
        if "control" in name and not line.startswith("#"):
            return _by_toml(text)
        if inside and "socket" in name and not line.startswith("#"):
            inner = value[1:-1]
            if name != "socket" or value != f'"{inner}"' or '"' in inner or "\\" in inner:
                return _by_toml(text)
            return inner
    return ""


def _by_toml(text: str) -> Any:
    import tomllib

    return tomllib.loads(text).get("control", {}).get("socket", "")


def _with_query(path: str, query: dict[str, Any]) -> str:
    given = [
        f"{name.rstrip('_')}={quoted(str(each).lower() if isinstance(each, bool) else str(each))}"
        for name, value in query.items()
        if value not in (None, "", (), [])
        for each in (value if isinstance(value, list | tuple) else [value])
    ]
    return f"{path}?{'&'.join(given)}" if given else path


def _refused(status: int, data: bytes) -> CommandError:
    try:
        problem = parsed(data)
        what, remedy = str(problem["detail"]), str(problem.get("remedy", ""))
    except (ValueError, KeyError, TypeError):
        what, remedy = f"the gateway answered {status}", ""
    code = EXIT_UNREACHABLE if status == 403 else EXIT_FAILED
    return CommandError(what, remedy=remedy, code=code)


def _why(error: OSError, path: str) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such socket"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there (left over from a gateway that was killed?)"
    if len(os.fsencode(path)) > 107:
        return "the path is longer than the 107 octets that the system allows"
    return error.strerror or str(error)


def _permission_remedy(path: str) -> str:
    """Name the group that may use the socket, as far as it can be seen."""
    import grp

    group = "crosspoint"
    for place in (path, os.path.dirname(path) or "."):
        try:
            group = grp.getgrgid(os.stat(place).st_gid).gr_name
            break
        except (OSError, KeyError):
            continue
    return f"are you in group {group}? id; sudo usermod -aG {group} $USER, then log in again"
