"""Lines cut and written in C: against what the same rules say in a few words of Python."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import PeerError, UsageError
from gateway.protocols.sip._lines import cut, encode, plain_params
from gateway.protocols.sip.names import KEYS

PIECES = st.sampled_from(
    [
        b"\r\n", b"\r", b"\n", b":", b" ", b"\t", b",", b"Via", b"v", b"V", b"X-Unknown",
        b"call-ID", b"SIP/2.0 200 OK", b"INVITE sip:a@b SIP/2.0", b"\xc3\xa4", b"\xff",
        "\u212a".encode(), b"Content-Length", b"0", b"P-" + b"a" * 40, b"\0",
    ]
)  # fmt: skip
HEADS = st.lists(PIECES | st.binary(max_size=4), max_size=40).map(b"".join)


def expected(head: bytes, most: int) -> tuple[str, dict[str, list[str]], str | None, bool]:
    lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    fault = "bare CR or LF in the header" if re.search("[\r\n]", "".join(lines)) else None
    if len(lines) > most:
        fault = f"more than {most} header lines"
    headers: dict[str, list[str]] = {}
    for line in lines[1:most]:
        name, colon, value = line.partition(":")
        key = name.rstrip(" \t").lower()
        key = KEYS.get(key, key)
        if not colon or not key or " " in key or "\t" in key:
            fault = f"malformed header line {line[:60]!r}"
        else:
            headers.setdefault(key, []).append(value.strip(" \t"))
    return lines[0], headers, fault, any(len(values) > 1 for values in headers.values())


@given(head=HEADS, most=st.integers(1, 20))
def test_heads_are_cut_as_the_rules_say(head: bytes, most: int) -> None:
    assert cut(head, most) == expected(head, most)


@pytest.mark.parametrize("name", list(KEYS))
def test_known_names_have_their_keys(name: str) -> None:
    head = f"BYE sip:a SIP/2.0\r\n{name} : x".encode()
    [key] = cut(head, 9)[1]
    assert key == KEYS[name]


PLAIN = re.compile(r"(?:;[^\s;=\"<>,]+(?:=[^\s;\"<>,]+)?)+")
PARAMS = st.text(st.sampled_from(';;;==aAbB \t"<,\x1c\x1d\x1f\x0b~0é')) | st.text(max_size=20)


@given(PARAMS.map(lambda text: f";{text}") | PARAMS)
def test_plain_parameters_are_those_without_blanks_and_quotes(text: str) -> None:
    if not PLAIN.fullmatch(text) or not text.isascii():
        assert plain_params(text) is None
        return
    pairs = [piece.partition("=")[::2] for piece in text[1:].split(";")]
    names = [name.lower() for name, _ in pairs]
    if len(set(names)) < len(names):
        with pytest.raises(PeerError, match="is given twice"):
            plain_params(text)
    else:
        assert plain_params(text) == dict(zip(names, (value for _, value in pairs), strict=True))


WORDS = st.text(st.characters(max_codepoint=0x2FFF, exclude_characters="\r\n"), max_size=20) | (
    st.binary(max_size=9).map(lambda octets: octets.decode("utf-8", "surrogateescape"))
)


@given(start=WORDS, headers=st.lists(st.tuples(WORDS, WORDS), max_size=9), body=st.binary())
def test_messages_are_written_line_by_line(
    start: str, headers: list[tuple[str, str]], body: bytes
) -> None:
    lines = [start, *(f"{name}: {value}" for name, value in headers)]
    if re.search("[\r\n]", "".join(lines)):
        with pytest.raises(UsageError):
            encode(start, headers, body)
        return
    lines += [f"Content-Length: {len(body)}", "", ""]
    assert encode(start, headers, body) == (
        "\r\n".join(lines).encode("utf-8", "surrogateescape") + body
    )


@pytest.mark.parametrize("broken", ["a\rb", "a\nb", "ä\r\nb"])
@pytest.mark.parametrize("place", range(3))
def test_no_text_brings_a_line_end(broken: str, place: int) -> None:
    words = ["BYE sip:a SIP/2.0", "To", "<sip:a>"]
    words[place] = broken
    with pytest.raises(UsageError, match="CR or LF"):
        encode(words[0], [(words[1], words[2])])


def test_a_header_field_is_text() -> None:
    wrong: list[tuple[str, str]] = [("Expires", 60)]  # type: ignore[list-item]
    with pytest.raises(TypeError):
        encode("BYE sip:a SIP/2.0", wrong)


def test_nothing_is_kept_of_what_was_cut_and_written() -> None:
    head = b"BYE sip:a SIP/2.0\r\nVia: x;branch=z9\r\nVia: y\r\nX-Other: z\r\nbroken"

    def work() -> None:
        for _ in range(200):
            _, headers, _, _ = cut(head, 3)
            cut(head, 99)
            plain_params(";branch=z9hG4bKabcdef;rport")
            plain_params(';a=1;b="')
            encode("BYE sip:a SIP/2.0", [("Via", headers["via"][0]), ("Subject", "ä")], b"x")

    work()
    before = sys.getallocatedblocks()
    work()
    assert sys.getallocatedblocks() - before < 50
