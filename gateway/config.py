"""TOML to typed configuration; an error names file, line, key and remedy.

`load` reports everything that is wrong in one go and returns nothing half right.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

import msgspec

from gateway import toml
from gateway.adapters.base import Adapter, Host
from gateway.adapters.secrets import Secret
from gateway.core.endpoints import Duplex, Endpoint
from gateway.core.events import PathTestKind
from gateway.core.hours import Hours
from gateway.core.routes import CompiledRoute, Route, RouteTable, Trigger
from gateway.errors import ConfigError, GatewayError, UsageError
from gateway.media.impairments import Supervision
from gateway.pathtests.section import ScheduledTest
from gateway.registry import Registry
from gateway.typed import (
    ConfigErrors,
    Key,
    Problem,
    check,
    convert,
    dotted,
    fetch_secrets,
    nearest,
)

__all__ = ["ConfigErrors", "Configuration", "convert", "load"]

MAXIMUM_BYTES: Final = 1 << 20
"""A configuration is written by people; what is longer is some other file."""

_BOX = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_ADAPTER = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z")
_OWN_PLACES: Final = (
    "gateway/audio", "gateway/journal", "gateway/recordings", "gateway/records", "gateway/tests",
)  # fmt: skip
"""Places that speak for the gateway itself; a route may take their alarms."""
_FIELD_IN_TEXT = re.compile(r"\{[^}]*\}")

_Positive = Annotated[float, msgspec.Meta(gt=0)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


def _address(text: str, key: str, example: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    try:
        ipaddress.ip_address(host.strip("[]"))
        if not (colon and port.isdecimal() and 0 <= int(port) <= 65535):
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{text!r} is no IP address with a port", key=key, remedy=example
        ) from None
    return host.strip("[]"), int(port)


class GatewaySection(_Section, frozen=True, kw_only=True):
    """``[gateway]``: the box."""

    name: str = "gateway"
    """Name of this box in ids, records and messages: lower-case letters, digits, hyphens."""
    zone: str = "UTC"
    """Time zone of opening hours: ``Europe/Berlin``."""
    country: str = "us"
    """Tone plan."""
    data_dir: str = "/var/lib/crosspoint"
    sounds_dir: str = "sounds"
    """Announcements; relative to the configuration file."""
    recordings_dir: str = ""
    """Empty: ``recordings`` below `data_dir`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_style: Literal["text", "json"] = "text"
    drain_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 30.0
    """How long calls may go on after SIGTERM."""
    synthesiser: tuple[str, ...] = ("espeak-ng", "--stdin", "--stdout")
    """Command that reads text and writes WAV; empty: announcements by text are refused."""

    def __post_init__(self) -> None:
        if not _BOX.match(self.name):
            raise ConfigError(
                f"{self.name!r} cannot be the name of a box",
                key="name",
                remedy="lower-case letters, digits and hyphens, at most 63",
            )
        try:
            Hours("", self.zone)
        except UsageError as error:
            raise ConfigError(str(error), key="zone") from None


class MediaSection(_Section, frozen=True, kw_only=True):
    """``[media]``: the engine."""

    local_ip: str = "0.0.0.0"
    """Address to bind for RTP where an adapter does not say otherwise."""
    ports: tuple[
        Annotated[int, msgspec.Meta(ge=1024, le=65535)],
        Annotated[int, msgspec.Meta(ge=1024, le=65535)],
    ] = (16384, 20479)
    """First and last UDP port of RTP and RTCP."""
    max_streams: Annotated[int, msgspec.Meta(ge=1, le=20000)] = 2000
    realtime: bool = True
    """Ask for real-time scheduling; without the right to it the engine runs at normal priority."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Threads that carry audio; one core serves about a thousand calls."""
    io_uring: bool = True
    """Move packets in batches where the kernel permits it."""
    kernel: bool = False
    """Let the kernel carry calls that are only relayed (BPF at tc ingress); their packets pass the
    firewall unseen. Needs Linux 6.6, CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON."""
    steer: bool = False
    """Take RTP from shared sockets and send it by a raw one, for a quarter less CPU. Needs
    Linux 5.9, CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW."""

    def __post_init__(self) -> None:
        try:
            ipaddress.ip_address(self.local_ip)
        except ValueError:
            raise ConfigError(f"{self.local_ip!r} is no IP address", key="local_ip") from None
        low, high = self.ports
        if high - low < 1:
            raise ConfigError(
                f"{low} to {high} holds no pair of ports",
                key="ports",
                remedy="write [first, last], two ports for each stream",
            )


