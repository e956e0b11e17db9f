"""What strangers, and telephones with a password, may not do: octets over sockets, and digests that
are not computed by our own code."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gateway.adapters.sip import Sip
from gateway.core.actions import Answer, Dial
from gateway.core.events import AlarmRaised, LegEnded, LegOffered, TransferRequested
from gateway.errors import DeviceError
from gateway.testing import TestHost, until
from tests.adapters.sip_stand import trunk
from tests.reliability.party import proof

USERS = ("anna", "bert", "mallory")
BOX = "sip:127.0.0.1"
SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio 40000 RTP/AVP 0\r\n"
)


@contextlib.asynccontextmanager
async def box(**fields: Any) -> AsyncIterator[tuple[Sip, TestHost]]:
    """The adapter with three telephones."""
    host = TestHost("sip")
    phones = {user: {"password": f"secret-{user}", "calls": 4} for user in USERS}
    listen = ["udp:127.0.0.1:0", "tcp:127.0.0.1:0"]
    config = {"listen": listen, "phones": phones, "keepalive_s": 0, "codecs": ["PCMU"], **fields}
    adapter = host.make(Sip, config)
    assert isinstance(adapter, Sip)
    async with host.running():
        await until(lambda: "udp" in adapter.ports and adapter._agent is not None, "it listens")
        yield adapter, host


class Raw:
    """A telephone, or somebody who pretends to be one: a socket and text."""

    def __init__(self, adapter: Sip, user: str, address: str = "127.0.0.2") -> None:
        self.user = user
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind((address, 0))
        self._sock.setblocking(False)
        self._box = ("127.0.0.1", adapter.ports["udp"])
        self.here = f"{address}:{self._sock.getsockname()[1]}"
        self.via = f"SIP/2.0/UDP {self.here}"
        self._n = 0

    def close(self) -> None:
        self._sock.close()

    async def write(self, data: bytes) -> None:
        self._sock.sendto(data, self._box)

    async def read(self, within_s: float = 5.0) -> str:
        """The next message; empty when none comes."""
        try:
            data = await asyncio.wait_for(
                asyncio.get_running_loop().sock_recv(self._sock, 65535), within_s
            )
        except TimeoutError:
            return ""
        return data.decode("utf-8", "surrogateescape")

    async def expect(self, begin: str, within_s: float = 5.0) -> str:
        """The next message that begins so; empty when none comes."""
        while (found := await self.read(within_s)) and not re.match(begin, found):
            pass
        return found

    async def send(self, method: str, *lines: str, uri: str = BOX, **other: Any) -> str:
        """Send a request; returns its Call-ID."""
        self._n += 1
        call, body = other.get("call", f"{self.user}-{self._n}"), other.get("body", "")
        to = other.get("to", f"<{BOX.replace(':', f':{self.user}@', 1)}>")
        text = "\r\n".join(
            [
                f"{method} {uri} SIP/2.0",
                f"Via: {self.via};branch=z9hG4bK{self.user}{self.here}{self._n};rport",
                f"From: <sip:{self.user}@127.0.0.1>;tag=t{self.user}", f"To: {to}",
                f"Call-ID: {call}", f"CSeq: {self._n} {method}", "Max-Forwards: 70",
                f"Contact: {other.get('contact', f'<sip:{self.user}@{self.here}>')}", *lines,
                *(["Content-Type: application/sdp"] if body else []),
                f"Content-Length: {len(body)}", "", body,
            ]
        )  # fmt: skip
        await self.write(text.encode("utf-8", "surrogateescape"))
        return str(call)

    async def ask(self, method: str, *lines: str, uri: str = BOX, **other: Any) -> str:
        """A request with the right password; its answer, for an INVITE the first that is final."""
        call = await self.send(method, *lines, uri=uri, **other)
        challenge = await self.expect("SIP/2.0 401")
        if method == "INVITE":
            await self.acknowledge(challenge, uri)
        offer = re.findall(r"WWW-Authenticate: (.*)\r\n", challenge)[0]
        line = proof(offer, self.user, f"secret-{self.user}", method, uri)
        await self.send(method, line, *lines, uri=uri, **{**other, "call": call})
        return await self.expect("SIP/2.0 [2-6]")

    async def acknowledge(self, answer: str, uri: str) -> None:
        def line(name: str) -> str:
            return str(re.findall(rf"\r\n({name}: .*)\r\n", answer)[0])

        seq = re.findall(r"\r\nCSeq: (\d+)", answer)[0]
        via = line("Via") if answer[8] != "2" else f"Via: {self.via};branch=z9hG4bKack{seq}"
        lines = [f"ACK {uri} SIP/2.0", via, line("From"), line("To"), line("Call-ID")]
        lines += [f"CSeq: {seq} ACK", "Max-Forwards: 70", "Content-Length: 0", "", ""]
        await self.write("\r\n".join(lines).encode())

    async def register(self, *lines: str, contact: str = "", to: str = "") -> str:
        more = {"to": to} if to else {}
        contact = contact or f"<sip:{self.user}@{self.here}>;expires=600"
        return await self.ask("REGISTER", *lines, contact=contact, **more)


class Stream(Raw):
    """The same over TCP."""

    def __init__(self, adapter: Sip, user: str) -> None:
        super().__init__(adapter, user)
        self._sock.close()
        self._box = ("127.0.0.1", adapter.ports["tcp"])
        self._kept = b""

    async def open(self) -> Stream:
        self._reader, self._writer = await asyncio.open_connection(
            *self._box, local_addr=("127.0.0.2", 0)
        )
        self.here = "127.0.0.2:{}".format(self._writer.get_extra_info("sockname")[1])
        self.via = f"SIP/2.0/TCP {self.here}"
        return self

    def close(self) -> None:
        self._writer.close()

    async def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def read(self, within_s: float = 5.0) -> str:
        """The next head (what is asked here has answers without bodies); empty at the end."""
        try:
            data = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), within_s)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            return ""
        return data.decode()


# Registrations


async def test_a_binding_that_is_no_text_leaves_the_others_alone() -> None:
    """What was not UTF-8 could not be written to disk, which ended the adapter and all calls."""
    async with box() as (adapter, host):
        anna, bert = Raw(adapter, "anna"), Raw(adapter, "bert")
        assert (await anna.register("User-Agent: T\udce9l\udce9phone")).startswith("SIP/2.0 200")
        for contact, more in (
            (f"<sip:bert@{bert.here};x=\udcff>", ()), (f"<sip:bert@{bert.here}>;x=\udcff", ()),
            (f'<sip:bert@{bert.here}>;+sip.instance="\udcff";reg-id=1', ("Supported: outbound",)),
            (f"<sip:bert@{bert.here}>", ("Path: <sip:127.0.0.2;lr;x=\udcff>",)),
        ):  # fmt: skip
            answer = await bert.register(*more, contact=contact)
            assert answer.startswith("SIP/2.0 400"), (contact, answer)
        file = host.data_dir / "bindings.json"
        await until(lambda: file.exists() and b"anna" in file.read_bytes(), "bindings are saved")
        (binding,) = msgspec.json.decode(file.read_bytes())["bindings"]["sip:anna@127.0.0.1"]
        assert binding["user_agent"] == "T?l?phone"
        assert (await bert.register()).startswith("SIP/2.0 200"), "it still serves"
        anna.close(), bert.close()


async def test_any_number_of_domains_is_not_any_number_of_contacts() -> None:
    async with box(max_contacts=3) as (adapter, host):
        mallory = Raw(adapter, "mallory")
        answers = [
            (await mallory.register(to=f"<sip:mallory@{n}.example.org>"))[8:11] for n in range(5)
        ]
        assert answers == ["200", "200", "200", "403", "403"]
        assert len(adapter._phones.bindings("mallory", host.now())) == 3
        gone = f"<sip:mallory@{mallory.here}>;expires=0"
        for n in range(3):
            answer = await mallory.register(to=f"<sip:mallory@{n}.example.org>", contact=gone)
            assert answer.startswith("SIP/2.0 200")
        assert (await mallory.register()).startswith("SIP/2.0 200"), "there is room again"
        assert adapter._phones._aors["mallory"] == {"sip:mallory@127.0.0.1"}
        mallory.close()


@pytest.mark.parametrize("path", [False, True])
async def test_a_contact_at_the_carrier_is_no_free_call(path: bool) -> None:
    """A carrier that knows us by our address would put through what a telephone's Contact says."""
    carrier = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    carrier.bind(("127.0.0.9", 0))
    carrier.setblocking(False)
    place = f"127.0.0.9:{carrier.getsockname()[1]}"
    async with box(trunks={"carrier": {"peer": f"sip:{place}", "keepalive_s": 0}}) as (
        adapter, host,
    ):  # fmt: skip
        mallory = await Stream(adapter, "mallory").open()
        lines = (f"Path: <sip:{place};lr>",) if path else ()
        answer = await mallory.register(*lines, contact=f"<sip:0900@{place}>;expires=600")
        assert answer.startswith("SIP/2.0 200")
        mallory.close()
        await until(lambda: not adapter.holds()["connections"], "its connection is gone")
        leg = host.begin_leg("sip/mallory")
        adapter.dial(
            Dial(leg=leg, endpoint="sip/mallory", number="", calling="1", trace="t", call="c")
        )
        heard = asyncio.get_running_loop().sock_recv(carrier, 65535)
        ended = asyncio.create_task(host.wait_for(LegEnded, leg=leg))
        first = asyncio.ensure_future(heard)
        await asyncio.wait({first, ended}, timeout=3.0, return_when=asyncio.FIRST_COMPLETED)
        assert not first.done(), first.result()
        first.cancel()
        ended.cancel()
    carrier.close()


