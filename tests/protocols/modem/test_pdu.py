"""Text messages as another decoder reads them, and as others wrote them."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import UsageError
from gateway.lab.radio_module import delivered
from gateway.protocols.modem import pdu
from gateway.protocols.modem.pdu import MAX_PARTS, Part, PduError

fields = pytest.importorskip("smspdudecoder.fields")
GSM = "@£$¥èéùìòÇ\nØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./09:;<=>?¡AZÄÖÑÜ§¿azäöñüà^{}\\[~]|€"


def foreign(one: pdu.Submitted) -> dict[str, Any]:
    assert one.n_octets == len(one.hexadecimal) // 2 - 1
    found: dict[str, Any] = fields.SMSSubmit.decode(StringIO(one.hexadecimal))
    octets = bytes.fromhex(one.hexadecimal)
    at = 5 + (octets[3] + 1) // 2
    if octets[at + 1] == 0 and octets[at + 3] % 8 == 7:
        # It does not look at the length, and takes the seven bits that are left over for a sign.
        found["user_data"]["data"] = found["user_data"]["data"].removesuffix("@")
    return found


@pytest.mark.parametrize(
    ("line", "sender", "text"),
    [
        ("07911326040000F0040B911346610089F60000208062917314080CC8F71D14969741F977FD07",
         "+31641600986", "How are you?"),
        ("07917283010010F5040BC87238880900F10000993092516195800AE8329BFD4697D9EC37",
         "27838890001", "hellohello"),
    ],
)  # fmt: skip
def test_what_others_wrote(line: str, sender: str, text: str) -> None:
    found = pdu.received(line)
    assert (found.sender, found.text, found.part) == (sender, text, None)


def test_a_service_with_a_name() -> None:
    name = "0ED0C8F71D14969741"
    rest = "0000" + "62112251000040" + "02" + "C834"
    found = pdu.received("0004" + name + rest)
    assert (found.sender, found.text) == ("How are", "Hi")
    theirs = fields.SMSDeliver.decode(StringIO("0004" + name + rest))["sender"]["number"]
    assert theirs.strip() == "How are"


@given(st.text(st.sampled_from(GSM), min_size=1, max_size=700) | st.text(min_size=1, max_size=300))
@example("[" * 80)
@example("x" * 152 + "€" + "y" * 20)
@example("😀" * 80)
@example("x" * 160)
@example("я" * 70)
def test_another_decoder_reads_the_same(text: str) -> None:
    parts = pdu.submitted("+4917012345", text, 7)
    seen = [foreign(part) for part in parts]
    whole = "".join(each["user_data"]["data"] for each in seen)
    expected = text.encode("utf-16-le", "replace").decode("utf-16-le")
    assert whole == expected
    for n, each in enumerate(seen, 1):
        assert each["recipient"]["number"] == "4917012345"
        header = each["user_data"]["header"]
        if len(parts) == 1:
            assert not header
        else:
            (element,) = header["elements"]
            data = element["data"]
            assert (data["parts_count"], data["part_number"]) == (len(parts), n)
    # And ours reads what the network makes of it.
    ours = [pdu.received(delivered(part.hexadecimal)) for part in parts]
    assert "".join(each.text for each in ours) == expected
    assert {each.sender for each in ours} == {"+4917012345"}
    if len(parts) > 1:
        assert [each.part for each in ours] == [
            Part(7, len(parts), n) for n in range(1, len(parts) + 1)
        ]


@pytest.mark.parametrize(
    ("text", "n"),
    [("x" * 160, 1), ("x" * 161, 2), ("€" * 80, 1), ("€" * 81, 2), ("я" * 70, 1), ("я" * 71, 2)],
)
def test_as_few_as_hold_it(text: str, n: int) -> None:
    assert len(pdu.submitted("1", text, 0)) == n


@pytest.mark.parametrize(
    ("number", "text"),
    [("12a", "x"), ("", "x"), ("+", "x"), ("1" * 21, "x"), ("1", ""), ("1\x1a", "x"),
     ("1", "x" * (153 * MAX_PARTS + 1))],
)  # fmt: skip
def test_what_cannot_be_sent(number: str, text: str) -> None:
    with pytest.raises(UsageError):
        pdu.submitted(number, text, 0)


@given(st.text(max_size=60) | st.binary(max_size=200).map(bytes.hex))
def test_garbage_is_no_text(line: str) -> None:
    try:
        found = pdu.received(line)
    except PduError:
        return
    assert len(found.text) <= 300
    assert found.part is None or found.part.number <= found.part.total


@given(st.integers(0, 100), st.integers(0, 255))
def test_a_broken_one_is_no_worse_than_garbage(at: int, octet: int) -> None:
    octets = bytearray.fromhex(delivered(pdu.submitted("+4917012345", "y" * 200, 3)[0].hexadecimal))
    octets[at] = octet
    for data in (octets, octets[:at]):
        try:
            pdu.received(data.hex())
        except PduError:
            pass
