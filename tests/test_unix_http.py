"""HTTP over a unix socket, against aiohttp as the other side, and against garbage."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.unix_http import Exchange, HttpError, quoted


@contextmanager
def server(*answers: bytes) -> Iterator[str]:
    """Sends these octets, whatever is asked, and closes."""
    with tempfile.TemporaryDirectory() as home, socket.socket(socket.AF_UNIX) as listening:
        path = str(Path(home) / "s")
        listening.bind(path)
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                connection.recv(65536)
                for part in answers:
                    connection.sendall(part)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield path
        finally:
            thread.join()


def fetch(path: str) -> tuple[int, bytes]:
    """Status and body of a GET."""
    exchange = Exchange(path, 10.0)
    try:
        exchange.ask("GET", "/", timeout_s=10.0)
        return exchange.status, exchange.body()
    finally:
        exchange.close()


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[str]:
    """Path of a socket behind which aiohttp tells what it was asked."""

    async def tell(request: web.Request) -> web.Response:
        body = (await request.read()).decode()
        return web.Response(status=201, text=f"{request.method} {request.path_qs} {body}")

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in (b"one\ntw", b"o\n", b"x" * 200_000, b"\nthree"):
            await response.write(part)
        return response

    app = web.Application()
    app.router.add_get("/stream", stream)
    app.router.add_route("*", "/{rest:.*}", tell)
    runner = web.AppRunner(app)
    await runner.setup()
    path = str(tmp_path / "s")
    await web.UnixSite(runner, path).start()
    yield path
    await runner.cleanup()


async def test_aiohttp_understands_and_is_understood(asked: str) -> None:
    def talk() -> tuple[int, bytes]:
        exchange = Exchange(asked, 10.0)
        exchange.ask("POST", f"/a?b={quoted('x y/ä&')}", b'{"c": 1}', timeout_s=10.0)
        return exchange.status, exchange.body()

    status, body = await asyncio.to_thread(talk)
    assert (status, body.decode()) == (201, 'POST /a?b=x%20y%2F%C3%A4%26 {"c": 1}')


async def test_lines_of_an_answer_in_chunks(asked: str) -> None:
    def talk() -> list[bytes]:
        exchange = Exchange(asked, 10.0)
        exchange.ask("GET", "/stream", timeout_s=10.0)
        return list(exchange.lines())

    assert await asyncio.to_thread(talk) == [b"one", b"two", b"x" * 200_000, b"three"]


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfour",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfour\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nfour\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n",
    ],
)  # fmt: skip
def test_what_is_cut_off_or_no_http_is_an_error(answer: bytes) -> None:
    with server(answer) as path, pytest.raises(HttpError):
        fetch(path)


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    with server(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\nab", b"cd") as path:
        assert fetch(path) == (200, b"abcd")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=6), st.sampled_from([b"", b"HTTP/1.1 200 x\r\n"]))
def test_garbage_ends_in_an_oserror(parts: list[bytes], head: bytes) -> None:
    with server(head, *parts) as path, suppress(OSError):
        fetch(path)


@given(st.text())
def test_quoting_can_be_undone(text: str) -> None:
    whole = text.encode("utf-8", "replace").decode()
    assert unquote(quoted(text)) == whole
