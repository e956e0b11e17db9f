"""Session descriptions: reading, writing, offer and answer."""

from __future__ import annotations

import gc
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UsageError
from gateway.protocols import sdp, sdp_exchange
from gateway.protocols.sdp import (
    CN,
    G722,
    MAX_OCTETS,
    PCMA,
    PCMU,
    TELEPHONE_EVENT,
    Codec,
    Direction,
    SdpError,
    accept,
    answer,
    choose,
    make_offer,
    parse,
)

CORPORA = Path(
    os.environ.get("CROSSPOINT_CORPORA", Path(__file__).resolve().parents[3] / "shared" / "corpora")
)

PHONE = b"""v=0
o=alice 2890844526 2890844527 IN IP4 host.example.com
s=Call
i=a note
c=IN IP4 192.0.2.10
b=AS:64
t=0 0
a=tool:x
m=audio 49170 RTP/AVP 98 8 0 101 13
a=rtpmap:98 iLBC/8000
a=rtpmap:101 telephone-event/8000
a=fmtp:101 0-15
a=rtcp:53020 IN IP4 192.0.2.11
a=ptime:30
a=maxptime:60
a=x-unknown:kept as is
a=sendrecv
m=video 51372 RTP/AVP 31
c=IN IP6 2001:db8::1
m=image 5000 udptl t38
""".replace(b"\n", b"\r\n")


def test_reads_what_is_there() -> None:
    found = parse(PHONE)
    assert (found.session_id, found.version) == ("2890844526", 2890844527)
    audio, video, image = found.media
    assert [c.name for c in audio.codecs()] == ["iLBC", "PCMA", "PCMU", "telephone-event", "CN"]
    assert audio.codecs()[3] == Codec("telephone-event", 101, fmtp="0-15")
    assert found.address_of(audio) == "192.0.2.10"
    assert found.address_of(video) == "2001:db8::1"
    assert (audio.ptime_ms, audio.maxptime_ms) == (30, 60)
    assert audio.get("x-unknown") == "kept as is"
    assert image.formats == ["t38"]
    assert image.codecs() == []


def test_what_is_read_is_written_again() -> None:
    assert parse(PHONE).encode() == PHONE


def test_line_ends_may_be_lf_only() -> None:
    assert parse(PHONE.replace(b"\r\n", b"\n")) == parse(PHONE)


def test_answer_keeps_places_and_payload_types() -> None:
    offer = parse(PHONE)
    choice = choose(offer, [PCMU, PCMA, TELEPHONE_EVENT])
    assert choice is not None
    assert [c.name for c in choice.codecs] == ["PCMA", "PCMU"], "the offer's order decides"
    assert choice.telephone_event is not None
    assert choice.telephone_event.payload == 101
    assert choice.rtcp == ("192.0.2.11", 53020)
    body = answer(offer, choice, "192.0.2.1", 4000, session_id="7", ptime_ms=20).encode()
    assert body == (
        b"v=0\r\no=- 7 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
        b"m=audio 4000 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n"
        b"a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n"
        b"m=video 0 RTP/AVP 31\r\nm=image 0 udptl t38\r\n"
    )


def test_our_order_may_decide() -> None:
    choice = choose(parse(PHONE), [PCMU, PCMA], prefer_ours=True)
    assert choice is not None
    assert choice.codec == PCMU
    assert choice.telephone_event is None


def test_nothing_in_common() -> None:
    assert choose(parse(PHONE), [G722, TELEPHONE_EVENT, CN]) is None
    assert choose(parse(PHONE.replace(b"RTP/AVP 98", b"RTP/SAVP 98")), [PCMA]) is None
    assert choose(parse(PHONE.replace(b"audio 49170", b"audio 0")), [PCMA]) is None