async def test_keys_of_a_call_go_by_no_open_way() -> None:
    """A telephone whose Contact says TLS was sent its keys over TCP, for its Path said that."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.2", 0))
        sock.listen()
        port = sock.getsockname()[1]
        phones = {"anna": {"password": "secret-anna", "srtp": "required"}}
        async with box(phones=phones) as (adapter, host):
            anna = await Stream(adapter, "anna").open()
            answer = await anna.register(
                f"Path: <sip:127.0.0.2:{port};transport=tcp;lr>",
                contact=f"<sip:anna@127.0.0.2:{port};transport=tls>;expires=600",
            )
            assert answer.startswith("SIP/2.0 200")
            anna.close()
            await until(lambda: not adapter.holds()["connections"], "its connection is gone")
            came: asyncio.Queue[bytes] = asyncio.Queue()

            async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                came.put_nowait(await reader.readuntil(b"m=audio"))
                came.put_nowait(await reader.read(4096))
                writer.close()

            async with await asyncio.start_server(listen, sock=sock):
                leg = host.begin_leg("sip/anna")
                dial = Dial(
                    leg=leg, endpoint="sip/anna", number="", calling="1", trace="t", call="c"
                )
                with contextlib.suppress(DeviceError):
                    adapter.dial(dial)
                first = asyncio.create_task(came.get())
                ended = asyncio.create_task(host.wait_for(LegEnded, leg=leg))
                await asyncio.wait({first, ended}, timeout=3.0, return_when="FIRST_COMPLETED")
                assert not first.done() or b"inline:" not in await came.get()
                first.cancel(), ended.cancel()


@pytest.mark.parametrize(
    "line",
    ["Record-Route: nowhere", "Record-Route: <tel:1>", "Record-Route: <sip:a>" + ",<sip:a>" * 99],
)
async def test_a_subscription_that_leads_nowhere_takes_no_room(line: str) -> None:
    """Each was an error in the log and a subscription that nothing ended."""
    async with box() as (adapter, host):
        mallory = Raw(adapter, "mallory")
        where = "sip:anna@127.0.0.1"
        answer = await mallory.ask("SUBSCRIBE", "Event: presence", line, uri=where)
        assert answer.startswith("SIP/2.0 400"), answer
        assert adapter.holds()["subscriptions"] == adapter.holds()["pending"] == 0
        assert not host.counters["faults"]
        answer = await mallory.ask("SUBSCRIBE", "Event: presence", uri=where)
        assert answer.startswith("SIP/2.0 200"), answer
        mallory.close()


# Calls of others


async def test_who_knows_a_call_id_alone_cannot_take_a_call() -> None:
    """Telephones count their Call-IDs; the tags are what others cannot know."""
    async with box() as (adapter, host):
        anna, mallory = Raw(adapter, "anna"), Raw(adapter, "mallory")
        talks = {}
        for phone in (anna, mallory):
            asked = asyncio.create_task(
                phone.ask("INVITE", uri="sip:5@127.0.0.1", body=SDP, call=f"1@{phone.user}")
            )
            offered = await host.wait_for(LegOffered, endpoint=f"sip/{phone.user}")
            adapter.answer(Answer(leg=offered.leg))
            talks[phone.user] = await asked
            await phone.acknowledge(talks[phone.user], "sip:gateway@127.0.0.1")
        tags = {user: re.findall(r"\r\nTo: .*;tag=(\S+)", text)[0] for user, text in talks.items()}
        to = f"<sip:mallory@127.0.0.1>;tag={tags['mallory']}"

        async def refer(replaces: str) -> str:
            line = f"Refer-To: <sip:9@127.0.0.1?Replaces={replaces}>"
            await mallory.send("REFER", line, to=to, call="1@mallory", uri="sip:5@127.0.0.1")
            return await mallory.expect("SIP/2.0 ")

        for guess in (
            "1%40anna", "1%40anna%3Bto-tag%3D%3Bfrom-tag%3D", "1%40anna%3Bfrom-tag%3Dtanna",
            f"1%40anna%3Bto-tag%3D{tags['anna']}", "1%40anna%3Bto-tag%3Dx%3Bfrom-tag%3Dtanna",
            "1%40anna%3Bto-tag%3Dtanna%3Bfrom-tag%3Dtanna",
        ):  # fmt: skip
            assert (await refer(guess)).startswith("SIP/2.0 481"), guess
        assert not host.of(TransferRequested)
        both = f"1%40anna%3Bto-tag%3D{tags['anna']}%3Bfrom-tag%3Dtanna"
        assert (await refer(both)).startswith("SIP/2.0 202"), "the test itself"
        anna.close(), mallory.close()


@pytest.mark.parametrize(
    "target",
    [
        "sip:sip/carrier:0900@127.0.0.1",
        "sip:sip%2Fcarrier%3A0900@127.0.0.1",
        "tel:sip/carrier:0900",
    ],
)
async def test_a_transfer_goes_round_no_routes(target: str) -> None:
    """Who may not call a trunk does not have his partner connected to it by naming it."""
    async with box() as (adapter, host):
        mallory = Raw(adapter, "mallory")
        asked = asyncio.create_task(mallory.ask("INVITE", body=SDP, call="1@mallory"))
        offered = await host.wait_for(LegOffered, endpoint="sip/mallory")
        adapter.answer(Answer(leg=offered.leg))
        talk = await asked
        await mallory.acknowledge(talk, BOX)
        to = re.findall(r"\r\nTo: (.*)\r\n", talk)[0]
        await mallory.send("REFER", f"Refer-To: <{target}>", to=to, call="1@mallory")
        answer = await mallory.expect("SIP/2.0 ")
        assert answer.startswith("SIP/2.0 403"), answer
        assert not host.of(TransferRequested)
        mallory.close()


@pytest.mark.parametrize(("calls", "most"), [(4, 100), (104, 104)])
async def test_a_telephone_cannot_begin_any_number_of_calls(calls: int, most: int) -> None:
    """An exchange that registers as a telephone says how many it has."""
    phones = {"mallory": {"password": "secret-mallory", "calls": calls}}
    async with box(requests_per_s=2000, phones=phones) as (adapter, host):
        mallory = Raw(adapter, "mallory")
        await mallory.send("INVITE", body=SDP)
        offer = re.findall(r"WWW-Authenticate: (.*)\r\n", await mallory.expect("SIP/2.0 401"))[0]
        for n in range(most + 1):
            line = proof(offer, "mallory", "secret-mallory", "INVITE", BOX, count=n + 1)
            await mallory.send("INVITE", line, body=SDP)
            await until(lambda n=n: len(host.of(LegOffered)) > min(n, most - 1), "it is taken in")
        refusal = await mallory.expect("SIP/2.0 503")
        assert "Retry-After" in refusal
        assert len(host.of(LegOffered)) == most
        mallory.close()


# Strangers


@pytest.mark.parametrize("method", ["CANCEL", "BYE", "NOTIFY", "INVITE"])
async def test_what_belongs_to_nothing_costs_no_memory_and_little_time(method: str) -> None:
    """A stranger's CANCELs filled the room for transactions: nobody else was served."""
    async with box(requests_per_s=1) as (adapter, host):
        stranger = Raw(adapter, "nobody", "127.0.0.66")
        for _ in range(200):
            await stranger.send(method, to=f"<{BOX}>;tag=1")
        await until(lambda: host.counters["rate_limited"] >= 150, "most are not answered")
        assert adapter.holds()["transactions"] == 0
        n_answers = 0
        while answer := await stranger.read(0.3):
            assert answer.startswith("SIP/2.0 481"), answer
            n_answers += 1
        assert 5 <= n_answers <= 50
        stranger.close()


