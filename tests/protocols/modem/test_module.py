"""The module against a simulated one; time is turned by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import UsageError
from gateway.lab.radio_module import Brain, delivered
from gateway.protocols.modem.calling import WATCH_CALL_S
from gateway.protocols.modem.happenings import (
    Alerting,
    Connected,
    Down,
    Happening,
    Offered,
    Pressed,
    Release,
    Released,
    Status,
    TextCame,
    TextFailed,
    TextSent,
    Up,
)
from gateway.protocols.modem.lines import Registration
from gateway.protocols.modem.module import Module
from gateway.protocols.modem.pdu import submitted
from gateway.protocols.modem.texts import LOOK_S, PARTS_S


class Wire:
    """A module of ours, the simulated one, and their clock."""

    def __init__(self, brain: Brain, *, up: bool = True, keys: bool = False) -> None:
        self.brain, self.module, self.now = brain, Module(keys=keys), 0.0
        self.found: list[Happening] = []
        self.module.start(0.0)
        self.exchange()
        if up:
            assert Up() in self.found
            self.until(0.1)
            self.found.clear()

    def exchange(self) -> None:
        while data := self.module.take():
            self.hear(self.brain.feed(data))

    def hear(self, data: bytes) -> None:
        self.found += self.module.receive(data, self.now)
        self.exchange()

    def until(self, end: float) -> None:
        turns = 0
        while (due := max(self.module.due(), self.now)) <= end:
            self.now = due
            self.found += self.module.advance(due)
            self.exchange()
            turns += 1
            assert turns < 10_000, "the module spins"
        self.now = end

    def of(self, kind: type) -> list[Happening]:
        return [each for each in self.found if isinstance(each, kind)]


@pytest.mark.parametrize("maker", ["quectel", "simcom"])
def test_brought_up(maker: str) -> None:
    wire = Wire(Brain(maker), up=False)
    wire.until(1.0)
    assert wire.module.free
    assert wire.of(Status)[-1] == Status(
        registration=Registration.HOME, technology="LTE", network="Simulated Net",
        signal_dbm=-79, maker="Simulated", model="SM1", firmware="1.0", texts=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sim": "SIM PIN"}, "asks for SIM PIN"),
        ({"sim": ""}, "no SIM"),
        ({"maker": "nobody's"}, "AT+QPCMV"),
        ({"deaf": True}, "no answer to AT"),
    ],
)
def test_what_cannot_be_used_says_why(change: dict[str, object], why: str) -> None:
    brain = Brain()
    for name, value in change.items():
        setattr(brain, name, value)
    wire = Wire(brain, up=False)
    wire.until(30.0)
    (down,) = wire.of(Down)
    assert isinstance(down, Down)
    assert why in down.why
    assert not any(each.startswith("+CPIN=") for each in brain.commands)


@pytest.mark.parametrize("maker", ["quectel", "simcom"])
def test_a_call_of_ours(maker: str) -> None:
    wire = Wire(Brain(maker))
    wire.module.dial("+49301234", 0.1)
    wire.exchange()
    assert not wire.module.free
    assert wire.brain.audio is (maker == "quectel")
    wire.hear(wire.brain.state(3))
    wire.until(2.0)
    assert wire.found == [Alerting()]
    wire.hear(wire.brain.state(0))
    wire.until(4.0)
    assert wire.found == [Alerting(), Connected()]
    assert wire.brain.audio
    assert wire.module.digits("1a,#", wire.now) == 3
    wire.exchange()
    assert wire.brain.digits == "1A#"
    wire.module.hangup(wire.now)
    wire.exchange()
    assert wire.found[2:] == [Released(Release.NORMAL)]
    assert wire.brain.call is None
    assert not wire.brain.audio
    assert wire.module.free
    shown = "".join(each.text for each in wire.module.said())
    assert "+VTS=?" in shown
    assert "+VTS=1" not in shown


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ("BUSY", Release.BUSY),
        ("NO ANSWER", Release.NO_ANSWER),
        ("NO CARRIER", Release.FAILED),
        ("+CME ERROR: 30", Release.FAILED),
    ],
)
def test_a_call_that_does_not_get_through(result: str, why: Release) -> None:
    brain = Brain()
    brain.dial_result = result
    wire = Wire(brain)
    wire.module.dial("1", wire.now)
    wire.exchange()
    assert wire.found == [Released(why, result)]
    assert wire.module.free


@pytest.mark.parametrize("number", ["030123456", ""])
def test_a_call_to_us(number: str) -> None:
    wire = Wire(Brain())
    wire.hear(wire.brain.ring(number))
    assert wire.found == [Offered(number, hidden=not number)]
    wire.hear(b"\r\nRING\r\n")
    wire.module.answer(wire.now)
    wire.exchange()
    assert wire.found[1:] == [Connected()]
    wire.brain.call = None
    wire.hear(b"\r\nNO CARRIER\r\n")
    assert wire.found[2:] == [Released(Release.NORMAL, "NO CARRIER")]


def test_a_caller_may_hide_and_so_may_we() -> None:
    wire = Wire(Brain())
    wire.hear(b'\r\n+CLIP: "",128,,,,2\r\n')
    assert wire.found == [Offered("")], "the network does not know who calls"
    wire = Wire(Brain())
    wire.brain.call = (1, 4, "030")
    wire.brain.deaf = True
    wire.hear(b'\r\nRING\r\n+CLIP: "030",129,,,,1\r\n')
    assert wire.found == [Offered("", hidden=True)]
    wire = Wire(Brain())
    wire.module.dial("030", wire.now, hidden=True)
    wire.exchange()
    assert "D030I;" in wire.brain.commands


def test_the_caller_gives_up() -> None:
    wire = Wire(Brain())
    wire.hear(wire.brain.ring("1"))
    wire.brain.call = None
    wire.until(2.0)
    assert wire.found == [Offered("1"), Released(Release.CANCELLED, "no longer listed")]


def test_a_ring_without_a_call_is_nothing() -> None:
    wire = Wire(Brain())
    wire.hear(b"\r\nRING\r\n")
    wire.until(20.0)
    assert not wire.of(Offered)
    assert not wire.of(Released)
    assert wire.module.free


def test_a_lost_release_is_noticed() -> None:
    wire = Wire(Brain())
    wire.module.dial("1", wire.now)
    wire.exchange()
    wire.hear(wire.brain.state(0))
    wire.until(2.0)
    assert wire.found == [Connected()]
    wire.brain.call = None
    wire.until(2.0 + WATCH_CALL_S)
    assert wire.found[1:] == [Released(Release.NORMAL, "no longer listed")]


def test_a_damaged_list_ends_no_call() -> None:
    wire = Wire(Brain())
    wire.hear(wire.brain.ring("1"))
    wire.module.answer(wire.now)
    wire.exchange()
    assert wire.of(Connected)
    wire.until(wire.now + WATCH_CALL_S - 0.5)
    wire.now += 0.5
    wire.found += wire.module.advance(wire.now)
    assert wire.module.take() == b"AT+CLCC\r"
    wire.hear(b"+CLCC: 1,1,\xff,0,0\r\nOK\r\n")
    wire.until(wire.now + 2 * WATCH_CALL_S)
    assert not wire.of(Released)
    # A second call that rings beside it is not taken for it either.
    wire.found += wire.module.receive(b"^DSCI: 2\r\n", wire.now)
    wire.found += wire.module.advance(wire.now)
    assert wire.module.take() == b"AT+CLCC\r"
    wire.hear(b'+CLCC: 1,1,4,0,0,"2",129\r\n+CLCC: 2,1,0,0,0,"1",129\r\nOK\r\n')
    assert not wire.of(Released)
    wire.brain.call = None
    wire.until(wire.now + 2 * WATCH_CALL_S)
    assert wire.of(Released)


def test_a_module_that_babbles_and_answers_nothing_raises_nothing() -> None:
    wire = Wire(Brain())
    wire.brain.deaf = True
    for _ in range(200):
        wire.found += wire.module.receive(b"^DSCI: 1\r\n", wire.now)
        wire.found += wire.module.advance(wire.now)
    wire.until(wire.now + 60.0)
    assert len(wire.of(Down)) == 1


def test_a_call_that_stays_resets_the_module() -> None:
    wire = Wire(Brain())
    wire.hear(wire.brain.ring("1"))
    wire.module.answer(wire.now)
    wire.exchange()
    wire.brain.keeps_call = True
    wire.module.hangup(wire.now)
    wire.exchange()
    wire.until(wire.now + 10.0)
    assert not wire.of(Released)
    assert wire.of(Down) == [Down("it was reset")]
    assert wire.brain.commands[-1] == "+CFUN=1,1"


@pytest.mark.parametrize(("refused", "works"), [(4, True), (5, False)])
def test_audio_that_is_refused_is_tried_five_times(refused: int, works: bool) -> None:
    brain = Brain("simcom")
    brain.refuse_audio = refused
    wire = Wire(brain)
    wire.module.dial("1", wire.now)
    wire.exchange()
    wire.hear(wire.brain.state(0))
    wire.until(10.0)
    if works:
        assert wire.found == [Connected()]
    else:
        assert wire.found == [Released(Release.NO_AUDIO, "AT+CPCMREG=1: ERROR")]


def test_a_module_that_hangs_is_down() -> None:
    wire = Wire(Brain())
    wire.brain.deaf = True
    wire.until(120.0)
    assert wire.of(Down) == [Down("it answers no command")]


def test_registration_that_is_lost() -> None:
    wire = Wire(Brain())
    wire.hear(b"\r\n+CREG: 3\r\n")
    (status,) = wire.of(Status)
    assert isinstance(status, Status)
    assert status.registration is Registration.DENIED
    assert not wire.module.free
    with pytest.raises(UsageError, match="not free"):
        wire.module.dial("1", wire.now)


def test_no_command_gets_in_with_a_number() -> None:
    wire = Wire(Brain())
    with pytest.raises(UsageError, match="digits"):
        wire.module.dial("1;+CFUN=0", wire.now)
    assert wire.module.free


HELLO = "07911326040000F0040B911346610089F60000208062917314080CC8F71D14969741F977FD07"


def parts(text: str, reference: int = 5) -> list[str]:
    return [delivered(each.hexadecimal) for each in submitted("+4917012345", text, reference)]


def test_a_text_comes_and_is_deleted() -> None:
    wire = Wire(Brain())
    wire.hear(wire.brain.deliver(HELLO))
    assert wire.found == [TextCame("+31641600986", "How are you?")]
    assert not wire.brain.stored
    shown = "".join(each.text for each in wire.module.said())
    assert '+CMTI: "ME",0' in shown
    assert HELLO not in shown


def test_what_came_while_nobody_listened_is_told() -> None:
    brain = Brain()
    brain.deliver(HELLO, HELLO)
    wire = Wire(brain, up=False)
    wire.until(1.0)
    assert wire.of(TextCame) == [TextCame("+31641600986", "How are you?")] * 2
    assert not brain.stored
    # And what came without a word, or with one that was lost.
    brain.deliver(HELLO)
    wire.until(1.0 + LOOK_S)
    assert len(wire.of(TextCame)) == 3


def test_a_long_text_is_told_when_all_of_it_is_there() -> None:
    wire = Wire(Brain())
    long = "A long text, €, " * 20
    first, *rest = parts(long)
    wire.hear(wire.brain.deliver(*rest[::-1]))
    wire.hear(wire.brain.deliver(*parts("я" * 100, 5)))
    assert wire.found == [TextCame("+4917012345", "я" * 100)]
    assert len(wire.brain.stored) == len(rest), "what is not told survives a restart"
    wire.hear(wire.brain.deliver(first))
    assert wire.found[1:] == [TextCame("+4917012345", long)]
    assert not wire.brain.stored
    wire.hear(wire.brain.deliver(*rest))
    wire.until(PARTS_S + 2 * LOOK_S)
    assert wire.found[2:] == [
        TextCame("+4917012345", "[...]" + long[153 - long[:153].count("€") :])
    ]


def test_a_text_that_is_not_stored_comes_at_once() -> None:
    wire = Wire(Brain())
    wire.module.dial("1", wire.now)
    wire.hear(f"\r\n+CMT: ,24\r\n{HELLO}\r\n".encode())
    assert wire.of(TextCame) == [TextCame("+31641600986", "How are you?")]


def test_unreadable_texts_do_not_fill_the_module() -> None:
    wire = Wire(Brain())
    wire.hear(wire.brain.deliver("00" * 12))
    assert wire.brain.stored, "it may have been damaged on the way"
    wire.until(2 * LOOK_S)
    assert not wire.brain.stored
    assert wire.module.talk.counters["texts_unreadable"] == 1
    assert wire.of(TextCame) == []


def test_a_text_between_whose_lines_something_else_is_said_is_not_lost() -> None:
    wire = Wire(Brain())
    wire.brain.stored[3] = HELLO
    wire.found += wire.module.receive(b'+CMTI: "ME",3\r\n', wire.now)
    assert wire.module.take() == b"AT+CMGL=4\r"
    said = f'+CMGL: 3,1,,24\r\n+CREG: 1,"00C3","0012",7\r\n{HELLO}\r\nOK\r\n'
    wire.hear(said.encode())
    assert wire.of(TextCame) == [TextCame("+31641600986", "How are you?")]
    assert not wire.brain.stored
    # And one that comes damaged once is asked for again.
    wire.brain.stored[3] = HELLO
    wire.found += wire.module.receive(b'+CMTI: "ME",3\r\n', wire.now)
    wire.module.take()
    wire.hear(f"+CMGL: 3,1,,24\r\n{HELLO[:-1]}\r\nOK\r\n".encode())
    assert wire.brain.stored
    shown = "".join(each.text for each in wire.module.said())
    assert HELLO[:-1] not in shown
    wire.until(wire.now + 2 * LOOK_S)
    assert len(wire.of(TextCame)) == 2
    assert not wire.brain.stored


def test_something_said_right_behind_the_prompt_does_not_hide_it() -> None:
    wire = Wire(Brain())
    wire.module.send("1", "x", 0, wire.now)
    wire.module.take()
    wire.hear(b'\r\n> \r\n+CREG: 1,"00C3","0012",7\r\n')
    wire.hear(b"+CMGS: 1\r\n\r\nOK\r\n")
    assert wire.of(TextSent) == [TextSent()]


def test_a_text_is_sent_in_as_many_parts_as_it_takes() -> None:
    wire = Wire(Brain())
    text = "Pump 3: level too high. " * 10
    wire.module.send("+4917012345", text, 9, wire.now)
    assert not wire.module.can_send
    with pytest.raises(UsageError, match="now"):
        wire.module.send("1", "x", 0, wire.now)
    wire.exchange()
    assert wire.found == [TextSent()]
    assert wire.brain.sent == [each.hexadecimal for each in submitted("+4917012345", text, 9)]
    shown = "".join(each.text for each in wire.module.said())
    assert "AT+CMGS=" in shown
    assert wire.brain.sent[0] not in shown


@pytest.mark.parametrize(
    ("refusal", "passing"), [("+CMS ERROR: 38", True), ("+CMS ERROR: 21", False), ("ERROR", True)]
)
def test_a_text_that_is_refused(refusal: str, passing: bool) -> None:
    wire = Wire(Brain())
    wire.brain.refuses_text = refusal
    wire.module.send("1", "x" * 300, 0, wire.now)
    wire.exchange()
    assert wire.found == [TextFailed(refusal, passing)]
    assert wire.module.can_send


def test_a_text_that_is_not_answered_is_not_sent_twice() -> None:
    wire = Wire(Brain())
    wire.brain.deaf = True
    wire.module.send("1", "x", 0, wire.now)
    wire.exchange()
    wire.brain._rest = b""
    wire.until(40.0)
    assert wire.of(TextFailed) == [TextFailed("timeout", False)]


def test_a_call_is_hung_up_while_a_text_is_asked_for() -> None:
    wire = Wire(Brain())
    wire.hear(wire.brain.ring("1"))
    wire.module.answer(wire.now)
    wire.exchange()
    wire.module.send("1", "x", 0, wire.now)
    wire.module.hangup(wire.now)
    wire.exchange()
    assert wire.of(TextSent)
    assert wire.of(Released) == [Released(Release.NORMAL)]
    wire.module.send("1", "x", 0, wire.now)
    assert wire.module.take().startswith(b"AT+CMGS=")
    wire.module.on_hook()
    assert wire.module.take() == b"\x1bAT+CHUP\r"


def test_a_module_that_waits_for_somebodys_text_is_brought_up() -> None:
    brain = Brain()
    brain.feed(b"AT+CMGS=20\r")
    wire = Wire(brain, up=False)
    wire.until(3.0)
    assert wire.module.free
    # And an answer that is not its own does not leave it so.
    wire.found.clear()
    wire.module.send("1", "x", 0, wire.now)
    wire.hear(b"OK\r\n")
    assert wire.of(TextFailed) == [TextFailed("ERROR", True)]
    wire.module.send("1", "x", 0, wire.now)
    wire.exchange()
    assert wire.of(TextSent)


def test_a_module_without_texts_is_a_telephone() -> None:
    brain = Brain()
    brain.knows_texts = False
    wire = Wire(brain)
    assert wire.module.free
    assert not wire.module.sends_texts
    assert not wire.module.can_send


@pytest.mark.parametrize(
    ("maker", "line", "key"),
    [
        ("quectel", "+QTONEDET: 49", "1"),
        ("quectel", "+QTONEDET: 35", "#"),
        ("simcom", "+RXDTMF: d", "D"),
    ],
)
def test_keys_that_the_module_finds(maker: str, line: str, key: str) -> None:
    wire = Wire(Brain(maker), keys=True)
    assert wire.module.keys
    wire.hear(f"\r\n{line}\r\n".encode())
    assert wire.found == [], "there is no call"
    wire.hear(wire.brain.ring("1"))
    wire.module.answer(wire.now)
    wire.exchange()
    wire.found.clear()
    wire.hear(f"\r\n{line}\r\n".encode())
    assert wire.found == [Pressed(key)]
    assert line not in "\n".join(each.text for each in wire.module.said())
    deaf = Brain(maker)
    deaf.finds_keys = False
    assert not Wire(deaf, keys=True).module.keys


_WORDS = st.sampled_from(
    [b"OK", b"ERROR", b"RING", b"NO CARRIER", b"BUSY", b'+CLIP: "1",129', b"^DSCI: 1", b"> ",
     b"+CLCC: 1,1,4,0,0", b"+CLCC: 1,0,0,0,0", b"VOICE CALL: BEGIN", b"VOICE CALL: END: 3",
     b"+CREG: 1", b"+CREG: 0", b"+CME ERROR: 3", b'+CMTI: "ME",1', b"+CMGL: 1,1,,24", b"+CMT: ,24",
     HELLO.encode(), parts("x" * 200)[0].encode(), parts("x" * 200)[1].encode(), b"+RXDTMF: 1"]
)  # fmt: skip


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["dial", "answer", "hangup", "digits", "text", "wait", ""]),
            st.binary(max_size=30) | _WORDS,
        ),
        max_size=40,
    )
)
def test_garbage_raises_nothing_and_each_call_ends_once(steps: list[tuple[str, bytes]]) -> None:
    wire = Wire(Brain())
    dialled = 0
    for what, data in steps:
        if what == "dial" and wire.module.free:
            wire.module.dial("1", wire.now)
            dialled += 1
        elif what == "answer":
            wire.module.answer(wire.now)
        elif what == "hangup":
            wire.module.hangup(wire.now)
        elif what == "digits":
            wire.module.digits("1" * 100, wire.now)
        elif what == "text" and wire.module.can_send:
            wire.module.send("1", "x" * 200, 0, wire.now)
        elif what == "wait":
            wire.until(wire.now + 7.0)
        wire.hear(data + b"\r\n")
    wire.module.hangup(wire.now)
    wire.brain.call = None
    wire.until(wire.now + 200.0)
    ended = len(wire.of(Released))
    begun = dialled + len(wire.of(Offered))
    assert ended == begun or (wire.of(Down) and ended == begun - 1)
