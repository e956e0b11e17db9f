"""Lines: what a radio module's result codes say (3GPP TS 27.007). Each reader gives None, and never
raises, for what has not the form."""

from __future__ import annotations

import csv
import re
from enum import IntEnum
from itertools import pairwise
from typing import Final

import msgspec

_NUMBER: Final = re.compile(r"\+?[0-9*#ABCabc]{1,40}")
_TECHNOLOGY: Final = {0: "2G", 2: "3G", 3: "2G", 4: "3G", 5: "3G", 6: "3G", 7: "LTE"}


class Registration(IntEnum):
    """Where the module is in the network (section 7.2)."""

    NONE = 0
    HOME = 1
    SEARCHING = 2
    DENIED = 3
    UNKNOWN = 4
    ROAMING = 5


class CallStatus(IntEnum):
    """Of ``+CLCC`` (section 7.18)."""

    ACTIVE = 0
    HELD = 1
    DIALLING = 2
    ALERTING = 3
    INCOMING = 4
    WAITING = 5


class ListedCall(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A call of ``+CLCC``."""

    index: int
    incoming: bool
    status: CallStatus
    voice: bool
    number: str = ""


def listed_call(line: str) -> ListedCall | None:
    """``+CLCC: 1,1,4,0,0,"+4930123456",145``."""
    fields = _fields(line, "+CLCC:")
    try:
        index, incoming, status, mode = (int(each) for each in fields[:4])
        return ListedCall(
            index=index, incoming=incoming == 1, status=CallStatus(status), voice=mode == 0,
            number=_number(fields[5], fields[6] if len(fields) > 6 else "")
            if len(fields) > 5 else "",
        )  # fmt: skip
    except ValueError:
        return None


def caller(line: str) -> tuple[str, bool] | None:
    """The number of ``+CLIP: "030123456",129,,,,0``, and whether the caller withholds it (section
    7.11); an empty number that is not withheld is one that the network does not know."""
    fields = _fields(line, "+CLIP:")
    if len(fields) < 2:
        return None
    number, validity = _number(fields[0], fields[1]), fields[5].strip() if len(fields) > 5 else ""
    return ("", True) if validity == "1" else (number, not number and validity == "")


def registration(line: str) -> tuple[Registration, str] | None:
    """``+CREG: 2,1,"00C3","0012",7``, or without the first number if it comes unasked; and the
    radio's generation, empty if it is not said. The same of ``+CEREG``."""
    name, colon, _ = line.partition(":")
    if name not in ("+CREG", "+CEREG", "+CGREG") or not colon:
        return None
    asked = re.match(r"\+CE?G?REG: ?\d,\d", line) is not None
    fields = _fields(line, name + ":")[int(asked) :]
    try:
        status = Registration(int(fields[0]))
        technology = _TECHNOLOGY.get(int(fields[3]), "") if len(fields) > 3 else ""
    except (ValueError, IndexError):
        return None
    return status, technology or ("LTE" if name == "+CEREG" and status in (1, 5) else "")


def signal_dbm(line: str) -> int | None:
    """Received level of ``+CSQ: 17,99`` in dBm (section 8.5); None also: not known."""
    try:
        strength = int(_fields(line, "+CSQ:")[0])
    except (ValueError, IndexError):
        return None
    return 2 * strength - 113 if 0 <= strength <= 31 else None


def network(line: str) -> str | None:
    """The operator of ``+COPS: 0,0,"Example",7`` (section 7.3)."""
    fields = _fields(line, "+COPS:")
    name = fields[2] if len(fields) > 2 else ""
    return name[:64] if name.isprintable() and name else None


def key(line: str) -> str | None:
    """The key of Quectel's ``+QTONEDET: 49`` (a code of ASCII) or SIMCom's ``+RXDTMF: 1``."""
    name, _, value = line.partition(":")
    value = value.strip()
    if name == "+QTONEDET" and re.fullmatch(r"[0-9]{2,3}", value):
        value = chr(int(value))
    elif name != "+RXDTMF":
        return None
    return value.upper() if re.fullmatch(r"[0-9*#A-Da-d]", value) else None


def stored_texts(answer: tuple[str, ...]) -> list[tuple[int, str]]:
    """Index and PDU of the received messages in what ``AT+CMGL=4`` shows (TS 27.005 section 3.4.2):
    ``+CMGL: 3,1,,24`` and in the next line the PDU."""
    found = []
    for head, pdu in pairwise(answer):
        fields = _fields(head, "+CMGL:")
        try:
            index, state = int(fields[0]), int(fields[1])
        except (ValueError, IndexError):
            continue
        if state in (0, 1) and not pdu.startswith("+"):
            found.append((index, pdu))
    return found


def dialled(number: str) -> str:
    """A number as ``ATD`` takes it. Raises `ValueError`: it has other than digits, + * #."""
    if not re.fullmatch(r"\+?[0-9*#]{1,40}", number):
        raise ValueError(f"{number!r}: a module dials digits, '*', '#' and a leading '+' alone")
    return number


def _number(text: str, kind: str) -> str:
    if not _NUMBER.fullmatch(text):
        return ""
    return f"+{text}" if kind.strip() == "145" and not text.startswith("+") else text


def _fields(line: str, prefix: str) -> list[str]:
    if not line.startswith(prefix):
        return []
    try:
        return next(csv.reader([line[len(prefix) :].strip()]), [])
    except csv.Error:
        return []
