"""Bodies of event packages: what other people's parsers read in them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.sip.packages import (
    ContactState,
    DialogState,
    dialog_info,
    message_summary,
    presence,
    read_message_summary,
    registration_info,
)

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=40).filter(
    lambda text: not set(text) & {"\ufffe", "\uffff"}
)


@given(WORDS, WORDS)
def test_dialogs_survive_any_name(entity: str, leg: str) -> None:
    told = DialogState(leg, "early", initiator=False, call_id=leg, local_tag="l", remote_tag="r")
    root = ElementTree.fromstring(dialog_info(entity, 7, [told]))
    space = "{urn:ietf:params:xml:ns:dialog-info}"
    assert (root.tag, root.get("version"), root.get("state")) == (
        f"{space}dialog-info",
        "7",
        "full",
    )
    [dialog] = root.findall(f"{space}dialog")
    # XML makes one blank of a line break or a tab in an attribute (section 3.3.3).
    assert dialog.get("id", "").split() == leg.split()
    assert dialog.get("direction") == "recipient"
    assert dialog.findtext(f"{space}state") == "early"


def test_nobody_is_told_what_he_may_not_know() -> None:
    body = dialog_info("sip:1@x", 0, [DialogState("a", "confirmed", initiator=True)])
    assert b"call-id" not in body
    assert b'direction="initiator"' in body


@given(WORDS, WORDS)
def test_presence(entity: str, note: str) -> None:
    root = ElementTree.fromstring(presence(entity, reachable=True, notes=[note]))
    space = "{urn:ietf:params:xml:ns:pidf}"
    assert root.findtext(f"{space}tuple/{space}status/{space}basic") == "open"
    assert (root.findtext(f"{space}tuple/{space}note") or "").split() == note.split()


def test_registrations() -> None:
    contacts = [ContactState("c1", "sip:a@192.0.2.1;x=<&>", 60)]
    root = ElementTree.fromstring(registration_info("sip:a@x", 0, contacts))
    space = "{urn:ietf:params:xml:ns:reginfo}"
    [registration] = root.findall(f"{space}registration")
    assert registration.get("state") == "active"
    assert registration.findtext(f"{space}contact/{space}uri") == "sip:a@192.0.2.1;x=<&>"
    root = ElementTree.fromstring(registration_info("sip:a@x", 1, []))
    assert root[0].get("state") == "init"


def test_summaries() -> None:
    # The example of RFC 3842 section 5.2.
    body = (
        b"Messages-Waiting: yes\r\nMessage-Account: sip:alice@vmail.example.com\r\n"
        b"Voice-Message: 2/8 (0/2)\r\n"
    )
    assert read_message_summary(body) == 2
    assert read_message_summary(b"messages-waiting:no\r\n") == 0
    assert read_message_summary(b"Messages-Waiting: yes\n") == 1
    assert read_message_summary(message_summary("sip:a@x", 3)) == 3


@given(st.binary(max_size=200))
def test_garbage_is_no_summary(data: bytes) -> None:
    read_message_summary(data)
