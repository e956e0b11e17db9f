"""Reaching the gateway: clear words when it is down or may not be used; quick when it is up."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli import act, calls, main, status
from gateway.client import _configured, parsed
from tests.box import Box

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")


# The other user may not be able to read the interpreter's files: everything is imported before.
IMPORTED = (act, calls, status, grp)


def as_user(uid: int, groups: list[int], act: Callable[[], object]) -> tuple[int, str, str]:
    """Exit code and outputs of a command line run by another user."""
    outputs = [os.pipe(), os.pipe()]
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            for (_, write), number in zip(outputs, (1, 2), strict=True):
                os.dup2(write, number)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            os.setgroups(groups)
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            act()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    texts = []
    for read, write in outputs:
        os.close(write)
        with open(read) as file:
            texts.append(file.read())
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), texts[0], texts[1]


@pytest.mark.parametrize(
    "command", ["status", "calls", "endpoints", "dial a/b c/d", "hangup x", "records", "stats"]
)
def test_a_gateway_that_does_not_run(idle: Box, command: str) -> None:
    done = idle.run(*command.split())
    assert done.returncode == 3
    assert f"does not answer on {idle.socket}: there is no such socket" in done.stderr
    assert "is it running? systemctl status crosspoint" in done.stderr
    done = idle.run(*command.split(), "--json")
    assert done.returncode == 3
    assert json.loads(done.stderr)["code"] == 3


def test_a_socket_that_nobody_serves(idle: Box) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(idle.socket))
    done = idle.run("status")
    assert done.returncode == 3
    assert "nobody listens there" in done.stderr
    # The next gateway takes its place.
    idle.start()
    idle.ok("status")


def test_socket_and_configuration_are_found_as_documented(box: Box) -> None:
    elsewhere = {"GATEWAY_CONFIG": "/nonexistent"}
    assert box.run("status", **elsewhere).returncode == 3
    assert "/run/crosspoint/control.sock" in box.run("status", **elsewhere).stderr
    assert box.run("--socket", str(box.socket), "status", **elsewhere).returncode == 0
    assert box.run("--config", str(box.config), "status", **elsewhere).returncode == 0
    assert box.run("status", GATEWAY_SOCKET=str(box.socket), **elsewhere).returncode == 0


@needs_root
def test_another_user_is_refused_by_the_file(box: Box) -> None:
    os.environ["GATEWAY_SOCKET"] = str(box.socket)
    try:
        code, out, err = as_user(NOBODY, [], lambda: main(["status"]))
    finally:
        del os.environ["GATEWAY_SOCKET"]
    assert (code, out) == (3, "")
    assert f"you may not use {box.socket}: permission denied" in err
    assert "are you in group " in err


@needs_root
def test_another_user_is_refused_by_the_gateway_even_if_the_file_lets_him(box: Box) -> None:
    box.socket.chmod(0o666)
    arguments = ["--socket", str(box.socket), "dial", "loopback/alice", "loopback/bob"]
    code, out, err = as_user(NOBODY, [], lambda: main(arguments))
    assert (code, out) == (3, "")
    assert "user nobody may not use this gateway" in err
    assert box.json("calls") == []
    assert 'event="control refused"' in box.log.read_text()


@needs_root
def test_a_member_of_the_group_may_and_is_named() -> None:
    box = Box(control='group = "users"')
    try:
        box.start()
        users = grp.getgrnam("users").gr_gid
        arguments = ["--socket", str(box.socket), "dial", "loopback/alice", "loopback/bob"]
        code, _, err = as_user(NOBODY, [users], lambda: main(arguments))
        assert (code, err) == (0, "")
        box.wait_for_call()
        assert box.json("call", "loopback/bob")["why"] == "asked for by nobody"
        assert "by=nobody" in box.log.read_text()
        assert as_user(NOBODY, [], lambda: main(arguments))[0] == 3
    finally:
        box.close()


def test_a_second_gateway_on_the_same_socket_fails_and_harms_nothing(box: Box) -> None:
    done = box.run("run")
    assert done.returncode == 1
    assert f"another gateway serves {box.socket}" in done.stderr
    box.ok("status")


def test_commands_start_without_the_daemons_parts(box: Box) -> None:
    code = (
        "import sys\n"
        "from gateway.cli import main\n"
        "try: main(['calls'])\n"
        "except SystemExit: pass\n"
        "heavy = {'aiohttp', 'sqlalchemy', 'msgspec', 'rich', 'structlog', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=box.environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_exit_codes_are_documented(idle: Box) -> None:
    shown = idle.ok("--help")
    for line in ("0  done", "2  wrong use", "3  the gateway is not reachable", "4  the config"):
        assert line in shown
    assert idle.run("nonsense").returncode == 2
    assert idle.run("dial", "loopback/alice").returncode == 2


@pytest.mark.parametrize("words", ["events --last 1000", "trace last", "events", "--help"])
def test_a_reader_that_has_enough_is_no_failure(talking: Box, words: str) -> None:
    # Many lines into a pipe of which nobody reads but the first octet.
    process = subprocess.Popen(
        talking.command(*words.split()), env=talking.environment, cwd=talking.home,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    if words == "events":
        # It writes when something happens, and there is nobody any more.
        process.stdout.close()
        timer = threading.Timer(90.0, process.kill)
        timer.start()
        while process.poll() is None:
            talking.run("dial", "loopback/alice", "loopback/engaged")
        timer.cancel()
    else:
        process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert (process.wait(30.0), errors) == (0, "")


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(DOCUMENTS, st.sampled_from(["", " ", "\n"]))
def test_a_document_is_read_as_the_standard_library_reads_it(document: object, end: str) -> None:
    assert parsed((json.dumps(document) + end).encode()) == document


@given(st.text('{}[]",:0123 tnul\\e-.', max_size=12))
def test_what_is_no_document_is_refused_as_there(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011
            parsed(text.encode())
    else:
        assert parsed(text.encode()) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "[control]\nsocket = \"a/b\"", "  [control]  \n  socket=\"s\"  # no\n",
        "[control]\n#socket",
        "[control]\nsocket = 'a'", "control.socket = \"c\"", "control = { socket = \"d\" }",
        "[ control ]\nsocket = \"e\"", "[control] # it\nsocket = \"f\"", "[a]\nsocket = \"g\"",
        "[control]\ngroup = \"x\"\n[[routes]]\nsocket = \"h\"", "[control]\nsocket = \"i\\u0041\"",
        "x = \"\"\"\n[control]\nsocket = \"j\"\n\"\"\"", "[\"control\"]\nsocket = \"k\"",
        "[control]\n\"socket\" = \"l\"", "[control]\nsocket = 3", "[control.x]\nsocket = \"m\"",
        "[control]\nsocket_x = \"n\"\n", "[control]\nsocket = \"a#b\"",
    ],
)  # fmt: skip
def test_the_socket_is_found_in_a_configuration_as_toml_says(text: str) -> None:
    section = tomllib.loads(text).get("control", {})
    assert _configured(text) == section.get("socket", "")


@contextlib.contextmanager
def answering(path: str, answer: Callable[[str], tuple[int, object]]) -> Iterator[list[str]]:
    """A gateway of another version, as far as one question."""
    asked: list[str] = []

    def serve() -> None:
        while True:
            try:
                line, _ = server.accept()
            except OSError:
                return
            with line:
                asked.append(line.recv(4096).split()[1].decode())
                status, document = answer(asked[-1])
                body = json.dumps(document).encode()
                line.sendall(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n" % (status, len(body)))
                line.sendall(body)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_an_older_gateway_is_asked_without_what_it_does_not_know(idle: Box) -> None:
    def older(target: str) -> tuple[int, object]:
        return (400, {"detail": "unknown parameter 'audio'"}) if "audio" in target else (200, [])

    with answering(str(idle.socket), older) as asked:
        assert idle.json("calls") == []
        assert "no calls" in idle.run("calls").stderr
    assert asked == ["/v1/calls?audio=true", "/v1/calls", "/v1/calls?audio=false", "/v1/calls"]


def test_what_an_older_gateway_does_not_say_is_named_without_a_traceback(idle: Box) -> None:
    with answering(str(idle.socket), lambda _: (200, [{"id": "fxs/1", "newer": [1]}])):
        done = idle.run("endpoints")
    assert done.returncode == 1
    assert "answer lacks 'number': it is of another version than this command" in done.stderr
    assert "Traceback" not in done.stderr
