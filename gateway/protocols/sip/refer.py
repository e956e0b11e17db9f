"""Call transfer: REFER, the news about it, Replaces (RFC 3515, 3891, 3892, 4488)."""

from __future__ import annotations

import re
from urllib.parse import quote as url_quote

import msgspec

from gateway.errors import PeerError, UsageError
from gateway.protocols.sip.core import ClientRequest, Core, PendingRequest
from gateway.protocols.sip.dialog import Dialog, dialog_of_server
from gateway.protocols.sip.events import How, ReferProgress, Referred
from gateway.protocols.sip.headers import parse_name_addr
from gateway.protocols.sip.message import Header, Request, Response
from gateway.protocols.sip.names import NOTIFY, REFER, reason_phrase
from gateway.protocols.sip.session import Session
from gateway.protocols.sip.sessionid import session_id_of
from gateway.protocols.sip.transaction import Flow, ServerTransaction
from gateway.protocols.sip.uri import parse_uri, unescape

LIFETIME = 180
"""Seconds a referrer is kept informed."""

_SIPFRAG = re.compile(rb"\s*SIP/2\.0 ([1-6]\d\d)\b", re.IGNORECASE)


class Refer(msgspec.Struct):
    """A REFER of a peer whose outcome we report."""

    dialog: Dialog
    event: str
    """``refer;id=`` CSeq of the REFER."""
    expires_at: float
    session: Session | None
    heard: str
    """The referrer's half of the Session-ID, where it has no session here."""
    status: int = 100
    """What it was told last."""


def refer_received(
    core: Core,
    request: Request,
    transaction: ServerTransaction,
    flow: Flow,
    session: Session | None,
    identity: str,
    now: float,
) -> None:
    """Tell the owner of a REFER.  Raises `PeerError` with the status to answer."""
    values = request.values("refer-to")
    if len(values) != 1:
        raise PeerError("a REFER needs exactly one Refer-To", status=400)
    target = parse_name_addr(values[0])
    if target.uri.scheme not in ("sip", "sips", "tel"):
        raise PeerError("Refer-To is not a SIP URI", status=416)
    replaces = ""
    for piece in target.uri.headers.split("&"):
        name, _, value = piece.partition("=")
        if name.lower() == "replaces":
            replaces = unescape(value)
    number = core.hold(request, transaction, flow, session.id if session else None, now)
    core.emit(
        Referred(
            request=number,
            session=session.id if session else None,
            target=target,
            referred_by=request.get("referred-by") or "",
            replaces="" if "\r" in replaces or "\n" in replaces else replaces,
            message=request,
            flow=flow,
            identity=identity,
        )
    )


def accept_refer(
    core: Core,
    pending: PendingRequest,
    session: Session | None,
    refers: dict[int, Refer],
    now: float,
) -> int | None:
    """Answer 202 and send the first NOTIFY; returns the token for `notify_refer`."""
    request = pending.request
    if request.method != REFER:
        raise UsageError(f"the pending request is {request.method}, not REFER")
    for number, other in list(core.pending.items()):
        if other is pending:
            del core.pending[number]
    tag = core.random()
    silent = (request.get("refer-sub") or "").strip().lower() == "false"
    headers: list[Header] = [("Contact", core.contact(pending.flow))]
    if silent:
        headers.append(("Refer-Sub", "false"))
    core.respond(request, pending.transaction, 202, now, headers, to_tag=tag)
    if silent:
        return None
    if session is not None and session.dialog is not None:
        dialog = session.dialog
    else:
        dialog = dialog_of_server(request, tag, pending.flow)
    for token in [t for t, refer in refers.items() if refer.expires_at <= now]:
        del refers[token]
    token = core.serial()
    event = f"refer;id={request.cseq.number}"
    refers[token] = Refer(dialog, event, now + LIFETIME, session, session_id_of(request))
    notify_refer(core, refers, token, 100, now)
    return token


def notify_refer(core: Core, refers: dict[int, Refer], token: int, status: int, now: float) -> None:
    """Send one NOTIFY; nothing is sent once the subscription has run out."""
    refer = refers.get(token)
    if refer is None:
        raise UsageError(f"no REFER {token} is being reported")
    if not 100 <= status <= 699:
        raise UsageError(f"{status} is not a SIP status")
    left = int(refer.expires_at - now)
    final = status >= 200
    if final or left <= 0:
        del refers[token]
    if left <= 0:
        return
    refer.status = status
    state = "terminated;reason=noresource" if final else f"active;expires={left}"
    _tell(core, refer, state, now)


