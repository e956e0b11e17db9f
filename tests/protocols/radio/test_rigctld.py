"""Answers of rigctld 4.5.4, as they came from it, and garbage."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import PeerError
from gateway.protocols.radio.rigctld import Answer, Reader, command

SESSION = b"get_ptt:\nPTT: 1\nRPRT 0\nset_ptt: 0\nRPRT 0\nget_dcd:\nDCD: 0\nRPRT 0\n"


def test_commands_have_long_names() -> None:
    assert command("set_ptt", 1) == b"+\\set_ptt 1\n"
    assert command("get_dcd") == b"+\\get_dcd\n"


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_answers_in_portions(size: int) -> None:
    reader = Reader()
    found: list[Answer] = []
    for at in range(0, len(SESSION), size):
        found += reader.feed(SESSION[at : at + size])
    assert [each.command for each in found] == ["get_ptt", "set_ptt", "get_dcd"]
    assert found[0].number("PTT") == 1
    assert found[2].number("dcd") == 0


def test_errors_have_words() -> None:
    (answer,) = Reader().feed(b"set_ptt: 1\nRPRT -11\n")
    with pytest.raises(PeerError, match="set_ptt: not available"):
        answer.check()


def test_a_missing_value() -> None:
    (answer,) = Reader().feed(b"get_ptt:\nRPRT 0\n")
    with pytest.raises(PeerError, match="no ptt"):
        answer.number("ptt")


def test_an_answer_without_end() -> None:
    reader = Reader()
    for _ in range(400):
        reader.feed(b"noise: x\n")
    with pytest.raises(PeerError, match="without end"):
        reader.feed(b"noise: x\n" * 200)


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_garbage(portions: list[bytes]) -> None:
    reader = Reader()
    with contextlib.suppress(PeerError):
        for data in portions:
            for answer in reader.feed(data):
                with contextlib.suppress(PeerError):
                    answer.number("ptt")
