"""What nobody may read in what went over the wires, and what must stay readable."""

from __future__ import annotations

import itertools
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.secrets import Secret
from gateway.adapters.sip.config import Phone
from gateway.timeline.redact import Redactor, secrets_of
from gateway.timeline.wire import WireEntry


def sip(*lines: str, body: str = "") -> bytes:
    return "\r\n".join(["INVITE sip:200@box SIP/2.0", *lines, "", body]).encode()


@pytest.mark.parametrize("name", ["Authorization", "proxy-AUTHORIZATION", "Authorization "])
def test_a_digest_is_seen_but_not_its_proof(name: str) -> None:
    value = (
        'Digest username="anna", realm="box",\r\n nonce="abc123", cnonce="q",'
        ' response="6629fae49393a05397450978507c4ef1", uri="sip:box", qop=auth, nc=00000001'
    )
    data = sip("Via: x", f"{name}: {value}", "Call-ID: 1")
    shown = Redactor().sip(data)
    assert len(shown) == len(data)
    for secret in (b"6629fae4", b"abc123", b'"q"'):
        assert secret not in shown
    for open_ in (b'username="anna"', b'realm="box"', b"nc=00000001", b"Call-ID: 1"):
        assert open_ in shown


def test_other_credentials_are_hidden_whole() -> None:
    for value in ("Basic YW5uYTpnZWhlaW0=", "Bearer abc.def.ghi"):
        shown = Redactor().sip(sip(f"Authorization: {value}", "Call-ID: 1"))
        assert value.split()[1].encode() not in shown
        assert b"Call-ID: 1" in shown


def test_keys_of_media_are_hidden() -> None:
    body = (
        "v=0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 "
        "inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj|2^20|1:4;inline:YUJDZGVmZ2hpSktMbW9Q|2^20|2:4"
        "\r\na=key-mgmt:mikey AQAFgM0XflABAAAAAAAAAAAAAAsAyO\r\nk=clear:geheim\r\n"
        "a=ice-pwd:asd88fgpdd777uzjYhagZg\r\na=ice-ufrag:8hhY\r\nm=audio 4000 RTP/SAVP 0\r\n"
    )
    shown = Redactor().sip(sip("Content-Type: application/sdp", body=body))
    for secret in (b"d0RmdmcmV", b"YUJDZGVm", b"AQAFgM0X", b"geheim", b"asd88fgpdd"):
        assert secret not in shown
    for open_ in (b"AES_CM_128_HMAC_SHA1_80", b"|2^20", b"a=ice-ufrag:8hhY", b"m=audio 4000"):
        assert open_ in shown


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/dtmf-relay", "Signal=7\r\nDuration=160\r\n"),
        ("application/dtmf", "7"),
        ("Application/DTMF-relay", "Signal = 7\r\nDuration=160"),
        ("application/kpml-response+xml", '<kpml-response code="200" digits="7"/>'),
    ],
)
def test_digits_are_shown_only_when_the_configuration_says_so(kind: str, body: str) -> None:
    data = sip(f"Content-Type: {kind}", body=body)
    shown = Redactor().sip(data)
    assert len(shown) == len(data)
    assert b"7" not in shown.partition(b"\r\n\r\n")[2]
    assert Redactor(digits=True).sip(data) == data


def test_a_pin_that_is_dialled_along() -> None:
    redactor = Redactor(shown=lambda n: "*99?????" if n.startswith("*99") else n)
    data = (
        b"INVITE sip:*9983650@box SIP/2.0\r\nTo: <sip:*9983650@box>\r\nFrom: <sip:201@box>\r\n\r\n"
    )
    shown = redactor.sip(data)
    assert len(shown) == len(data)
    assert b"83650" not in shown
    assert b"sip:201@box" in shown


def test_secrets_of_the_configuration_are_found_however_deep() -> None:
    phone = Phone(password=_secret("correct horse"))
    assert list(secrets_of({"a": [(phone, 3)]})) == ["correct horse"]
    redactor = Redactor(["correct horse", "4711"])
    assert redactor.text("x correct horse y") == "x ************* y"
    # A short one would be found in every time stamp.
    assert redactor.text("code 4711, port 14711, 10.4711") == "code ****, port 14711, 10.4711"


@pytest.mark.parametrize(
    ("shown", "hidden"),
    [
        ("mqtt: lab/house/state triggered", ""),
        ("cmd/lab/door open", ""),
        ("lab/house/login lab", "lab/house/login ***"),
        ("labor, collab, a.lab.example", ""),
        ("sip:anna:lab@box", "sip:anna:***@box"),
        ('{"user": "lab1", "x": "lab"}', '{"user": "lab1", "x": "***"}'),
        ('password="lab"', 'password="***"'),
        ("user lab, lab", "user ***, ***"),
    ],
)
def test_a_short_word_that_is_a_password_may_name_a_topic(shown: str, hidden: str) -> None:
    assert Redactor(["lab"]).text(shown) == (hidden or shown)


