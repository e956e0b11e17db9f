"""Happenings: what a radio module tells of itself and of its call."""

from __future__ import annotations

from enum import Enum, auto

import msgspec

from gateway.protocols.modem.lines import Registration


class Release(Enum):
    """Why a call is over."""

    NORMAL = auto()
    BUSY = auto()
    NO_ANSWER = auto()
    CANCELLED = auto()
    """The caller gave up before an answer."""
    FAILED = auto()
    """The module or the network refused to dial."""
    NO_AUDIO = auto()
    """The module would not switch its audio on."""


class Status(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How the module is; told when something of it changed."""

    registration: Registration = Registration.NONE
    technology: str = ""
    network: str = ""
    signal_dbm: int | None = None
    maker: str = ""
    model: str = ""
    firmware: str = ""
    texts: bool = False
    """It sends and stores text messages."""

    @property
    def registered(self) -> bool:
        """Whether calls can be made."""
        return self.registration in (Registration.HOME, Registration.ROAMING)


class Up(msgspec.Struct, frozen=True, gc=False):
    """It is brought up. It need not be registered yet."""


class Down(msgspec.Struct, frozen=True, gc=False):
    """It cannot be used; to be opened anew. `why` is for a technician."""

    why: str


class Offered(msgspec.Struct, frozen=True, gc=False):
    """Somebody calls. `number` is empty when it is hidden or not known."""

    number: str
    hidden: bool = False
    """The caller does not want to be shown."""


class Alerting(msgspec.Struct, frozen=True, gc=False):
    """The called telephone rings."""


class Connected(msgspec.Struct, frozen=True, gc=False):
    """The call is answered, by either side, and the module's audio is on."""


class Released(msgspec.Struct, frozen=True, gc=False):
    """The call is over, and the module is free for another one."""

    why: Release
    detail: str = ""


class Pressed(msgspec.Struct, frozen=True, gc=False):
    """The far end pressed a key, as the module found in the audio."""

    digit: str


class TextCame(msgspec.Struct, frozen=True, gc=False):
    """A text message came; of a long one all parts are together."""

    sender: str
    text: str


class TextSent(msgspec.Struct, frozen=True, gc=False):
    """The network has taken the text."""


class TextFailed(msgspec.Struct, frozen=True, gc=False):
    """The text was not taken."""

    why: str
    passing: bool
    """It may be taken later."""
    n_taken: int = 0
    """Short messages of it that the network had taken before."""


Happening = (
    Status
    | Up
    | Down
    | Offered
    | Alerting
    | Connected
    | Released
    | Pressed
    | TextCame
    | TextSent
    | TextFailed
)
