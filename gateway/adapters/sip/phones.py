"""Phones: who is registered where, and whether they still answer. Bindings survive a restart."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import msgspec

from gateway.adapters.base import Host
from gateway.adapters.sip.config import DtmfMode, SipSection
from gateway.adapters.sip.identity import clean
from gateway.core.endpoints import Condition, Endpoint
from gateway.protocols.sip.agent import SipAgent
from gateway.protocols.sip.events import ResponseReceived
from gateway.protocols.sip.message import Header, Request
from gateway.protocols.sip.names import OPTIONS
from gateway.protocols.sip.registrar import Binding, Registrar, address_of_record
from gateway.protocols.sip.transaction import Flow

_PROBE_S: Final = 8.0
_ANNOUNCE_S: Final = 5.0
# NATs forget UDP within half a minute (RFC 5626 section 4.4.1).
_FLOW_TIMER_S: Final = 25


@dataclass(slots=True)
class Probe:
    """What OPTIONS tell about a contact."""

    token: int = 0
    sent_at: float = 0.0
    heard: bool = False
    """It has answered once: only then silence means anything, for some phones never do."""
    lost: bool = False
    rtt_ms: float = 0.0

    def answered(self, now: float) -> None:
        """Note an answer; the round trip that is shown follows only changes that matter."""
        self.heard, self.lost = True, False
        took = (now - self.sent_at) * 1000
        if not self.rtt_ms / 2 < took < self.rtt_ms * 2:
            self.rtt_ms = max(0.1, round(took, 1))


class _Disk:
    """The turns at one file, which an adapter and its successor share: what hung is older than
    what came after it, whoever wrote it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.n_saves = self.n_written = 0


_DISKS: Final[WeakValueDictionary[Path, _Disk]] = WeakValueDictionary()


