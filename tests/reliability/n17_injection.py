"""17: RTP, digits and RTCP of strangers; audio goes to nobody else, and comes from none."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import struct
import time

from tests.reliability.lab import Lab, Pair
from tests.reliability.net import CLIENT, FURTHER
from tests.reliability.party import quiet
from tests.reliability.sound import Sound, frames

INJECTED_HZ = 3004
INJECTED_DBM0 = -60.0
REBOUND_S = 2.0


async def run(lab: Lab) -> None:
    """Nothing reaches the attacker; nothing of his is heard; no digit, no end of a call is his."""
    await lab.start(media_timeout_s=20, sip='follow_media = "always"')
    caller, called = lab.ends()
    await lab.warm(caller)
    stranger = lab.net.udp("a", "10.77.1.45")
    # Ports of calls that are yet to come: the attacker is there first.
    early = asyncio.create_task(_inject(lab, stranger, range(20000, 20200, 2), None, 3.0))
    pairs = await lab.talk(caller, called, lab.load)
    await early
    _nothing(lab, stranger, "before the first media")
    await lab.hear(pairs, what="after early packets")
    targets = _targets(pairs)
    for what, ports, like in (
        ("mid-call", [port for port, _ in targets], None),
        ("with the right source and number", [port for port, _ in targets], targets),
    ):
        since = time.monotonic()
        await _inject(lab, stranger, ports, like, 3.0)
        _nothing(lab, stranger, what)
        _unheard(lab, pairs, what, since)
    await _hold(lab, stranger, pairs[0], targets)
    await _digits(lab, stranger, pairs, targets)
    await _byes(lab, stranger, pairs, targets)
    await _rebinding(lab, pairs[-1])
    await lab.hear(pairs[:-1], what="at the end")
    await lab.end(caller, pairs)
    lab.check(quiet(stranger) == 0, "the attacker got packets")
    stranger.close()
    await lab.judge(caller, lab.party("b", FURTHER[0]))


def _targets(pairs: list[Pair]) -> list[tuple[int, Sound]]:
    """Ports of the gateway towards callers, each with the sound that rightly sends there."""
    return [
        (one.sound.remote[1], one.sound)
        for one, _ in pairs
        if one.sound is not None and one.sound.remote is not None
    ]


async def _inject(
    lab: Lab,
    sock: socket.socket,
    ports: object,
    like: list[tuple[int, Sound]] | None,
    seconds: float,
) -> None:
    """A loud tone to each port; `like`: as if it came from those, next number and all."""
    ports = list(ports)  # type: ignore[call-overload]
    tone, ssrc = frames(INJECTED_HZ, -3.0), random.getrandbits(32)
    began = time.monotonic()
    for n in itertools.count():
        if time.monotonic() - began > seconds:
            return
        for at, port in enumerate(ports):
            seq, stamp, source = n, 160 * n, ssrc
            if like is not None:
                sound = like[at][1]
                seq, stamp, source = sound.seq, sound.stamp, sound.ssrc
            head = struct.pack("!BBHII", 0x80, 0, seq & 0xFFFF, stamp & 0xFFFFFFFF, source)
            try:
                sock.sendto(head + tone[n % 50], ("10.77.0.2", port))
            except OSError:
                pass
        await asyncio.sleep(0.02)


def _nothing(lab: Lab, sock: socket.socket, what: str) -> None:
    got = quiet(sock)
    lab.check(not got, f"{got} packets went to the attacker: {what}")


def _unheard(lab: Lab, pairs: list[Pair], what: str, since: float) -> None:
    worst = -99.0
    for one, other in pairs:
        for sound in (one.sound, other.sound):
            if sound is not None:
                levels = sound.levels([INJECTED_HZ], since)
                worst = max(worst, levels.get(INJECTED_HZ, -99.0))
    lab.check(worst <= INJECTED_DBM0, f"the injected tone is heard at {worst:.0f} dBm0: {what}")
    lab.figures["injected_dbm0"] = max(lab.figures.get("injected_dbm0", -99.0), round(worst))


async def _hold(
    lab: Lab, stranger: socket.socket, pair: Pair, targets: list[tuple[int, Sound]]
) -> None:
    """A silent partner, as on hold: then is the time to take his place."""
    sound = pair[0].sound
    assert sound is not None
    sound.sending = False
    await asyncio.sleep(1.0)
    since = time.monotonic()
    await _inject(lab, stranger, [targets[0][0]], targets[:1], 3.0)
    _nothing(lab, stranger, "while the partner is silent")
    _unheard(lab, [pair], "while the partner is silent", since)
    sound.sending = True
    # A new source of the rightful partner is taken, and opens no door either.
    sound.ssrc = random.getrandbits(32)
    sound.seq = random.randrange(30000)
    await asyncio.sleep(1.0)
    await _inject(lab, stranger, [targets[0][0]], targets[:1], 1.0)
    _nothing(lab, stranger, "after the partner's source changed")
    await lab.hear([pair], what="after the partner's source changed")


async def _digits(
    lab: Lab, stranger: socket.socket, pairs: list[Pair], targets: list[tuple[int, Sound]]
) -> None:
    for port, sound in targets:
        for end in (0, 0, 1, 1, 1):
            body = struct.pack("!BBH", 9, (end << 7) | 10, 800)
            head = struct.pack(
                "!BBHII", 0x80, 101, sound.seq & 0xFFFF, sound.stamp & 0xFFFFFFFF, sound.ssrc
            )
            stranger.sendto(head + body, ("10.77.0.2", port))
    await asyncio.sleep(1.0)
    forged = sum(other.sound.n_events for _, other in pairs if other.sound is not None)
    lab.check(not forged, f"{forged} packets of forged digits were passed on")


async def _byes(
    lab: Lab, stranger: socket.socket, pairs: list[Pair], targets: list[tuple[int, Sound]]
) -> None:
    for port, sound in targets:
        report = struct.pack("!BBHI", 0x80, 201, 1, sound.ssrc)
        for at in (port + 1, port):
            stranger.sendto(
                report + struct.pack("!BBHI", 0x81, 203, 1, sound.ssrc), ("10.77.0.2", at)
            )
    await asyncio.sleep(2.0)
    gone = [one for one, other in pairs if not (one.up and other.up)]
    lab.check(not gone, f"{len(gone)} calls were ended by a forged RTCP BYE")


async def _rebinding(lab: Lab, pair: Pair) -> None:
    """The rightful partner's NAT gives it another port: same address, same source.

    The attacker tried the same from another address, with the right source and number too.
    """
    one, _ = pair
    old = one.sound
    assert old is not None
    moved = Sound(lab.net.udp("a", CLIENT), old.hz, old.remote)
    moved.ssrc, moved.seq, moved.stamp = old.ssrc, old.seq, old.stamp
    lab.mixer.remove(old)
    one.sound = lab.mixer.add(moved)
    began = time.monotonic()
    while time.monotonic() - began < REBOUND_S and moved.n_received < 5:
        await asyncio.sleep(0.05)
    took = time.monotonic() - began
    lab.check(moved.n_received > 0, f"a NAT's new port was not learned within {REBOUND_S:g} s")
    lab.figure(nat_rebinding_s=round(took, 1))
