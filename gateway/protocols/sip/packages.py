"""Bodies of event packages, as we tell them: dialogs, messages, presence, registrations.

RFC 4235 (``dialog``), RFC 3842 (``message-summary``), RFC 3856 and 3863 (``presence``), RFC 3680
(``reg``). Each document carries the full state: who missed one has it all with the next.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape, quoteattr

import msgspec

DIALOG, SUMMARY, PRESENCE, REG = "dialog", "message-summary", "presence", "reg"
CONTENT_TYPES: Final = {
    DIALOG: "application/dialog-info+xml",
    SUMMARY: "application/simple-message-summary",
    PRESENCE: "application/pidf+xml",
    REG: "application/reginfo+xml",
}
"""Content type of each package that is served."""

_HEAD: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
_DATA_MODEL: Final = ' xmlns:dm="urn:ietf:params:xml:ns:pidf:data-model"'
_RPID: Final = 'xmlns:rpid="urn:ietf:params:xml:ns:pidf:rpid"'
_VOICE = re.compile(rb"(?im)^voice-message[ \t]*:[ \t]*(\d{1,6})[ \t]*/[ \t]*\d{1,6}")
_WAITING = re.compile(rb"(?im)^messages-waiting[ \t]*:[ \t]*(yes|no)\b")


class DialogState(msgspec.Struct, frozen=True):
    """One call of an entity, as RFC 4235 section 4.1 describes it."""

    id: str
    state: str
    """``trying``, ``proceeding``, ``early``, ``confirmed`` or ``terminated``."""
    initiator: bool
    """The entity is calling; else it is called."""
    call_id: str = ""
    """With both tags: how a Replaces header names it; empty: not told."""
    local_tag: str = ""
    remote_tag: str = ""


class ContactState(msgspec.Struct, frozen=True):
    """One binding of an address of record."""

    id: str
    uri: str
    expires: int
    """Seconds left."""


def dialog_info(entity: str, version: int, dialogs: Sequence[DialogState]) -> bytes:
    """``application/dialog-info+xml`` (RFC 4235 section 4.4); ``entity`` is a SIP URI."""
    lines = []
    for dialog in dialogs:
        ids = ""
        if dialog.call_id:
            ids = (
                f" call-id={quoteattr(dialog.call_id)} local-tag={quoteattr(dialog.local_tag)}"
                f" remote-tag={quoteattr(dialog.remote_tag)}"
            )
        way = "initiator" if dialog.initiator else "recipient"
        lines.append(
            f'<dialog id={quoteattr(dialog.id)}{ids} direction="{way}">'
            f"<state>{escape(dialog.state)}</state></dialog>\n"
        )
    return (
        f'{_HEAD}<dialog-info xmlns="urn:ietf:params:xml:ns:dialog-info" version="{version}" '
        f'state="full" entity={quoteattr(entity)}>\n{"".join(lines)}</dialog-info>\n'
    ).encode()


def message_summary(account: str, n_new: int, n_old: int = 0) -> bytes:
    """``application/simple-message-summary`` (RFC 3842 section 5.2)."""
    waiting = "yes" if n_new else "no"
    return (
        f"Messages-Waiting: {waiting}\r\nMessage-Account: {account}\r\n"
        f"Voice-Message: {n_new}/{n_old}\r\n"
    ).encode()


def read_message_summary(body: bytes) -> int | None:
    """How many new voice messages a summary tells of; 1 where it only says that there are some;
    None when it is no summary."""
    waiting, voice = _WAITING.search(body), _VOICE.search(body)
    if voice is not None:
        return int(voice[1])
    return None if waiting is None else int(waiting[1].lower() == b"yes")


def presence(
    entity: str, *, reachable: bool, notes: Sequence[str] = (), activities: Sequence[str] = ()
) -> bytes:
    """``application/pidf+xml`` (RFC 3863 section 4) with activities of RFC 4480 section 3.2."""
    said = "".join(f"<note>{escape(note)}</note>" for note in notes)
    doing = "".join(f"<rpid:{activity}/>" for activity in activities)
    person = (
        f'<dm:person id="p1"><rpid:activities>{doing}</rpid:activities></dm:person>\n'
        if doing
        else ""
    )
    spaces = f"{_DATA_MODEL} {_RPID}" if doing else ""
    return (
        f'{_HEAD}<presence xmlns="urn:ietf:params:xml:ns:pidf"{spaces} '
        f"entity={quoteattr(entity)}>\n"
        f'<tuple id="t1"><status><basic>{"open" if reachable else "closed"}</basic></status>'
        f"<contact>{escape(entity)}</contact>{said}</tuple>\n{person}</presence>\n"
    ).encode()


def registration_info(aor: str, version: int, contacts: Sequence[ContactState]) -> bytes:
    """``application/reginfo+xml`` (RFC 3680 section 5)."""
    bound = "".join(
        f'<contact id={quoteattr(each.id)} state="active" event="registered" '
        f'expires="{each.expires}"><uri>{escape(each.uri)}</uri></contact>\n'
        for each in contacts
    )
    state = "active" if contacts else "init"
    return (
        f'{_HEAD}<reginfo xmlns="urn:ietf:params:xml:ns:reginfo" version="{version}" '
        f'state="full">\n<registration aor={quoteattr(aor)} id="a1" state="{state}">\n'
        f"{bound}</registration>\n</reginfo>\n"
    ).encode()