async def test_empty_lines_keep_no_place_from_others() -> None:
    """A thousand connections that say CRLF now and then kept all others out."""
    async with box(max_connections=3) as (adapter, host):
        anna = await Stream(adapter, "anna").open()
        assert (await anna.register()).startswith("SIP/2.0 200")
        silent = [await Stream(adapter, f"nobody{n}").open() for n in range(2)]
        for each in silent:
            await each.write(b"\r\n\r\n")
            assert await each._reader.readexactly(2) == b"\r\n"
        bert = await Stream(adapter, "bert").open()
        assert (await bert.register()).startswith("SIP/2.0 200")
        assert await asyncio.wait_for(silent[0]._reader.read(1), 5.0) == b"", "the older one left"
        carol = await Stream(adapter, "mallory").open()
        assert (await carol.register()).startswith("SIP/2.0 200")
        # Who has proved himself stays, and then there is no room.
        late = await Stream(adapter, "late").open()
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(late._reader.read(1), 5.0) == b""
        assert host.counters["connections_refused"] == 1
        for each in (anna, bert, carol):
            await each.write(b"\r\n\r\n")
            assert await asyncio.wait_for(each._reader.readexactly(2), 5.0) == b"\r\n"
        for each in (anna, bert, carol, late, *silent):
            each.close()


