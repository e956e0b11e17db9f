"""Whose keys are agreed on, when they change, and what the configuration is warned of."""

from __future__ import annotations

import pytest

from gateway.adapters.sip.config import SipSection, SrtpMode
from gateway.adapters.sip.keying import Keying, doubts
from gateway.errors import DeviceError, PeerError
from gateway.media import srtp
from gateway.protocols import sdp, sdp_crypto
from gateway.typed import check

pytestmark = pytest.mark.skipif(not srtp.suites(), reason=f"no libsrtp2: {srtp.REMEDY}")

SUITE = "AES_CM_128_HMAC_SHA1_80"


def choice(*lines: str, protocol: str = "RTP/SAVP") -> sdp.Choice:
    offer = sdp.make_offer([sdp.PCMA], "192.0.2.1", 4000, protocol=protocol, crypto=lines)
    found = sdp.choose(sdp.parse(offer.encode()), [sdp.PCMA], protocols=(protocol,))
    assert found is not None
    return found


def key(n: int) -> bytes:
    return bytes([n]) * 30


def test_an_offer_is_answered_with_our_own_key() -> None:
    keying = Keying(SrtpMode.REQUIRED, private=True)
    (line,) = keying.answer(choice(sdp_crypto.line(4, SUITE, key(1))))
    ours = sdp_crypto.parse(line)
    assert (ours.tag, ours.suite) == (4, SUITE)
    assert ours.key != key(1)
    assert keying.agreed is not None
    assert (keying.agreed.receive, keying.agreed.send) == (key(1), ours.key)
    # A hold: the same keys both ways, by whomever it is asked.
    assert keying.answer(choice(sdp_crypto.line(4, SUITE, key(1)))) == [line]
    assert keying.offer() == ("RTP/SAVP", [line])
    # A new key of the peer's: a new one of ours.
    (renewed,) = keying.answer(choice(sdp_crypto.line(1, SUITE, key(2))))
    assert sdp_crypto.parse(renewed).key not in (ours.key, key(2))
    assert keying.agreed.receive == key(2)


def test_our_offer_and_its_answers() -> None:
    keying = Keying(SrtpMode.OFFERED, private=True)
    protocol, lines = keying.offer()
    assert protocol == "RTP/AVP"
    offered = [sdp_crypto.parse(line) for line in lines]
    assert [each.suite for each in offered] == [suite.value for suite in srtp.suites()]
    assert len({each.key for each in offered}) == len(offered)
    assert keying.offer()[1] == lines
    with pytest.raises(PeerError, match="was not offered"):
        keying.accept(choice(sdp_crypto.line(99, SUITE, key(3))))
    with pytest.raises(PeerError, match="not base64"):
        keying.accept(choice(f"1 {SUITE} inline:***", protocol="RTP/AVP"))
    tag = next(each.tag for each in offered if each.suite == SUITE)
    keying.accept(choice(sdp_crypto.line(tag, SUITE, key(3)), protocol="RTP/AVP"))
    assert keying.agreed is not None
    assert keying.agreed.receive == key(3)
    assert keying.agreed.send == offered[tag - 1].key


def test_who_has_no_srtp() -> None:
    offered, required = (
        Keying(mode, private=True) for mode in (SrtpMode.OFFERED, SrtpMode.REQUIRED)
    )
    plain = choice(protocol="RTP/AVP")
    assert offered.answer(plain) == []
    assert offered.agreed is None
    assert offered.offer() == ("RTP/AVP", [])
    with pytest.raises(PeerError, match="no a=crypto"):
        required.answer(plain)
    required.offer()
    with pytest.raises(PeerError, match="no key"):
        required.accept(plain)
    with pytest.raises(PeerError, match="MKI"):
        required.answer(choice(sdp_crypto.line(1, SUITE, key(1)) + "|1:4"))
    never = Keying(SrtpMode.NEVER, private=True)
    assert never.protocols == ("RTP/AVP",)
    assert never.answer(choice(sdp_crypto.line(1, SUITE, key(1)), protocol="RTP/AVP")) == []


def test_keys_stay_at_home_where_signalling_can_be_read() -> None:
    required, offered = (
        Keying(mode, private=False) for mode in (SrtpMode.REQUIRED, SrtpMode.OFFERED)
    )
    with pytest.raises(DeviceError, match="without TLS"):
        required.offer()
    assert offered.offer() == ("RTP/AVP", [])


def test_without_the_library_required_is_refused_and_offered_goes_on(monkeypatch) -> None:
    monkeypatch.setattr(srtp._engine, "srtp_suites", lambda: ((), "cannot open libsrtp2.so.1"))
    with pytest.raises(DeviceError, match="install Debian's package libsrtp2-1"):
        Keying(SrtpMode.REQUIRED, private=True).offer()
    assert Keying(SrtpMode.OFFERED, private=True).offer() == ("RTP/AVP", [])
    assert any("every call is refused: no SRTP: cannot open" in what for _, what, _ in _doubts())


def _doubts(**more: object) -> list[tuple[tuple[str, ...], str, str]]:
    section = {
        "listen": ["tls:127.0.0.1:5061"],
        "tls": {"cert_file": "x"},
        "phones": {"anna": {"password": "p", "srtp": "required"}},
    }
    return list(doubts(check(SipSection, section | more, ("adapters", "sip"), [])))


def test_what_the_configuration_is_warned_of() -> None:
    assert _doubts() == []
    ((where, what, _),) = _doubts(listen=["udp:127.0.0.1:5060"])
    assert where == ("phones", "anna", "srtp")
    assert what == "every call is refused: its signalling is not over TLS"
    ((where, what, _),) = _doubts(srtp_over="any")
    assert where == ("srtp_over",)
    trunks = {
        "a": {"peer": "sip:a.test", "srtp": "offered"},
        "b": {"peer": "sips:b.test", "srtp": "offered", "tls_verify": False},
    }
    found = [(where, what) for where, what, _ in _doubts(trunks=trunks)]
    assert found[0][0] == ("trunks", "a", "srtp")
    assert "in the clear" in found[0][1]
    assert "tls_verify" in found[1][1]
