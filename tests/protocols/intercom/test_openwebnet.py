"""OpenWebNet's log-ins: known answers, and OWNd as a client that is not ours."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OWNd.connection import OWNGateway, OWNSession
from OWNd.message import OWNAlarmEvent, OWNMessage

from gateway.errors import PeerError
from gateway.lab.openwebnet import LogIn, OpenWebNetGateway
from gateway.protocols.intercom.openwebnet import (
    EVENTS,
    Login,
    from_digits,
    open_password,
    to_digits,
)


@pytest.mark.parametrize(
    ("nonce", "answer"),
    [("603356072", 25280520), ("410501656", 119537670), ("630292165", 4269684735)],
)
def test_the_open_password(nonce: str, answer: int) -> None:
    assert open_password(12345, nonce) == answer


@given(st.integers(0, 2**32 - 1), st.text("0123456789", min_size=1, max_size=12))
def test_the_open_password_is_ownds(password: int, nonce: str) -> None:
    theirs = OWNSession()._get_own_password(str(password), nonce)
    assert open_password(password, nonce) == theirs


@given(st.text("0123456789abcdef", max_size=64))
def test_digits_and_back(text: str) -> None:
    assert from_digits(to_digits(text)) == text


@pytest.mark.parametrize("log_in", ["none", "open", "sha1", "sha256"])
@pytest.mark.parametrize("right", [True, False])
async def test_ownd_logs_in_at_the_labs_gateway(log_in: LogIn, right: bool) -> None:
    async with OpenWebNetGateway(log_in, "12345") as bus:
        gateway = OWNGateway(
            {"address": "127.0.0.1", "port": bus.port, "password": "12345" if right else "54321"}
        )
        session = OWNSession(gateway, "command", logging.getLogger("ownd"))
        result = await session.connect()
        assert result["Success"] is (right or log_in == "none")
        await session.close()
        assert bus.refused == (0 if result["Success"] else 1)


def test_ownd_reads_our_frames() -> None:
    event = OWNMessage.parse("*5*15*#1##")
    assert isinstance(event, OWNAlarmEvent)


@given(st.lists(st.text("*#0123456789", max_size=40), max_size=6))
def test_nonsense_in_a_log_in_is_a_peers_error(frames: list[str]) -> None:
    login = Login(EVENTS, "12345", lambda n: "0" * n)
    login.begin()
    try:
        for frame in frames:
            login.receive(frame + "##")
    except PeerError:
        pass


def test_a_server_that_does_not_know_the_password_is_refused() -> None:
    login = Login(EVENTS, "12345", lambda n: "a" * n)
    assert login.receive("*#*1##") == [EVENTS]
    assert login.receive("*98*2##") == ["*#*1##"]
    (proof,) = login.receive("*#" + "01" * 64 + "##")
    assert proof.startswith("*#" + "10" * 64 + "*")
    with pytest.raises(PeerError, match="does not know the password"):
        login.receive("*#" + "02" * 64 + "##")
    assert not login.done