async def test_who_does_not_read_keeps_no_place_from_others() -> None:
    """A connection with something unsent was to be closed when that was gone: never."""
    generous = {"requests_per_s": 100_000, "max_bytes_per_s": 1_000_000_000}
    async with box(max_connections=1, **generous) as (adapter, _):
        deaf = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(deaf, ("127.0.0.1", adapter.ports["tcp"]))
        text = "\r\n".join(
            [
                f"OPTIONS {BOX} SIP/2.0", "Via: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bKx",
                "From: <sip:a@b>;tag=1", f"To: <{BOX}>", f"Call-ID: {'x' * 4000}",
                "CSeq: 1 OPTIONS", "Max-Forwards: 70", "Content-Length: 0", "", "",
            ]
        ).encode()  # fmt: skip
        await until(lambda: bool(adapter._wires._connections), "it is connected")
        (connection,) = adapter._wires._connections.values()
        assert connection._transport is not None
        while not connection._transport.get_write_buffer_size():
            await asyncio.wait_for(loop.sock_sendall(deaf, text * 4), 5.0)
            await asyncio.sleep(0)
        anna = await Stream(adapter, "anna").open()
        for _ in range(2):
            assert (await anna.register()).startswith("SIP/2.0 200"), "the deaf one made room"
            anna.close()
            await until(lambda: not adapter.holds()["connections"], "its connection is gone")
            anna = await Stream(adapter, "anna").open()
        anna.close()
        deaf.close()