@pytest.mark.parametrize(
    ("theirs", "wanted", "ours"),
    [
        ("sendrecv", Direction.SENDRECV, Direction.SENDRECV),
        ("sendonly", Direction.SENDRECV, Direction.RECVONLY),
        ("recvonly", Direction.SENDRECV, Direction.SENDONLY),
        ("inactive", Direction.SENDRECV, Direction.INACTIVE),
        ("sendonly", Direction.SENDONLY, Direction.INACTIVE),
        ("sendrecv", Direction.RECVONLY, Direction.RECVONLY),
    ],
)
def test_direction_of_an_answer(theirs: str, wanted: Direction, ours: Direction) -> None:
    offer = parse(PHONE.replace(b"a=sendrecv", b"a=" + theirs.encode()))
    choice = choose(offer, [PCMA], wanted=wanted)
    assert choice is not None
    assert choice.direction is ours
    reply = answer(offer, choice, "192.0.2.1", 4000)
    assert reply.direction_of(reply.media[0]) is ours


def test_direction_of_the_session_counts_where_the_line_has_none() -> None:
    text = PHONE.replace(b"a=sendrecv\r\n", b"").replace(b"a=tool:x", b"a=inactive")
    offer = parse(text)
    assert offer.direction_of(offer.media[0]) is Direction.INACTIVE


def test_hold_by_null_address() -> None:
    offer = parse(PHONE.replace(b"c=IN IP4 192.0.2.10", b"c=IN IP4 0.0.0.0"))
    choice = choose(offer, [PCMA])
    assert choice is not None
    assert choice.on_hold
    assert choice.direction is Direction.RECVONLY


def test_a_whole_exchange() -> None:
    event = TELEPHONE_EVENT
    offer = make_offer([G722, PCMA, event], "2001:db8::2", 5004, rtcp_mux=True)
    theirs = parse(offer.encode())
    choice = choose(theirs, [PCMA, event])
    assert choice is not None
    assert choice.rtcp == ("2001:db8::2", 5004)
    reply = parse(answer(theirs, choice, "192.0.2.9", 6000, rtcp_mux=True).encode())
    settled = accept(offer, reply, [G722, PCMA, event])
    assert settled is not None
    assert settled.codecs == (PCMA,)
    assert (settled.address, settled.port, settled.rtcp_mux) == ("192.0.2.9", 6000, True)
    assert settled.direction is Direction.SENDRECV


def test_an_answer_that_refuses_or_does_not_fit() -> None:
    offer = make_offer([PCMA], "192.0.2.1", 4000)
    assert accept(offer, parse(b"v=0\r\nm=audio 0 RTP/AVP 8\r\n"), [PCMA]) is None
    with pytest.raises(SdpError, match="media lines"):
        accept(offer, parse(b"v=0\r\n"), [PCMA])
    with pytest.raises(SdpError, match="answers"):
        accept(offer, parse(b"v=0\r\nm=video 9 RTP/AVP 8\r\n"), [PCMA])


def test_srtp_lines_are_kept_and_answered() -> None:
    line = "1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj"
    offer = make_offer([PCMA], "192.0.2.1", 4000, protocol="RTP/SAVP", crypto=[line])
    choice = choose(parse(offer.encode()), [PCMA], protocols=("RTP/AVP", "RTP/SAVP"))
    assert choice is not None
    assert choice.crypto == (line,)
    reply = answer(offer, choice, "192.0.2.2", 1, crypto=[line])
    assert reply.media[0].protocol == "RTP/SAVP"
    assert reply.media[0].get("crypto") == line


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"v=1\r\n",
        b"v=0\r\nm=audio x RTP/AVP 0\r\n",
        b"v=0\r\nm=audio 70000 RTP/AVP 0\r\n",
        b"v=0\r\nm=audio 1/0 RTP/AVP 0\r\n",
        b"v=0\r\nc=IN IP4\r\n",
        b"v=0\r\no=nonsense\r\n",
        b"v=0\r\nnonsense\r\n",
        b"v=0\r\ns=a\rb\r\n",
        b"v=0\r\n" + b"m=audio 1 RTP/AVP 0\r\n" * 17,
        b"v=0\r\n" + b"a=x\r\n" * 600,
        b"v=0\r\nm=audio 1 RTP/AVP" + b" 0" * 65 + b"\r\n",
        b"v=0\r\na=" + b"x" * MAX_OCTETS,
    ],
)
def test_refused(text: bytes) -> None:
    with pytest.raises(SdpError):
        parse(text)


