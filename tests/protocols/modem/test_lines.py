"""What result codes say; the examples are of the forms in 3GPP TS 27.007."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.modem import lines
from gateway.protocols.modem.lines import CallStatus, ListedCall, Registration


def test_a_listed_call() -> None:
    assert lines.listed_call('+CLCC: 1,1,4,0,0,"+4930123456",145') == ListedCall(
        index=1, incoming=True, status=CallStatus.INCOMING, voice=True, number="+4930123456"
    )
    assert lines.listed_call('+CLCC: 2,0,0,0,0,"4930123456",145') == ListedCall(
        index=2, incoming=False, status=CallStatus.ACTIVE, voice=True, number="+4930123456"
    )
    data = lines.listed_call("+CLCC: 3,0,0,1,0")
    assert data is not None
    assert (data.voice, data.number) == (False, "")
    assert lines.listed_call("+CLCC: 1,1,9,0,0") is None
    assert lines.listed_call("+CLIP: 1,1,4,0,0") is None


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ('+CLIP: "030123456",129', ("030123456", False)),
        ('+CLIP: "4930123456",145,,,"Bert",0', ("+4930123456", False)),
        ('+CLIP: "",128,,,,1', ("", True)),
        ('+CLIP: "4930123456",145,,,,1', ("", True)),
        ('+CLIP: "",128,,,,2', ("", False)),
        ('+CLIP: "",128', ("", True)),
        ('+CLIP: "x;AT",129', ("", True)),
        ("+CLIP: ", None),
    ],
)
def test_who_calls(line: str, number: object) -> None:
    assert lines.caller(line) == number


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('+CREG: 2,1,"00C3","0012",2', (Registration.HOME, "3G")),
        ('+CREG: 5,"00C3","0012",7', (Registration.ROAMING, "LTE")),
        ("+CREG: 0,3", (Registration.DENIED, "")),
        ("+CREG: 2", (Registration.SEARCHING, "")),
        ("+CEREG: 0,1", (Registration.HOME, "LTE")),
        ("+CREG: 2,77", None),
        ("+CREG:", None),
    ],
)
def test_registration(line: str, found: object) -> None:
    assert lines.registration(line) == found


def test_signal_and_network() -> None:
    assert lines.signal_dbm("+CSQ: 17,99") == -79
    assert lines.signal_dbm("+CSQ: 0,0") == -113
    assert lines.signal_dbm("+CSQ: 99,99") is None
    assert lines.network('+COPS: 0,0,"Example, Ltd",7') == "Example, Ltd"
    assert lines.network("+COPS: 0") is None


@pytest.mark.parametrize("number", ["", "030;+CFUN=1", "03 0", "+", "tel", "0" * 41, "1\r", "٣"])
def test_what_is_no_number_is_not_dialled(number: str) -> None:
    with pytest.raises(ValueError, match="digits"):
        lines.dialled(number)


@given(
    st.sampled_from(["+CLCC:", "+CLIP:", "+CREG:", "+CEREG:", "+CSQ:", "+COPS:", ""]),
    st.text(max_size=60) | st.text(alphabet='0123456789,"+- ', max_size=60),
)
def test_garbage_says_nothing(prefix: str, text: str) -> None:
    for read in (lines.listed_call, lines.caller, lines.registration, lines.signal_dbm,
                 lines.network):  # fmt: skip
        read(prefix + text)