def test_a_short_number_is_hidden_in_a_topic_too() -> None:
    assert Redactor(["4711"]).text("gate/open/4711 on") == "gate/open/**** on"
    assert Redactor(["a7"]).text("a7") == "a7", "fewer than three would hide half of every line"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("REGISTER sips:anna:geheim@pbx.example SIP/2.0", "geheim"),
        ("Contact: <sip:anna:p%40ss@10.0.0.1>", "p%40ss"),
        ("mqtts://box:s3cr+t@broker:8883/x", "s3cr+t"),
        ("http://:leer@host/", "leer"),
        ('{"password": "ein wort", "n": 1}', "wort"),
        ("password='zwei worte'", "worte"),
        ("cfg.WIFI_PASSWORD=ab12&x=1", "ab12"),
        ("api-key: 0815-4711", "0815-4711"),
        ("access_token=abc.def.ghi;", "abc.def.ghi"),
        ("passwd 'x' Passphrase='kiesel'", "kiesel"),
    ],
)
def test_a_password_of_somebody_else_is_known_by_its_place(text: str, hidden: str) -> None:
    redactor = Redactor()
    shown = redactor.text(text)
    assert hidden not in shown
    assert len(shown) == len(text)
    # In SIP as anywhere else.
    assert hidden.encode() not in redactor.sip(sip(f"X-Note: {text}"))


@pytest.mark.parametrize("n", [129, 600, 5000])
@pytest.mark.parametrize(
    "text",
    [
        "access_token={}", 'secret="{}"', "pwd='{}'", r'{{\"password\":\"{}\",\"n\":1}}',
        "sip:anna:{}@box", "mqtts://box:{}@broker:8883/x",
    ],
)  # fmt: skip
def test_a_long_password_is_hidden_to_its_end(text: str, n: int) -> None:
    assert Redactor().text(text.format("x" * n)) == text.format("*" * n)
    user = text.replace("anna", "a" * n).replace("box:", "b" * n + ":")
    assert Redactor().text(user.format("x" * n)) == user.format("*" * n)


@pytest.mark.parametrize("secret", ["x", 'a "quoted" end', "back\\", "k\u00e4se", "two\nlines"])
def test_a_password_in_json_within_json(secret: str) -> None:
    inner = json.dumps({"user": "anna", "password": secret, "n": 1})
    shown = json.loads(json.loads(Redactor().text(json.dumps(inner))))
    assert (shown.pop("user"), shown.pop("n")) == ("anna", 1)
    assert set(shown["password"]) == {"*"}
    assert set(json.loads(Redactor().text(inner))["password"]) == {"*"}


def test_an_empty_password_in_json_within_json_stays() -> None:
    text = r"{\"password\":\"\",\"n\":1}"
    assert Redactor().text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "INVITE sip:200@box:5060 SIP/2.0", "Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK@1",
        "Call-ID: a84b4c76e66710@pc33.atlanta.com", "o=- 1 1 IN IP4 10.1.2.3",
        "Contact: <sip:anna@10.0.0.1:5060>;expires=60, <sip:bob@10.0.0.1>",
        "from 12:30:05 to anna@box", "wrong password for anna", "AT+CPIN?",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_stays_readable(text: str) -> None:
    assert Redactor().text(text) == text


def test_sixty_four_kibibytes_of_anything_are_looked_through_at_once() -> None:
    redactor = Redactor(["lab", "correct horse"])
    units = (
        b"a.", b"a:", b"sip:", b"password=", b"a:b:", b":@", b"_pwd ", b"a", b"1:", b"a://", b"a://b:",
        b'pwd="', b"pwd='", rb'\"pwd\":\"', b"pwd:\\", b"\\",
    )  # fmt: skip
    for unit, end in itertools.product(units, (b"", b"@")):
        data = unit * (65536 // len(unit)) + end
        began = time.process_time()
        assert len(redactor.sip(data)) == len(redactor.octets(data)) == len(data)
        assert time.process_time() - began < 3.0, unit


def _secret(text: str) -> Secret:
    return Secret(text)


@given(st.binary(max_size=400))
def test_garbage_stays_as_long_as_it_was(data: bytes) -> None:
    redactor = Redactor(["secret-word"], shown=lambda n: "?" * len(n))
    assert len(redactor.sip(data)) == len(data)
    entry = WireEntry(
        mono=0.0, at=0.0, adapter="sip", about="", outward=False, kind="sip", data=data
    )
    assert len(redactor.entry(entry).data) == len(data)
