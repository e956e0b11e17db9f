"""Client of the control interface: HTTP over a unix socket with nothing but the standard library.

Every command starts this: importing the daemon's parts here would cost each of them half a second.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

DEFAULT_SOCKET: Final = "/run/crosspoint/control.sock"
DEFAULT_CONFIG: Final = "/etc/crosspoint/gateway.toml"
DEFAULT_DATA: Final = "/var/lib/crosspoint"
TIMEOUT_S: Final = 20.0

# Exit codes, documented in `gateway --help`.
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_CONFIG: Final = 4


class CommandError(Exception):
    """What went wrong, what to do about it, and the exit code that says so to scripts."""

    def __init__(self, what: str, *, remedy: str = "", code: int = EXIT_FAILED) -> None:
        super().__init__(what)
        self.what, self.remedy, self.code = what, remedy, code


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """Asks the daemon behind one socket. Raises `CommandError` for whatever goes wrong."""

    def __init__(self, path: str) -> None:
        self.path = path

    def get(self, path: str, **query: Any) -> Any:
        """The JSON answer of a GET; None and empty values are left out of the query."""
        return self._ask("GET", _with_query(path, query), None)

    def text(self, path: str) -> str:
        """The answer of a GET as it came."""
        return self._fetch("GET", path, None).decode("utf-8", "replace")

    def post(self, path: str, *, within_s: float = TIMEOUT_S, **body: Any) -> Any:
        """The JSON answer of a POST."""
        return self._ask("POST", path, body, within_s)

    def stream(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """The lines of a JSON-lines answer, as they come, for ever if the daemon goes on."""
        connection = self._connect(None)
        try:
            response = self._request(connection, "GET", _with_query(path, query), None)
            if response.status != 200:
                raise _refused(response.status, response.read())
            for line in response:
                if line.strip():
                    yield json.loads(line)
        except (OSError, http.client.HTTPException):
            raise CommandError(
                "the connection to the gateway was lost",
                remedy="was it stopped? systemctl status crosspoint",
                code=EXIT_UNREACHABLE,
            ) from None
        finally:
            connection.close()

    def octets(self, path: str, **query: Any) -> Iterator[bytes]:
        """A file as it grows, for ever if the daemon goes on."""
        connection = self._connect(None)
        try:
            response = self._request(connection, "GET", _with_query(path, query), None)
            if response.status != 200:
                raise _refused(response.status, response.read())
            while part := response.read1(1 << 16):
                yield part
        except (OSError, http.client.HTTPException):
            raise CommandError(
                "the connection to the gateway was lost",
                remedy="was it stopped? systemctl status crosspoint",
                code=EXIT_UNREACHABLE,
            ) from None
        finally:
            connection.close()

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None, within_s: float = TIMEOUT_S
    ) -> Any:
        data = self._fetch(method, path, body, within_s)
        try:
            return json.loads(data)
        except ValueError:
            raise CommandError(
                f"{self.path} answers, but not as a gateway", code=EXIT_UNREACHABLE
            ) from None

    def _fetch(
        self, method: str, path: str, body: dict[str, Any] | None, within_s: float = TIMEOUT_S
    ) -> bytes:
        connection = self._connect(within_s)
        try:
            response = self._request(connection, method, path, body)
            data = response.read()
        except TimeoutError:
            raise CommandError(
                f"the gateway did not answer within {within_s:.0f} s",
                remedy="it is overloaded or stuck: systemctl status crosspoint, journalctl -u "
                "crosspoint",
                code=EXIT_UNREACHABLE,
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise CommandError(
                f"the gateway broke off the answer: {error}",
                remedy="was it stopped? systemctl status crosspoint",
                code=EXIT_UNREACHABLE,
            ) from None
        finally:
            connection.close()
        if response.status >= 300:
            raise _refused(response.status, data)
        return data

    def _connect(self, timeout: float | None) -> _UnixConnection:
        connection = _UnixConnection(self.path, TIMEOUT_S)
        try:
            connection.connect()
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
        connection.sock.settimeout(timeout)
        return connection

    @staticmethod
    def _request(
        connection: _UnixConnection, method: str, path: str, body: dict[str, Any] | None
    ) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"} if data else {}
        connection.request(method, path, body=data, headers=headers)
        return connection.getresponse()


def lab_directory() -> Path:
    """Where this user's lab lives, whether it runs or not."""
    given = os.environ.get("CROSSPOINT_LAB")
    return Path(given) if given else Path(tempfile.gettempdir()) / f"crosspoint-lab-{os.getuid()}"


def _box_or_lab() -> str:
    """The box's socket, or the lab's on a machine that is no box but runs a lab of this user."""
    lab = lab_directory() / "control.sock"
    if os.path.exists(DEFAULT_SOCKET):
        return DEFAULT_SOCKET
    try:
        own = lab.stat().st_uid == os.getuid()
        with socket.socket(socket.AF_UNIX) as probe:
            # One that was killed leaves its socket behind.
            probe.connect(str(lab))
    except OSError:
        return DEFAULT_SOCKET
    return str(lab) if own else DEFAULT_SOCKET


def find_config(given: str | None) -> str:
    """The configuration file: as given, else $GATEWAY_CONFIG, else the box's.

    On a machine that is no box but runs a lab of this user: the lab's.
    """
    named = given or os.environ.get("GATEWAY_CONFIG")
    if named:
        return named
    lab = lab_directory() / "gateway.toml"
    if not os.path.exists(DEFAULT_CONFIG) and _box_or_lab() != DEFAULT_SOCKET and lab.exists():
        return str(lab)
    return DEFAULT_CONFIG


def find_socket(given: str | None, config: str | None) -> str:
    """The socket: as given, else $GATEWAY_SOCKET, else as configured, else the box's."""
    named = given or os.environ.get("GATEWAY_SOCKET")
    if named:
        return named
    import tomllib

    file = Path(find_config(config))
    try:
        found = tomllib.loads(file.read_text()).get("control", {}).get("socket", "")
    except (OSError, ValueError, AttributeError):
        # Not readable by everybody, or wrong: `gateway check` is there to say so.
        return _box_or_lab()
    if isinstance(found, str) and found:
        return str(file.parent / found)
    return _box_or_lab()


def _with_query(path: str, query: dict[str, Any]) -> str:
    given = {
        name.rstrip("_"): str(value).lower() if isinstance(value, bool) else value
        for name, value in query.items()
        if value not in (None, "", (), [])
    }
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


def _refused(status: int, data: bytes) -> CommandError:
    try:
        problem = json.loads(data)
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
    for place in (Path(path), Path(path).parent):
        try:
            group = grp.getgrgid(place.stat().st_gid).gr_name
            break
        except (OSError, KeyError):
            continue
    return f"are you in group {group}? id; sudo usermod -aG {group} $USER, then log in again"