class ControlSection(_Section, frozen=True, kw_only=True):
    """``[control]``: the socket between the commands and the daemon."""

    socket: str = "/run/crosspoint/control.sock"
    group: str = ""
    """Unix group that may use it; empty: only the daemon's user."""


class JournalSection(_Section, frozen=True, kw_only=True):
    """``[journal]``: the record of events and actions."""

    directory: str = ""
    """Empty: ``journal`` below the data directory."""
    total_mb: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 256
    """Oldest files are deleted beyond this."""
    keep_digits: bool = False
    """Write down the digits that people press; PINs never are."""


class RecordsSection(_Section, frozen=True, kw_only=True):
    """``[records]``: call detail records."""

    url: str = ""
    """SQLAlchemy URL; empty: SQLite in the data directory."""
    retention_days: Annotated[int, msgspec.Meta(ge=0, le=36500)] = 0
    """Records older than this are deleted; 0: never."""


class MetricsSection(_Section, frozen=True, kw_only=True):
    """``[metrics]``: figures for Prometheus; always on the control socket, ``/v1/metrics``."""

    listen: str = ""
    """Address and port to fetch ``/metrics`` from, such as ``127.0.0.1:9477``; empty: no port."""

    def __post_init__(self) -> None:
        if self.listen:
            self.address()

    def address(self) -> tuple[str, int]:
        """Host and port. Raises `ConfigError`."""
        return _address(self.listen, "listen", "127.0.0.1:9477, or [::1]:9477")


class CaptureSection(_Section, frozen=True, kw_only=True):
    """``[capture]``: what went over the wires, kept in memory for `trace` and `capture`."""

    keep_s: Annotated[float, msgspec.Meta(ge=10, le=86400)] = 600.0
    """How long signalling is kept."""
    signalling_mb: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 16
    """Beyond it the oldest is forgotten."""
    rtp_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    """How much of everybody's audio is kept; 0: none, a running capture has its own."""
    rtp_mb: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    """Beyond it the oldest is forgotten."""
    hep: str = ""
    """Address and port of a Homer collector that gets a copy of SIP over UDP; empty: none."""
    hep_id: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)] = 1
    """Capture id under which the collector knows this box."""
    hep_password: Secret = Secret()
    """Authentication key of the collector, if it wants one."""

    def __post_init__(self) -> None:
        if self.hep:
            self.collector()

    def collector(self) -> tuple[str, int]:
        """Host and port. Raises `ConfigError`."""
        return _address(self.hep, "hep", "127.0.0.1:9060, or [::1]:9060")


