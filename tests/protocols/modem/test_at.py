"""The dialogue: time is turned by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UsageError
from gateway.protocols.modem.at import LATE_S, MAX_WAITING, Answer, Dialogue, Said, Unasked


def test_one_command_at_a_time() -> None:
    talk = Dialogue()
    talk.request("E0", 0.0)
    talk.request("+CSQ", 0.0, prefix="+CSQ:")
    assert talk.take() == b"ATE0\r"
    assert talk.receive(b"ATE0\r\r\nO", 0.1) == []
    assert talk.take() == b""
    assert talk.receive(b"K\r\n", 0.2) == [Answer(command="E0", final="OK")]
    assert talk.take() == b"AT+CSQ\r"
    found = talk.receive(b"\r\n+CSQ: 17,99\r\n\r\nOK\r\n", 0.3)
    assert found == [Answer(command="+CSQ", final="OK", lines=("+CSQ: 17,99",))]
    assert talk.idle
    assert talk.due() == math.inf


def test_what_comes_unasked_is_no_answer() -> None:
    talk = Dialogue()
    talk.request("+CLCC", 0.0, prefix="+CLCC:")
    found = talk.receive(b"RING\r\nNO CARRIER\r\n+CLCC: 1,0,2,0,0\r\n^DSCI: 1,0\r\nOK\r\n", 0.1)
    assert found == [
        Unasked("RING"), Unasked("NO CARRIER"), Unasked("^DSCI: 1,0"),
        Answer(command="+CLCC", final="OK", lines=("+CLCC: 1,0,2,0,0",)),
    ]  # fmt: skip
    talk.request("+CGMM", 1.0)
    found = talk.receive(b'+CLIP: "1",129\r\nEC25\r\nOK\r\n', 1.1)
    assert found[1] == Answer(command="+CGMM", final="OK", lines=("EC25",))


def test_the_end_of_a_call_is_the_answer_to_dialling_alone() -> None:
    talk = Dialogue()
    talk.request("D123;", 0.0)
    assert talk.receive(b"BUSY\r\n", 0.1) == [Answer(command="D123;", final="BUSY")]
    assert talk.receive(b"BUSY\r\n", 0.1) == [Unasked("BUSY")]


def test_errors_say_why() -> None:
    talk = Dialogue()
    talk.request("+CPIN?", 0.0)
    (answer,) = talk.receive(b"+CME ERROR: 10\r\n", 0.1)
    assert isinstance(answer, Answer)
    assert (answer.ok, answer.error) == (False, "10")


def test_an_answer_that_comes_too_late_belongs_to_nobody() -> None:
    talk = Dialogue()
    talk.request("D1;", 0.0, timeout_s=2.0)
    talk.request("+CHUP", 0.0)
    assert talk.due() == 2.0
    talk.take()
    assert talk.advance(2.0) == [Answer(command="D1;", final="timeout")]
    assert talk.take() == b"\x1b", "its answer would be taken for that of the next"
    assert talk.receive(b"OK\r\n", 3.0) == []
    assert talk.counters["late"] == 1
    assert talk.take() == b"AT+CHUP\r"

    talk.receive(b"OK\r\n", 3.1)
    talk.request("", 4.0, timeout_s=1.0)
    talk.request("", 4.0)
    talk.advance(5.0)
    talk.take()
    assert talk.due() == 5.0 + LATE_S
    talk.advance(talk.due())
    assert talk.take() == b"AT\r"


def test_digits_are_not_shown_and_what_is_asked_all_day_neither() -> None:
    talk = Dialogue()
    talk.request("+VTS=5", 0.0, shown="+VTS=?")
    talk.receive(b"OK\r\n", 0.1)
    talk.request("+CLCC", 1.0, quiet=True)
    talk.receive(b"OK\r\n", 1.1)
    assert talk.said() == [Said("AT+VTS=?", True), Said("OK", False)]
    talk.request("+CLCC", 2.0, quiet=True)
    talk.receive(b"ERROR\r\n", 2.1)
    assert talk.said() == [Said("AT+CLCC", True), Said("ERROR", False)]


def test_bounds() -> None:
    talk = Dialogue()
    for _ in range(MAX_WAITING + 1):
        talk.request("", 0.0)
    with pytest.raises(UsageError, match="wait already"):
        talk.request("", 0.0)
    with pytest.raises(UsageError, match="printable"):
        Dialogue().request("D1\r", 0.0)
    assert talk.receive(b"x" * 5000, 0.0) == []
    assert talk.receive(b"x" * 5000 + b"\r\nOK\r\n", 0.0) == [Answer(command="", final="OK")]
    assert talk.counters["too_long"] == 1


@given(
    st.lists(
        st.binary(max_size=80)
        | st.sampled_from(
            [b"OK\r\n", b"RING\r\n", b"+CLCC: 1", b"\r\n", b"BUSY\r", b"+CME ERROR: "]
        )
    )
)
def test_garbage_is_heard_out_and_each_command_ends_once(pieces: list[bytes]) -> None:
    talk = Dialogue()
    for name in "ab":
        talk.request(name, 0.0, timeout_s=1.0)
    ended = []
    now = 0.0
    for piece in pieces:
        now += 0.01
        ended += [each for each in talk.receive(piece, now) if isinstance(each, Answer)]
    while (due := talk.due()) < math.inf:
        ended += [each for each in talk.advance(due) if isinstance(each, Answer)]
    assert [each.command for each in ended] == ["a", "b"]
