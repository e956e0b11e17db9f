"""Sends and records RTP, in a process of its own: ``python -m tests.quality.media``.

Standard input: one line of JSON, ``{"streams": N, "near": ADDRESS, "far": ADDRESS}``; the answer
are the ports of both ends. Then a second line, ``{"plan": [STREAM ...], "out": FILE}``: a stream
goes ``to`` an address, its ``due`` are ``[seconds, number of the packet]``. When all is sent and
two seconds more have passed, what was sent and heard is in FILE (pickled).
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pickle
import select
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

SO_TIMESTAMPNS = 35
TAIL_S = 2.0


def _bound(address: str) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
    one.setblocking(False)
    while True:
        one.bind((address, 0))
        if one.getsockname()[1] % 2 == 0:
            return one
        one.close()
        return _bound(address)


def _drain(one: socket.socket, into: list[tuple[float, bytes]]) -> None:
    with contextlib.suppress(BlockingIOError, ConnectionError):
        while True:
            data, extra, _, _ = one.recvmsg(2048, 64)
            seconds, nanoseconds = struct.unpack("qq", extra[0][2][:16])
            into.append((seconds + nanoseconds / 1e9, data))


def main() -> None:
    """One run."""
    wish = json.loads(sys.stdin.readline())
    near = [_bound(wish["near"]) for _ in range(wish["streams"])]
    far = [_bound(wish["far"]) for _ in range(wish["streams"])]
    ports = {"near": [s.getsockname()[1] for s in near], "far": [s.getsockname()[1] for s in far]}
    print(json.dumps(ports), flush=True)
    if not (line := sys.stdin.readline()):
        return  # the calls did not come about
    plan = json.loads(line)
    streams: list[dict[str, Any]] = plan["plan"]
    sent: list[list[tuple[float, int]]] = [[] for _ in streams]
    heard: list[list[tuple[float, bytes]]] = [[] for _ in streams]
    scrap: list[tuple[float, bytes]] = []
    lists = {s.fileno(): (s, heard[i]) for i, s in enumerate(far)}
    lists |= {s.fileno(): (s, scrap) for s in near}
    poll = select.epoll()
    for fd in lists:
        poll.register(fd, select.EPOLLIN)
    octets = [Path(stream["file"]).read_bytes() for stream in streams]
    jobs = sorted((due, i, n) for i, s in enumerate(streams) for due, n in s["due"])
    gc.disable()
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))
    begun, at = time.monotonic() + 0.3, 0
    end = begun + (jobs[-1][0] if jobs else 0.0) + TAIL_S
    while (now := time.monotonic()) < end:
        while at < len(jobs) and begun + jobs[at][0] <= now:
            _, i, n = jobs[at]
            stream = streams[i]
            head = struct.pack("!BBHII", 0x80, stream["type"] | (0x80 if not n else 0),
                               (1000 + n) & 0xFFFF, 8000 + 160 * n, 0x51000000 + i)  # fmt: skip
            sent[i].append((time.time(), n))
            near[i].sendto(head + octets[i][160 * n : 160 * n + 160], tuple(stream["to"]))
            at += 1
        due = begun + jobs[at][0] if at < len(jobs) else end
        for fd, _ in poll.poll(max(0.0, due - time.monotonic())):
            _drain(*lists[fd])
        scrap.clear()
    Path(plan["out"]).write_bytes(pickle.dumps({"sent": sent, "heard": heard}))


if __name__ == "__main__":
    main()