class AdapterSection(msgspec.Struct, frozen=True, kw_only=True):
    """``[adapters.<name>]``: one adapter, its class and its typed section."""

    name: str
    kind: str
    adapter: type[Adapter]
    config: msgspec.Struct


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """A whole configuration, checked."""

    file: Path
    text: str = ""
    """The file as it was read; it may hold secrets."""
    gateway: GatewaySection = GatewaySection()
    media: MediaSection = MediaSection()
    control: ControlSection = ControlSection()
    journal: JournalSection = JournalSection()
    metrics: MetricsSection = MetricsSection()
    capture: CaptureSection = CaptureSection()
    records: RecordsSection = RecordsSection()
    supervision: Supervision = Supervision()
    adapters: dict[str, AdapterSection] = {}
    routes: tuple[Route, ...] = ()
    tests: tuple[ScheduledTest, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    """Those that the adapters know from the configuration alone."""
    warnings: tuple[str, ...] = ()
    """Doubtful, but not wrong: ``file:line: key: what (remedy)``."""

    @property
    def data_dir(self) -> Path:
        """Directory of what survives restarts."""
        return Path(self.gateway.data_dir)

    @property
    def sounds_dir(self) -> Path:
        """Directory of announcements."""
        return self.file.parent / self.gateway.sounds_dir

    @property
    def recordings_dir(self) -> Path:
        """Directory that calls are recorded to."""
        return Path(self.gateway.recordings_dir or self.data_dir / "recordings")

    @property
    def journal_dir(self) -> Path:
        """Directory of the journal."""
        return Path(self.journal.directory or self.data_dir / "journal")

    @property
    def records_url(self) -> str:
        """SQLAlchemy URL of the call detail records."""
        return self.records.url or f"sqlite:///{self.data_dir / 'records.sqlite'}"

    def table(self) -> RouteTable:
        """The routes, compiled."""
        return RouteTable(self.routes, self.gateway.zone)


SECTIONS: Final[dict[str, type[msgspec.Struct]]] = {
    "gateway": GatewaySection,
    "media": MediaSection,
    "control": ControlSection,
    "journal": JournalSection,
    "metrics": MetricsSection,
    "capture": CaptureSection,
    "records": RecordsSection,
    "supervision": Supervision,
}
"""Sections that every configuration may have; the others are checked apart."""
_LISTS: Final = ("adapters", "routes", "tests")


def load(
    path: str | Path, *, registry: Registry | None = None, place: Path | None = None
) -> Configuration:
    """Read and check a configuration file. place: the file that it is a copy of, if it is one.

    Raises `ConfigErrors` with everything that is wrong. Opens no device and no port; reads
    secrets' files and looks whether announcements exist.
    """
    path = Path(path)
    text = _read(path)
    try:
        document, lines = toml.parse(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column (\d+)\)|\(at end of document\)", str(error))
        line = int(found[1]) if found and found[1] else text.count("\n") + 1
        what = re.sub(r" \(at [^)]*\)\Z", "", str(error))
        what = what[:1].lower() + what[1:]
        raise _one(path, f"not TOML: {what}", line=line) from None
    except RecursionError:
        raise _one(path, "nested too deeply") from None
    return msgspec.structs.replace(
        _Loader(place or path, document, lines, registry).load(), text=text
    )


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(path.stat().st_mode):
                raise _one(path, "is not a file")
            data = file.read(MAXIMUM_BYTES + 1)
    except OSError as error:
        remedy = {
            FileNotFoundError: "give the right path with --config",
            PermissionError: "let the gateway's user read it",
        }.get(type(error))
        raise _one(path, f"cannot be read: {error.strerror}", remedy=remedy) from None
    if len(data) > MAXIMUM_BYTES:
        raise _one(path, f"is larger than {MAXIMUM_BYTES >> 20} MiB", remedy="is it another file?")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise _one(path, "holds a NUL character", line=line, remedy="is it a text file?")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        remedy = "save it as UTF-8"
        raise _one(path, f"byte {data[error.start]:#04x} is not UTF-8", line, remedy) from None


def _one(path: Path, what: str, line: int | None = None, remedy: str | None = None) -> ConfigErrors:
    return ConfigErrors([ConfigError(what, file=str(path), line=line, remedy=remedy)])


class _Loader:
    """One walk over one document; collects problems and warnings."""

    def __init__(
        self,
        path: Path,
        document: dict[str, Any],
        lines: dict[toml.Path, int],
        registry: Registry | None,
    ) -> None:
        self._path = path
        self._lines = lines
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []
        self._document = fetch_secrets(document, (), self._problems, path.parent)
        self._registry = registry
        self._endpoints: dict[str, tuple[Endpoint, str]] = {}
        self._borrowed: list[tuple[Key, str]] = []
        """Keys that ask for the audio of another adapter's endpoint."""
        self._open_networks: set[str] = set()
        """Networks in which endpoints appear at run time: what is not known may yet come."""

    def load(self) -> Configuration:
        document = self._document
        for name in document:
            if name not in SECTIONS and name not in _LISTS:
                legal = [*SECTIONS, *_LISTS]
                self._wrong((name,), "unknown section", nearest(name, legal))
        sections = {
            name: check(kind, document.get(name, {}), (name,), self._problems)
            for name, kind in SECTIONS.items()
        }
        adapters = self._adapters(document.get("adapters", {}))
        routes = self._routes(document.get("routes", []), sections["gateway"])
        tests = self._tests(document.get("tests", []))
        if self._problems:
            raise ConfigErrors(self._error(problem) for problem in self._problems)
        return Configuration(
            file=self._path,
            **sections,
            adapters=adapters,
            routes=tuple(routes),
            tests=tuple(tests),
            endpoints=tuple(endpoint for endpoint, _ in self._endpoints.values()),
            warnings=tuple(str(self._error(each)) for each in self._warnings),
        )

    def _wrong(self, key: Key, what: str, remedy: str = "") -> None:
        self._problems.append(Problem(key, what, remedy))

    def _doubtful(self, key: Key, what: str, remedy: str = "") -> None:
        self._warnings.append(Problem(key, what, remedy))

    def _error(self, problem: Problem) -> ConfigError:
        return ConfigError(
            problem.what,
            file=str(self._path),
            line=toml.line_of(self._lines, problem.key),
            key=dotted(problem.key) or None,
            remedy=problem.remedy or None,
        )

    # Adapters

    def _adapters(self, sections: Any) -> dict[str, AdapterSection]:
        found: dict[str, AdapterSection] = {}
        if not isinstance(sections, Mapping):
            self._wrong(("adapters",), "is not a table", "write [adapters.<name>]")
            return found
        if self._registry is None:
            try:
                self._registry = Registry()
            except ConfigError as error:
                self._wrong(("adapters",), error.what, error.remedy or "")
                return found
        for name, section in sections.items():
            key: Key = ("adapters", name)
            if not _ADAPTER.match(name):
                remedy = "a lower-case letter, then letters, digits, - and _"
                self._wrong(key, f"{name!r} cannot be a name", remedy)
            if name == "gateway":
                self._wrong(key, "is the name of the gateway itself", "choose another")
            if not isinstance(section, Mapping):
                self._wrong(key, "is not a table", f"write [adapters.{name}]")
                continue
            made = self._adapter(name, dict(section), key, self._registry)
            if made is not None:
                found[name] = made
        for where, place in self._borrowed:
            self._check_place(place, where)
            if place in self._endpoints:
                lender = found[self._endpoints[place][1]]
                if lender.adapter.lend is Adapter.lend:
                    self._wrong(
                        where,
                        f"{place} does not lend its audio (kind {lender.kind!r})",
                        "name an fxs, fxo or loopback endpoint",
                    )
        return found

    def _adapter(
        self, name: str, section: dict[str, Any], key: Key, registry: Registry
    ) -> AdapterSection | None:
        kind = section.pop("kind", name)
        if not isinstance(kind, str):
            self._wrong((*key, "kind"), "is not text in quotes")
            return None
        try:
            adapter = registry.load(kind)
        except ConfigError as error:
            self._wrong((*key, "kind"), error.what, error.remedy or "")
            return None
        before = len(self._problems)
        config = check(adapter.Config, section, key, self._problems)
        if len(self._problems) > before:
            # Its routes are checked all the same, but what it would offer is not known.
            self._open_networks.update(("*", name, kind))
            return None
        try:
            made = adapter(name, config, cast(Host, _CheckingHost(Path())))
            endpoints = list(made.endpoints())
            self._borrowed += [((*key, *at.split(".")), place) for at, place in made.borrows()]
            doubts = list(made.doubts())
        except ConfigError as error:
            inner = tuple(error.key.split(".")) if error.key else ()
            self._wrong((*key, *inner), error.what, error.remedy or "")
            return None
        except (GatewayError, ValueError) as error:
            self._wrong(key, str(error))
            return None
        for inner, what, remedy in doubts:
            self._doubtful((*key, *inner), what, remedy)
        for endpoint in endpoints:
            known = self._endpoints.get(endpoint.id)
            if known is not None:
                other = f"by [adapters.{known[1]}] too" if known[1] != name else "twice"
                self._wrong(key, f"endpoint {endpoint.id} is defined {other}", "rename one of them")
            else:
                self._endpoints[endpoint.id] = (endpoint, name)
        if adapter.creates_endpoints:
            self._open_networks.update((name, kind))
            self._open_networks.update(endpoint.network for endpoint in endpoints)
        return AdapterSection(name=name, kind=kind, adapter=adapter, config=config)

    # Routes

    def _routes(self, sections: Any, box: GatewaySection | None) -> list[Route]:
        if not isinstance(sections, list):
            self._wrong(("routes",), "is not a list of tables", "write [[routes]]")
            return []
        found: list[Route] = []
        names: dict[str, int] = {}
        for index, section in enumerate(sections):
            key: Key = ("routes", index)
            route = check(Route, section, key, self._problems)
            if route is None:
                continue
            if route.name in names:
                line = toml.line_of(self._lines, ("routes", names[route.name]))
                self._wrong(
                    (*key, "name"), f"{route.name!r} is used twice", f"the other is in line {line}"
                )
            names.setdefault(route.name, index)
            try:
                CompiledRoute(route, box.zone if box else "UTC")
            except UsageError as error:
                # "called: ..." or "hours '25:00': ...": the first word names the field.
                field = re.split(r"\W", str(error), maxsplit=1)[0]
                where = (*key, field) if field in Route.__struct_fields__ else key
                self._wrong(where, str(error).removeprefix(f"{field}: "))
            self._check_places(route, key)
            self._check_sounds(route, key, box)
            found.append(route)
        return found

    def _check_places(self, route: Route, key: Key) -> None:
        for field, texts in (("targets", route.targets), ("page", route.page)):
            for index, text in enumerate(texts):
                self._check_place(text.partition(":")[0], (*key, field, index))
        if route.origin:
            self._check_place(route.origin.partition(":")[0], (*key, "origin"))
        if route.command:
            self._check_place(route.command.endpoint, (*key, "command", "endpoint"))
        for index, setting in enumerate(route.outputs):
            where = (*key, "outputs", index)
            self._check_place(setting.endpoint, (*where, "endpoint"))
            known = self._endpoints.get(setting.endpoint)
            if known and setting.output not in known[0].outputs:
                self._wrong(
                    (*where, "output"),
                    f"{setting.endpoint} has no output {setting.output!r}",
                    nearest(setting.output, known[0].outputs) or "it has none at all",
                )
        for index, pattern in enumerate(route.source):
            known_places = (*self._endpoints, *_OWN_PLACES)
            if not any(fnmatch.fnmatchcase(name, pattern) for name in known_places) and not (
                self._may_come(pattern)
            ):
                self._doubtful(
                    (*key, "from", index),
                    f"no configured endpoint matches {pattern!r}",
                    nearest(pattern, self._endpoints),
                )
        doing = (route.targets, route.page, route.conference, route.announce, route.command)
        doing += (route.outputs, route.refuse, route.origin)  # type: ignore[assignment]
        if not any(doing) and route.on is not Trigger.DIGITS:
            self._doubtful(key, "does nothing", "give it targets, page, announce or refuse")

    def _check_place(self, name: str, key: Key) -> None:
        if name == "directory" or _FIELD_IN_TEXT.search(name) or name in self._endpoints:
            return
        what = f"no adapter defines endpoint {name}"
        remedy = nearest(name, self._endpoints)
        if self._may_come(name):
            self._doubtful(key, f"{what} in the configuration", "it may appear at run time")
        else:
            self._wrong(key, what, remedy)

    def _may_come(self, name: str) -> bool:
        network = name.partition("/")[0]
        return (
            "*" in self._open_networks
            or network in self._open_networks
            or ("*" in network and bool(self._open_networks))
        )

    def _check_sounds(self, route: Route, key: Key, box: GatewaySection | None) -> None:
        if route.announce is None:
            return
        given = [bool(route.announce.file), bool(route.announce.tone), bool(route.announce.text)]
        where = (*key, "announce")
        if sum(given) != 1:
            self._wrong(where, f"{sum(given)} of file, tone and text are given", "give one")
        if route.announce.file and box is not None:
            base = (self._path.parent / box.sounds_dir).resolve()
            path = (base / route.announce.file).resolve()
            if not path.is_relative_to(base):
                self._wrong((*where, "file"), f"leads out of {base}")
            elif not path.is_file():
                self._wrong((*where, "file"), f"there is no file {path}")

    # Tests

    def _tests(self, sections: Any) -> list[ScheduledTest]:
        if not isinstance(sections, list):
            self._wrong(("tests",), "is not a list of tables", "write [[tests]]")
            return []
        found: dict[str, ScheduledTest] = {}
        for index, section in enumerate(sections):
            key: Key = ("tests", index)
            test = check(ScheduledTest, section, key, self._problems)
            if test is None:
                continue
            if test.name in found:
                self._wrong(key, f"{test.name} is tested twice", "write all times in one section")
            found[test.name] = test
            if test.listen:
                self._check_place(test.listen, (*key, "listen"))
            name = test.endpoint.partition(":")[0]
            if not test.pattern:
                self._check_place(name, (*key, "endpoint"))
                self._check_tested(test, self._endpoints.get(name), (*key, "endpoint"))
            elif not (
                any(fnmatch.fnmatchcase(each, test.endpoint) for each in self._endpoints)
                or self._may_come(test.endpoint)
            ):
                remedy = nearest(test.endpoint, self._endpoints)
                self._wrong((*key, "endpoint"), "no configured endpoint matches it", remedy)
        return list(found.values())

    def _check_tested(
        self, test: ScheduledTest, known: tuple[Endpoint, str] | None, key: Key
    ) -> None:
        if known is None:
            return
        place = known[0]
        if not place.can_ring or not place.has_audio:
            self._wrong(key, f"{place.id} cannot be called", "test a place with speech")
        elif place.takes_number and ":" not in test.endpoint:
            self._wrong(key, f"{place.id} needs a number", f"write {place.id}:5551234")
        elif place.duplex is Duplex.HALF and not test.transmit:
            self._wrong(key, f"testing {place.id} would transmit", "transmit = true, if it may")
        elif (
            place.duplex is Duplex.LISTEN and test.kind is not PathTestKind.TONE and not test.listen
        ):
            self._wrong(key, f"{place.id} has no microphone", "name one that listens: listen")


class _CheckingHost:
    """A host for asking an adapter which endpoints it defines; whatever opens is refused (A01)."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.log = self

    def _silent(self, event: str, **facts: Any) -> None: ...

    debug = info = warning = error = _silent

    def now(self) -> float:
        return 0.0

    def count(self, name: str, n: int = 1) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise UsageError(f"the constructor and endpoints() may not use host.{name}")
