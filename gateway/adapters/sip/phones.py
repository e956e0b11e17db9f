"""Phones: who is registered where. Bindings survive a restart."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from gateway.adapters.base import Host
from gateway.adapters.sip.config import SipSection
from gateway.core.endpoints import Condition, Endpoint
from gateway.protocols.sip.message import Header, Request
from gateway.protocols.sip.registrar import Binding, Registrar, address_of_record
from gateway.protocols.sip.transaction import Flow


class Phones:
    """The registrar and the endpoints of the phones."""

    def __init__(self, name: str, config: SipSection, host: Host) -> None:
        self._name, self._config, self._host = name, config, host
        self._registrar = Registrar()
        self._aors: dict[str, set[str]] = {}
        """Addresses of record that a user registered, one for each domain it knows us by."""

    def endpoint(self, user: str, now: float | None = None) -> Endpoint:
        """A phone as an endpoint, up while it has a binding."""
        phone = self._config.phones[user]
        bindings = self.bindings(user, now) if now is not None else []
        detail = {}
        if bindings:
            flow = bindings[0].flow
            detail = {"address": f"{flow.transport}:{flow.host}:{flow.port}"}
            if bindings[0].user_agent:
                detail["agent"] = bindings[0].user_agent
        return Endpoint(
            id=f"{self._name}/{user}",
            label=phone.label,
            location=phone.location,
            number=phone.number,
            capacity=phone.calls,
            condition=Condition.UP if bindings else Condition.DOWN,
            reason="" if bindings else "not registered",
            detail=detail,
        )

    def bindings(self, user: str, now: float) -> list[Binding]:
        """Where the phone is, best first."""
        found: list[Binding] = []
        for aor in sorted(self._aors.get(user, ())):
            found += self._registrar.lookup(aor, now)
        return found

    def register(
        self, user: str, request: Request, flow: Flow, now: float
    ) -> tuple[int, list[Header]]:
        """Carry out a REGISTER of an authenticated phone."""
        status, headers = self._registrar.process(request, flow, now)
        if status == 200:
            aor = address_of_record(request.to.uri)
            self._aors.setdefault(user, set()).add(aor)
            self._save(now)
            self.announce(user, now)
        return status, headers

    def announce(self, user: str, now: float) -> None:
        """Tell the bus how the phone stands."""
        self._host.set_endpoint(self.endpoint(user, now))

    def announce_all(self, now: float) -> None:
        """Tell the bus how all phones stand; forget bindings that ran out."""
        self._registrar.expire(now)
        for user in self._config.phones:
            self.announce(user, now)

    # Bindings on disk carry wall-clock times: the monotonic clock starts anew with the machine.

    @property
    def _file(self) -> Path:
        return self._host.data_dir / "bindings.json"

    def _save(self, now: float) -> None:
        shift = time.time() - now
        dump = {
            aor: [msgspec.structs.replace(b, expires_at=b.expires_at + shift) for b in bindings]
            for aor, bindings in self._registrar.dump().items()
        }
        document = {"users": {u: sorted(a) for u, a in self._aors.items()}, "bindings": dump}
        fresh = self._file.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.json.encode(document))
            fresh.replace(self._file)
        except OSError as error:
            self._host.log.warning("bindings were not saved", error=str(error))

    def load(self, now: float) -> None:
        """Read the bindings of an earlier run; a damaged file is put aside, not trusted."""
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


class _Saved(msgspec.Struct):
    users: dict[str, list[str]]
    bindings: dict[str, list[Binding]]