# Guesses


async def guess(phone: Raw, user: str, *passwords: str, within_s: float = 5.0) -> str:
    """One REGISTER as somebody with all these passwords; its answer, empty for none."""
    who = f"<sip:{user}@127.0.0.1>"
    await phone.send("REGISTER", to=who)
    challenge = await phone.expect("SIP/2.0 401", within_s)
    if not challenge:
        return ""
    offer = re.findall(r"WWW-Authenticate: (.*)\r\n", challenge)[0]
    lines = [
        proof(offer, user, password, "REGISTER", BOX, count=n + 1)
        for n, password in enumerate(passwords)
    ]
    await phone.send("REGISTER", *lines, to=who)
    return await phone.expect("SIP/2.0 ", within_s)


async def test_a_request_is_one_guess() -> None:
    async with box() as (adapter, host):
        thief = Raw(adapter, "thief", "127.0.0.66")
        answer = await guess(thief, "anna", "a", "b", "c", "secret-anna")
        assert answer.startswith("SIP/2.0 401")
        assert host.counters["wrong_password"] == 1
        thief.close()


async def test_an_account_is_no_licence_to_guess_the_passwords_of_others() -> None:
    async with box(lockout_failures=4, fraud={"block_s": 60}) as (adapter, host):
        mallory = Raw(adapter, "mallory")
        for n in range(4):
            assert (await guess(mallory, "anna", f"{n}")).startswith("SIP/2.0 401")
            assert (await mallory.register()).startswith("SIP/2.0 200")
        for user, password in (("anna", "secret-anna"), ("bert", "secret-bert"), ("", "")):
            assert await guess(mallory, user, password, within_s=1.5) == "", (
                "right or wrong: silence"
            )
        assert host.counters["wrong_password"] == 4
        (alarm,) = host.of(AlarmRaised)
        assert (alarm.endpoint, alarm.alarm) == ("sip/anna", "toll-fraud")
        assert "127.0.0.2" in alarm.text
        anna = Raw(adapter, "anna", "127.0.0.3")
        assert (await anna.ask("MESSAGE", uri="sip:9@127.0.0.1")).startswith("SIP/2.0 202")
        anna.close()
        mallory.close()