def refer_subscribed(
    core: Core,
    refers: dict[int, Refer],
    session: Session,
    request: Request,
    transaction: ServerTransaction,
    now: float,
) -> None:
    """A referrer wants to be told for longer, or no more (RFC 3515 section 2.4.4).  Raises
    `PeerError`."""
    event = "".join((request.get("event") or "").lower().split())
    if event.partition(";")[0] != "refer":
        raise PeerError("a call tells of its transfers alone", status=489)
    token = next(
        (
            token
            for token, refer in refers.items()
            if refer.dialog is session.dialog
            and refer.expires_at > now
            and event in ("refer", refer.event)
        ),
        None,
    )
    if token is None:
        raise PeerError("no REFER of yours has this id", status=481)
    refer = refers[token]
    asked = request.number("expires", 2**31)
    seconds = LIFETIME if asked is None else min(asked, LIFETIME)
    refer.expires_at = now + seconds
    headers: list[Header] = [session.my_contact(), ("Expires", str(seconds))]
    core.respond(request, transaction, 200, now, headers)
    if seconds == 0:
        del refers[token]
    _tell(core, refer, f"active;expires={seconds}" if seconds else "terminated;reason=timeout", now)


def _tell(core: Core, refer: Refer, state: str, now: float) -> None:
    dialog, status = refer.dialog, refer.status
    target, routes, hop = dialog.route()
    flow = core.dialog_flow(dialog, hop, pinned=bool(refer.session and refer.session.pinned))
    body = f"SIP/2.0 {status} {reason_phrase(status)}\r\n".encode()
    ClientRequest(
        core,
        NOTIFY,
        target,
        flow,
        routes=routes,
        from_=dialog.local,
        to=dialog.remote,
        call_id=dialog.call_id,
        seq=dialog.next_seq(),
        extra=[
            ("Contact", core.contact(flow)),
            core.session_id(dialog.call_id, refer.heard),
            ("Event", refer.event),
            ("Subscription-State", state),
            ("Content-Type", "message/sipfrag;version=2.0"),
        ],
        on_response=_notified,
        body=body,
        auth=refer.session.auth if refer.session else None,
        dialog=dialog,
    ).send(now)


def _notified(request: ClientRequest, response: Response, now: float) -> None:
    """A referrer that does not want to know is left alone by itself: the news is bounded."""


def send_refer(
    session: Session, target: str, replaced: Session | None, headers: list[Header], now: float
) -> int:
    """Send REFER inside ``session``; returns the token of its `ReferProgress` events."""
    try:
        uri = parse_uri(target)
    except PeerError as error:
        raise UsageError(str(error)) from error
    if session.state != "confirmed" or session.dialog is None:
        raise UsageError(f"session {session.id} is not answered: it cannot be transferred")
    core = session.core
    text = uri.text
    if replaced is not None:
        dialog = replaced.dialog
        if dialog is None:
            raise UsageError(f"session {replaced.id} has no dialog to be replaced")
        # Tags as the referred party's new peer sees them: its own tag is our remote one.
        value = f"{dialog.call_id};to-tag={dialog.remote_tag};from-tag={dialog.local_tag}"
        text = f"{text.partition('?')[0]}?Replaces={url_quote(value, safe='')}"
    token = core.serial()

    def responded(request: ClientRequest, response: Response, at: float) -> None:
        status = response.status
        if status < 200:
            return
        if status < 300:
            session.refers[request.seq] = token
            return
        core.emit(
            ReferProgress(session=session.id, token=token, status=status, final=True, refused=True)
        )
        if status == 481:
            session.end(How.GONE, at, 481, response)

    # The NOTIFY may overtake the 202: it is matched by the CSeq that the REFER will have.
    session.refers[session.dialog.local_seq + 1] = token
    session.request(
        REFER,
        [
            session.my_contact(),
            ("Refer-To", f"<{text}>"),
            ("Referred-By", session.dialog.local.partition(";tag=")[0]),
            *headers,
        ],
        b"",
        responded,
        now,
    )
    return token


def session_notified(
    core: Core, session: Session, request: Request, transaction: ServerTransaction, now: float
) -> None:
    """A NOTIFY inside a session: news about a REFER of ours.  Raises `PeerError`."""
    event, _, rest = (request.get("event") or "").partition(";")
    if event.strip().lower() != "refer":
        raise PeerError("no subscription to this event", status=481)
    token: int | None = None
    for piece in rest.split(";"):
        name, _, value = piece.strip().partition("=")
        if name == "id" and value.isascii() and value.isdigit() and len(value) <= 10:
            token = session.refers.get(int(value))
    if token is None and "id=" not in rest and session.refers:
        token = list(session.refers.values())[-1]
    found = _SIPFRAG.match(request.body)
    if token is None:
        raise PeerError("no REFER of ours has this id", status=481)
    core.respond(request, transaction, 200, now)
    over = (request.get("subscription-state") or "").lower().startswith("terminated")
    status = int(found[1]) if found is not None else (408 if over else 100)
    core.emit(
        ReferProgress(
            session=session.id,
            token=token,
            status=status,
            final=over or status >= 200,
            refused=False,
        )
    )
    if over:
        session.refers = {seq: t for seq, t in session.refers.items() if t != token}