class Phones:
    """The registrar and the endpoints of the phones."""

    def __init__(self, name: str, config: SipSection, host: Host) -> None:
        self._name, self._config, self._host = name, config, host
        self._registrar = Registrar(
            min_expires=config.min_expires_s,
            max_expires=config.max_expires_s,
            max_contacts=config.max_contacts,
            flow_timer=_FLOW_TIMER_S,
        )
        self._aors: dict[str, set[str]] = {}
        """Addresses of record that a user registered, one for each domain it knows us by."""
        self._probes: dict[tuple[str, str], Probe] = {}
        """By user and contact."""
        self._turns: deque[tuple[float, str, str]] = deque()
        """When which contact is probed next, soonest first."""
        self._by_token: dict[int, tuple[str, str]] = {}
        self._unsaved = False
        self._saving: threading.Thread | None = None
        self._disk = _DISKS.setdefault(self._file, _Disk())
        self._announce_at = 0.0

    def endpoint(self, user: str, now: float | None = None) -> Endpoint:
        """A phone as an endpoint, up while it has a binding that answers."""
        phone = self._config.phones[user]
        bindings = self.bindings(user, now) if now is not None else []
        reason = "" if bindings else "not registered"
        detail = {}
        if bindings:
            first = next((b for b in bindings if not self._lost(user, b)), None)
            if first is None:
                first, reason = bindings[0], "registered, but does not answer"
            flow, probe = first.flow, self._probes.get((user, first.contact))
            detail = {"address": f"{flow.transport}:{flow.host}:{flow.port}"}
            if first.user_agent:
                detail["agent"] = clean(first.user_agent, 80)
            if probe and probe.rtt_ms:
                detail["rtt_ms"] = f"{probe.rtt_ms:g}"
            if len(bindings) > 1:
                detail["contacts"] = str(len(bindings))
        return Endpoint(
            id=f"{self._name}/{user}",
            label=phone.label,
            location=phone.location,
            number=phone.number,
            capacity=phone.calls,
            digits_beside=phone.dtmf is DtmfMode.INFO,
            condition=Condition.DOWN if reason else Condition.UP,
            reason=reason,
            absent=bool(reason),
            detail=detail,
        )

    def bindings(self, user: str, now: float) -> list[Binding]:
        """Where the phone is, best first."""
        return [binding for found in self.addresses(user, now).values() for binding in found]

    def addresses(self, user: str, now: float) -> dict[str, list[Binding]]:
        """Where the phone is, by address of record."""
        return {aor: self._registrar.lookup(aor, now) for aor in sorted(self._aors.get(user, ()))}

    def reachable(self, user: str, now: float) -> list[Binding]:
        """Where to call it: contacts that answer; if none does, all of them."""
        bindings = self.bindings(user, now)
        return [b for b in bindings if not self._lost(user, b)] or bindings

    def _lost(self, user: str, binding: Binding) -> bool:
        probe = self._probes.get((user, binding.contact))
        return probe is not None and probe.lost

    def register(
        self, user: str, request: Request, flow: Flow, now: float
    ) -> tuple[int, list[Header]]:
        """Carry out a REGISTER of an authenticated phone."""
        aor = address_of_record(request.to.uri)
        known = self.addresses(user, now)
        # Each domain that it knows us by is an address; any number of names would be any number
        # of contacts.
        n_elsewhere = sum(len(found) for other, found in known.items() if other != aor)
        status, headers = self._registrar.process(request, flow, now, n_elsewhere)
        if status == 200:
            self._aors[user] = {a for a in {*known, aor} if self._registrar.lookup(a, now)}
            self._unsaved = True
            self._follow(user, now)
            self.announce(user, now)
        return status, headers

    # Whether they are there

    def _follow(self, user: str, now: float) -> None:
        """Probe what is new; what registers again is there."""
        if not self._config.keepalive_s:
            return
        for binding in self.bindings(user, now):
            key = (user, binding.contact)
            probe = self._probes.get(key)
            if probe is None:
                self._probes[key] = Probe()
                # At the front: the line is in order of time, and this is due now.
                self._turns.appendleft((now, *key))
            else:
                probe.lost = False

    def beat(self, agent: SipAgent, now: float) -> None:
        """About once a second: probe who is due, forget who ran out, save."""
        turns = self._turns
        while turns and turns[0][0] <= now:
            _, user, contact = turns.popleft()
            probe = self._probes.get((user, contact))
            binding = next((b for b in self.bindings(user, now) if b.contact == contact), None)
            if probe is None or binding is None:
                self._probes.pop((user, contact), None)
                continue
            turns.append((now + self._config.keepalive_s, user, contact))
            if probe.token:
                continue
            probe.sent_at = now
            probe.token = agent.request(
                OPTIONS,
                binding.contact,
                now,
                flow=binding.flow,
                routes=binding.path,
                timeout=_PROBE_S,
                contact=True,
            )
            self._by_token[probe.token] = (user, contact)
        if now >= self._announce_at:
            self._announce_at = now + _ANNOUNCE_S
            self.announce_all(now)
        if self._unsaved and not (self._saving and self._saving.is_alive()):
            self._saving = self._save(now)

    def took(self, event: ResponseReceived, now: float) -> bool:
        """News about a probe; False when it is none of ours."""
        key = self._by_token.pop(event.token, None)
        probe = self._probes.get(key) if key else None
        if key is None or probe is None:
            return key is not None
        probe.token = 0
        if not event.response.synthetic:
            probe.answered(now)
        elif probe.heard:
            probe.lost = True
        self.announce(key[0], now)
        return True

    def announce(self, user: str, now: float) -> None:
        """Tell the bus how the phone stands."""
        self._host.set_endpoint(self.endpoint(user, now))

    def announce_all(self, now: float) -> None:
        """Tell the bus how all phones stand; forget bindings that ran out."""
        if self._registrar.expire(now):
            self._unsaved = True
        for user in self._config.phones:
            self.announce(user, now)

    # Bindings on disk carry wall-clock times: the monotonic clock starts anew with the machine.

    @property
    def _file(self) -> Path:
        return self._host.data_dir / "bindings.json"

    async def save(self, now: float, within_s: float) -> None:
        """Write the bindings to disk, and wait no longer for it than this."""
        writer, deadline = self._save(now), now + within_s
        while self._host.now() < deadline:
            if not writer.is_alive():
                return
            await asyncio.sleep(0.01)

    def _save(self, now: float) -> threading.Thread:
        # Beside the loop: a disk that hangs must hold up neither calls nor the end of the process.
        writer = threading.Thread(
            target=self._write, args=self._document(now), name="bindings", daemon=True
        )
        writer.start()
        return writer

    def _document(self, now: float) -> tuple[int, bytes]:
        """What is to be on disk, and the how manieth of them it is."""
        self._unsaved = False
        shift = time.time() - now
        dump = {
            aor: [msgspec.structs.replace(b, expires_at=b.expires_at + shift) for b in bindings]
            for aor, bindings in self._registrar.dump().items()
        }
        self._disk.n_saves += 1
        users = {u: sorted(a) for u, a in self._aors.items()}
        return self._disk.n_saves, msgspec.json.encode({"users": users, "bindings": dump})

    def _write(self, number: int, document: bytes) -> None:
        fresh = self._file.with_suffix(".new")
        with self._disk.lock:
            if number < self._disk.n_written:
                return
            self._disk.n_written = number
            try:
                fresh.write_bytes(document)
                fresh.replace(self._file)
            except OSError as error:
                self._host.log.warning("bindings were not saved", error=str(error))

    def load(self, now: float) -> None:
        """Read the bindings of an earlier run; a damaged file is not trusted: phones register
        again by themselves."""
        self._probes.clear()
        self._turns.clear()
        self._by_token.clear()
        self._announce_at = now
        try:
            document = msgspec.json.decode(self._file.read_bytes(), type=_Saved)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            self._host.log.warning("bindings were not read", error=str(error))
            return
        shift = time.time() - now
        bindings = {
            aor: [
                msgspec.structs.replace(
                    b, expires_at=b.expires_at - shift, flow=b.flow._replace(connection=0)
                )
                for b in found
            ]
            for aor, found in document.bindings.items()
        }
        self._registrar.load(bindings)
        self._registrar.expire(now)
        self._aors = {
            user: set(aors) for user, aors in document.users.items() if user in self._config.phones
        }
        keys = [(user, b.contact) for user in self._aors for b in self.bindings(user, now)]
        if self._config.keepalive_s:
            # One after the other: after a restart not all phones at once.
            step = self._config.keepalive_s / max(1, len(keys))
            for n, key in enumerate(keys):
                self._probes[key] = Probe()
                self._turns.append((now + n * step, *key))


class _Saved(msgspec.Struct):
    users: dict[str, list[str]]
    bindings: dict[str, list[Binding]]