async def test_guesses_hide_no_fraud_behind_them() -> None:
    """Who guessed first had the alarm raised already when he then called with what he found."""
    async with box(lockout_failures=2, fraud={"calls": 1}) as (adapter, host):
        thief, anna = Raw(adapter, "thief", "127.0.0.66"), Raw(adapter, "anna")
        for n in range(2):
            await guess(thief, "anna", f"{n}")
        for _ in range(2):
            assert (await anna.ask("MESSAGE", uri="sip:9@127.0.0.1")).startswith("SIP/2.0 202")
        said = [(alarm.severity.name, alarm.text) for alarm in host.of(AlarmRaised)]
        assert said == [
            ("MINOR", "anna: too many wrong passwords from 127.0.0.66"),
            ("MAJOR", "anna: 2 calls within 600 s"),
        ]
        thief.close(), anna.close()


async def test_one_wrong_password_silences_nobody_else_behind_a_nat() -> None:
    async with box(lockout_failures=3) as (adapter, host):
        anna, bert = Raw(adapter, "anna"), Raw(adapter, "bert")
        assert (await anna.register()).startswith("SIP/2.0 200")
        for n in range(3):
            assert (await guess(bert, "bert", f"{n}")).startswith("SIP/2.0 401")
        assert await guess(bert, "bert", "secret-bert", within_s=1.5) == ""
        assert (await anna.register()).startswith("SIP/2.0 200"), "she proved herself there before"
        assert await guess(anna, "anna", "wrong", within_s=1.5) == "", "a wrong guess tells nothing"
        assert await guess(anna, "anna", "secret-anna", within_s=1.5) == ""
        other = Raw(adapter, "bert", "127.0.0.3")
        assert (await other.register()).startswith("SIP/2.0 200"), "elsewhere all is well"
        assert host.counters["wrong_password"] == 4
        anna.close(), bert.close(), other.close()


async def test_a_telephone_is_shown_as_itself_whatever_it_asserts() -> None:
    async with box(phones={"anna": {"password": "secret-anna"}}) as (adapter, host):
        anna = Raw(adapter, "anna")
        asked = asyncio.create_task(
            anna.ask(
                "INVITE",
                'P-Asserted-Identity: "Police" <sip:110@127.0.0.1>',
                'Remote-Party-ID: "Police" <sip:110@127.0.0.1>;party=calling',
                "Diversion: <sip:110@127.0.0.1>;reason=unconditional",
                body=SDP,
            )
        )
        offered = await host.wait_for(LegOffered, endpoint="sip/anna")
        assert (offered.calling, offered.display, offered.diverted) == ("anna", "", ())
        asked.cancel()
        anna.close()


async def test_a_trunk_opens_no_microphones() -> None:
    async with trunk() as (adapter, host, peer):
        lines = (
            "Answer-Mode: Auto\r\nCall-Info: <sip:x>;answer-after=0\r\nP-Auto-Answer: normal\r\n"
        )
        peer.send(adapter, peer.invite("c1", lines=lines, body=SDP))
        offered = await host.wait_for(LegOffered)
        assert not offered.auto_answer


@pytest.mark.parametrize(("user", "redirect"), [("5", "5"), ("sip%2Fcarrier%3A0900", "")])
async def test_sending_a_call_on_goes_round_no_routes(user: str, redirect: str) -> None:
    async with box() as (adapter, host):
        mallory = Raw(adapter, "mallory")
        assert (await mallory.register()).startswith("SIP/2.0 200")
        leg = host.begin_leg("sip/mallory")
        adapter.dial(
            Dial(leg=leg, endpoint="sip/mallory", number="", calling="1", trace="t", call="c")
        )
        invite = await mallory.expect("INVITE ")
        copied = re.findall(r"\r\n((?:Via|From|To|Call-ID|CSeq): .*)(?=\r\n)", invite)
        answer = ["SIP/2.0 302 Elsewhere", *copied, f"Contact: <sip:{user}@x>", "", ""]
        await mallory.write(
            "\r\n".join(answer).replace(">\r\nCall-ID", ">;tag=1\r\nCall-ID").encode()
        )
        ended = await host.wait_for(LegEnded, leg=leg)
        assert ended.redirect == redirect
        mallory.close()