def test_nothing_is_smuggled_into_ours() -> None:
    with pytest.raises(UsageError, match="CR or LF"):
        make_offer([PCMA], "192.0.2.1\r\na=x", 4000).encode()
    with pytest.raises(UsageError, match="distinct"):
        make_offer([PCMA, PCMA], "192.0.2.1", 4000)


@given(st.binary(max_size=400))
def test_garbage(data: bytes) -> None:
    for text in (data, b"v=0\r\n" + data):
        try:
            found = parse(text)
        except SdpError:
            continue
        choose(found, [PCMA, TELEPHONE_EVENT])


@given(st.integers(0, len(PHONE) - 1), st.integers(0, 255), st.integers(0, len(PHONE)))
def test_mutated(at: int, octet: int, end: int) -> None:
    data = bytearray(PHONE)
    data[at] = octet
    try:
        found = parse(bytes(data[:end]))
        choice = choose(found, [PCMA, PCMU, TELEPHONE_EVENT])
        if choice is not None:
            parse(answer(found, choice, "192.0.2.1", 4000).encode())
    except SdpError:
        pass


@pytest.mark.skipif(not (CORPORA / "rfc4475").exists(), reason="corpora are not here")
def test_descriptions_of_the_torture_messages() -> None:
    read = 0
    for path in sorted((CORPORA / "rfc5118" / "wire").iterdir()):
        _, _, body = path.read_bytes().partition(b"\r\n\r\n")
        if body:
            found = parse(body)
            assert len(found.media) == 2
            assert found.address_of(found.media[0])
            read += 1
    assert read == 3


def test_extended_reports_are_answered_where_they_are_offered() -> None:
    """RFC 3611 section 5.2."""
    ours = [sdp.PCMA]
    plain = sdp.make_offer(ours, "192.0.2.1", 4000)
    asking = sdp.make_offer(ours, "192.0.2.1", 4000, rtcp_xr=sdp.RTCP_XR)
    assert b"a=rtcp-xr:voip-metrics rcvr-rtt=all\r\n" in asking.encode()
    for offer, reports in ((plain, False), (asking, True)):
        choice = sdp.choose(sdp.parse(offer.encode()), ours)
        assert choice is not None
        assert (choice.xr_metrics, choice.xr_round_trip) == (reports, reports)
        reply = sdp.answer(offer, choice, "192.0.2.2", 5000, rtcp_xr=sdp.RTCP_XR)
        assert (b"rtcp-xr" in reply.encode()) == reports
        settled = sdp.accept(offer, sdp.parse(reply.encode()), ours)
        assert settled is not None
        assert settled.xr_metrics == reports


def test_extended_reports_of_a_whole_session_and_of_other_kinds() -> None:
    text = (
        b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
        b"a=rtcp-xr:rcvr-rtt=sender:400 pkt-loss-rle\r\nm=audio 4000 RTP/AVP 8\r\n"
    )
    choice = sdp.choose(sdp.parse(text), [sdp.PCMA])
    assert choice is not None
    assert (choice.xr_metrics, choice.xr_round_trip) == (False, True)


def test_comfort_noise_is_agreed_on_only_where_both_have_it() -> None:
    with_noise, without = [sdp.PCMA, sdp.CN], [sdp.PCMA]
    for theirs in (with_noise, without):
        for ours in (with_noise, without):
            both = theirs is ours is with_noise
            offer = sdp.make_offer(theirs, "192.0.2.1", 4000)
            choice = sdp.choose(sdp.parse(offer.encode()), ours)
            assert choice is not None
            assert choice.codecs == (sdp.PCMA,)
            assert choice.comfort_noise == (sdp.CN if both else None)
            reply = sdp.answer(offer, choice, "192.0.2.2", 5000, single_codec=True).encode()
            assert (b"m=audio 5000 RTP/AVP 8 13\r\n" in reply) == both
            settled = sdp.accept(offer, sdp.parse(reply), theirs)
            assert settled is not None
            assert settled.comfort_noise == choice.comfort_noise


