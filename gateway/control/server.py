"""HTTP over a unix socket: the daemon's side of the control interface."""

from __future__ import annotations

import asyncio
import errno
import grp
import json
import os
import socket
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from gateway.control.desk import OPERATIONS, Desk, Refused
from gateway.control.metrics import CONTENT_TYPE
from gateway.control.openapi import Operation, document
from gateway.control.peers import Peer, may_use, peer_of
from gateway.control.shapes import ProblemDetails
from gateway.errors import ConfigError, DeviceError, GatewayError, UsageError
from gateway.typed import nearest

_BODY_BYTES: Final = 64 * 1024
_CONNECTIONS: Final = 64
"""At a time. A technician's loop that forgets to end `gateway events` must not eat the box."""
_PATH_BYTES: Final = 107
"""Longest path of a unix socket (unix(7))."""
_STOP_S: Final = 2.0


class Control:
    """Serves the control interface on a unix socket. Driven by `start` and `stop`."""

    def __init__(self, desk: Desk, path: Path, *, group: str = "", log: Any) -> None:
        """Open nothing yet. group: Unix group that may use it; empty: the daemon's own."""
        self.path = path
        self.refused = 0
        """Requests of users who may not."""
        self._desk = desk
        self._group_name = group
        self._group: int | None = None
        self._log = log
        self._runner: web.AppRunner | None = None
        self._lock: socket.socket | None = None
        self._inode: tuple[int, int] | None = None
        self._busy = 0

    async def start(self) -> None:
        """Bind and listen.

        Raises `ConfigError` for a path or group that cannot be, `DeviceError` when another
        gateway serves it or the system refuses.
        """
        self._group = self._find_group()
        connection = self._bind()
        app = web.Application(middlewares=[self._guard], client_max_size=_BODY_BYTES)
        for operation in OPERATIONS:
            app.router.add_route(operation.method, operation.path, self._handler(operation))
        text = json.dumps(document(OPERATIONS, version=self._desk.version))

        async def openapi(request: web.Request) -> web.Response:
            return web.Response(text=text, content_type="application/json")

        app.router.add_get("/v1/openapi.json", openapi)
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=_STOP_S
        )
        await self._runner.setup()
        site = web.SockSite(self._runner, connection)
        await site.start()
        self._log.info("control socket open", path=str(self.path))

    async def stop(self) -> None:
        """Close all connections and remove the socket."""
        self._desk.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        try:
            found = os.stat(self.path)
            # Not one that somebody else has put there meanwhile.
            if self._inode == (found.st_dev, found.st_ino):
                os.unlink(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._log.warning("cannot remove the control socket", error=str(error))

    # Opening

    def _find_group(self) -> int | None:
        if not self._group_name:
            return None
        try:
            return grp.getgrnam(self._group_name).gr_gid
        except KeyError:
            raise ConfigError(
                f"there is no group {self._group_name!r}",
                key="control.group",
                remedy=f"sudo groupadd --system {self._group_name}",
            ) from None

    def _bind(self) -> socket.socket:
        path = self.path
        if len(os.fsencode(path)) > _PATH_BYTES:
            raise ConfigError(
                f"{path} is longer than {_PATH_BYTES} octets",
                key="control.socket",
                remedy="use a shorter path",
            )
        self._make_directory()
        self._clear()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.bind(str(path))
            # Nobody can connect before listen, so there is no moment with other permissions.
            os.chmod(path, 0o660)
            if self._group is not None:
                os.chown(path, -1, self._group)
            found = os.stat(path)
            self._inode = (found.st_dev, found.st_ino)
            connection.listen(128)
            connection.setblocking(False)
        except OSError as error:
            connection.close()
            raise self._cannot(error) from error
        return connection

    def _make_directory(self) -> None:
        directory = self.path.parent
        try:
            directory.mkdir(mode=0o750)
            if self._group is not None:
                os.chown(directory, -1, self._group)
        except FileExistsError:
            pass
        except OSError as error:
            raise self._cannot(error) from error

    def _clear(self) -> None:
        """Remove what a killed gateway left; refuse when one is alive, or it is no socket."""
        try:
            if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
                raise DeviceError(f"{self.path} exists and is no socket: remove it")
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.path))
            except ConnectionRefusedError:
                self.path.unlink(missing_ok=True)
                return
            except FileNotFoundError:
                return
            except OSError as error:
                raise self._cannot(error) from error
        raise DeviceError(
            f"another gateway serves {self.path}: stop it, or configure control.socket"
        )

    def _cannot(self, error: OSError) -> DeviceError:
        remedy = ""
        if error.errno in (errno.EACCES, errno.EPERM):
            remedy = f" (let user {os.geteuid()} write to {self.path.parent})"
        elif error.errno == errno.ENOENT:
            remedy = f" (create {self.path.parent.parent})"
        return DeviceError(f"control socket {self.path}: {error.strerror}{remedy}")

    # Serving

    @web.middleware
    async def _guard(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Let in who may; turn every error into a problem that a person understands."""
        peer = self._peer(request)
        if peer is None or not may_use(peer, self._group):
            self.refused += 1
            who = peer.name if peer else "unknown"
            self._log.warning("control refused", user=who, path=request.path)
            group = self._group_name or "(none is configured: control.group)"
            return _problem(
                403, f"user {who} may not use this gateway", f"become a member of group {group}"
            )
        if self._busy >= _CONNECTIONS:
            return _problem(
                503,
                f"{_CONNECTIONS} requests are open already",
                "end commands that follow (gateway events, gateway calls --watch)",
            )
        self._busy += 1
        try:
            request["peer"] = peer
            return await handler(request)
        except Refused as error:
            return _problem(error.status, str(error), error.remedy)
        except UsageError as error:
            return _problem(400, str(error))
        except GatewayError as error:
            return _problem(503, str(error))
        except web.HTTPException as error:
            return _problem(error.status, f"{request.method} {request.path}: {error.reason}")
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            self._log.error("control request failed", path=request.path, exc_info=error)
            return _problem(500, f"{type(error).__name__}: {error}", "see the gateway's log")
        finally:
            self._busy -= 1

    @staticmethod
    def _peer(request: web.Request) -> Peer | None:
        connection = request.transport and request.transport.get_extra_info("socket")
        try:
            # asyncio wraps the socket; the options are read through the wrapper.
            return peer_of(connection) if connection else None
        except OSError:
            return None

    def _handler(
        self, operation: Operation
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        method = getattr(self._desk, operation.name)

        async def handle(request: web.Request) -> web.StreamResponse:
            peer: Peer = request["peer"]
            arguments: dict[str, Any] = dict(request.match_info)
            arguments["query"] = _read_query(request, operation.query)
            if operation.body is not None:
                arguments["body"] = _read_body(await request.read(), operation.body)
                arguments["by"] = peer.name
                self._log.info(
                    "command",
                    command=operation.name,
                    by=peer.name,
                    pid=peer.pid,
                    what=msgspec.json.encode(arguments["body"]).decode(),
                )
            answer = method(**arguments)
            if isinstance(answer, Awaitable):
                answer = await answer
            if operation.lines:
                return await _send_lines(request, answer, "application/jsonl")
            if operation.octets:
                return await _send_lines(request, answer, operation.octets)
            if operation.text:
                return web.Response(body=answer, headers={"Content-Type": CONTENT_TYPE})
            return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

        return handle


def _read_query(request: web.Request, kind: type[msgspec.Struct]) -> msgspec.Struct:
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in known:
            hint = nearest(name, known)
            raise Refused(400, f"unknown parameter {name!r}", hint)
        given[name] = value
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Refused(400, str(error)) from None


def _read_body(data: bytes, kind: type[msgspec.Struct]) -> msgspec.Struct:
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"the request's body: {error}") from None


async def _send_lines(
    request: web.Request, lines: AsyncGenerator[bytes, None], media: str
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": media})
    # Errors of the request itself come before the first line, as a problem.
    await response.prepare(request)
    try:
        async for line in lines:
            if line:
                await response.write(line)
            elif request.transport is None or request.transport.is_closing():
                break
        await response.write_eof()
    except (ConnectionError, RuntimeError):
        # The technician went away: the most ordinary end of a stream.
        pass
    finally:
        await lines.aclose()
    return response


def _problem(status: int, detail: str, remedy: str = "") -> web.Response:
    titles = {400: "wrong request", 403: "not allowed", 404: "not found", 503: "not possible now"}
    problem = ProblemDetails(
        title=titles.get(status, "error"), status=status, detail=detail, remedy=remedy
    )
    return web.Response(
        body=msgspec.json.encode(problem), status=status, content_type="application/problem+json"
    )