def test_comfort_noise_has_the_clock_of_the_speech() -> None:
    wide = sdp.Codec("L16", 96, 16000)
    offer = sdp.make_offer([wide, sdp.CN], "192.0.2.1", 4000)
    choice = sdp.choose(offer, [wide, sdp.CN])
    assert choice is not None
    assert choice.comfort_noise is None
    noise = sdp.Codec("CN", 98, 16000)
    choice = sdp.choose(sdp.make_offer([wide, noise], "192.0.2.1", 4000), [wide, noise])
    assert choice is not None
    assert choice.comfort_noise == noise


def test_linear_audio_is_agreed_on_at_its_own_clock() -> None:
    """RFC 3551 4.5.11: dynamic types; the offer's are answered."""
    ours = [sdp.L16, sdp.L16_8, sdp.PCMA, sdp.TELEPHONE_EVENT, sdp.TELEPHONE_EVENT_16]
    text = (
        b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
        b"m=audio 4000 RTP/AVP 11 110 111 8 112 101\r\na=rtpmap:110 L16/16000/2\r\n"
        b"a=rtpmap:111 L16/16000\r\na=rtpmap:112 telephone-event/16000\r\n"
        b"a=rtpmap:101 telephone-event/8000\r\n"
    )
    choice = sdp.choose(sdp.parse(text), ours)
    assert choice is not None
    assert (choice.codec.payload, choice.codec.clock, choice.codec.channels) == (111, 16000, 1)
    assert choice.telephone_event is not None
    assert choice.telephone_event.payload == 112
    narrow = sdp.choose(sdp.make_offer([sdp.L16_8], "192.0.2.1", 4000), ours)
    assert narrow is not None
    assert narrow.codec == sdp.L16_8


def test_what_is_kept_of_descriptions_is_small() -> None:
    head = (
        b"v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\n"
        b"m=audio 9000 RTP/AVP 0 8\r\na=ptime:20\r\na=fmtp:0 "
    )
    descriptions = [
        head + b"0-15," * ((MAX_OCTETS - 300) // 5) + b"%d\r\n" % n for n in range(40)
    ]  # fmt: skip

    def agreed(data: bytes) -> object:
        return choose(parse(data), [PCMU, PCMA])

    assert agreed(descriptions[0]) is not None
    tracemalloc.start()
    try:
        for data in descriptions:
            assert agreed(data) is not None
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    whole = sum(map(len, descriptions))
    assert kept < whole / 20, f"{kept} octets of {whole} are kept"


@given(
    lines=st.lists(
        st.sampled_from(["a=ptime:20", "a=sendonly", "a= x : y ", "a=", "b=AS:64", "", "i=x"])
    ),
    end=st.sampled_from(["\r\n", "\n", ""]),
)
def test_attributes_of_the_last_line_are_read_wherever_they_stand(
    lines: list[str], end: str
) -> None:
    head = ["v=0", "o=- 1 1 IN IP4 192.0.2.1", "s=-", "t=0 0", "a=tool:x", "m=audio 4000 RTP/AVP 0"]
    wanted = [line[2:].rstrip(" \t").partition(":") for line in lines if line.startswith("a=")]
    for _ in range(2):
        description = sdp.parse(("\r\n".join([*head, *lines]) + end).encode())
        [media] = description.media
        assert description.attributes == [("tool", "x")]
        assert media.attributes == [
            (name, rest.strip() if colon else None) for name, colon, rest in wanted
        ]
        # Whoever changes its copy changes nobody else's.
        media.attributes.append(("inactive", None))


def test_what_a_stranger_writes_at_length_is_not_kept() -> None:
    before = sdp_exchange._described_cached.cache_info().currsize
    for n in range(3):
        offer = make_offer([Codec("x", 100, 8000, 1, "y" * 9000 + str(n))], "192.0.2.1", 4000)
        assert ("fmtp", "100 " + "y" * 9000 + str(n)) in offer.media[0].attributes
    assert sdp_exchange._described_cached.cache_info().currsize == before
