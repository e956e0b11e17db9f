"""20: what was heard of somebody's digest must be worth nothing to others."""

from __future__ import annotations

import asyncio
import re

from tests.reliability.daemon import CALLED, CALLER
from tests.reliability.lab import Lab
from tests.reliability.net import FURTHER, GATEWAY
from tests.reliability.party import Message, Party, challenge_of, proof

URI = f"sip:{GATEWAY}"
ME = f"<sip:user1@{GATEWAY}>"
_HOLDS = """
[adapters.sip.phones.user1]
password = "secret1"
number = "301"
"""


async def run(lab: Lab) -> None:
    """Replays and downgrades are refused, stale only where it is, no proof for the wrong peer."""
    await lab.start(
        trunks=CALLER + CALLED.replace("[adapters.sip.trunks.called]\n",
        '[adapters.sip.trunks.called]\nuser = "box"\npassword = "trunk"\nrealm = "carrier"\n')
        + _HOLDS, users="*", sip="lockout_failures = 1000",
    )  # fmt: skip
    caller, called = lab.ends()
    phone = lab.party("a", "10.77.1.1", port=5070)
    thief = lab.party("a", "10.77.1.40", port=5066)
    await lab.warm(caller)
    await _offers(lab, phone)
    await _replay(lab, phone, thief)
    await _downgrades(lab, phone)
    await _leaks(lab, caller, called)
    await lab.judge(caller, lab.party("b", FURTHER[0]), records=False)


async def ask(party: Party, method: str, line: str = "", **other: str) -> Message | None:
    """REGISTER (or another method) as user1 with an Authorization line."""
    port = other.get("port", str(party.port))
    data, branch = party.build(
        method, other.get("uri", URI),
        [f"From: {ME};tag=x", f"To: {ME}", f"Call-ID: {other.get('call_id', 'one')}",
         f"CSeq: {other.get('cseq', '1')} {method}",
         f"Contact: <sip:user1@{other.get('host', party.address)}:{port}>",
         *([line] if line else [])],
    )  # fmt: skip
    answer = await party.transact(data, branch, method, within_s=4.0)
    if method == "INVITE" and answer and answer.status >= 300:
        party._ack_failure(data, branch, answer)
    return answer


def refused(answer: Message | None) -> bool:
    return answer is None or answer.status >= 400


async def _offers(lab: Lab, phone: Party) -> None:
    answer = await ask(phone, "REGISTER")
    assert answer is not None
    offers = [challenge_of(text) for text in answer.all("www-authenticate")]
    lab.check(
        [offer.get("algorithm") for offer in offers] == ["SHA-256"],
        f"algorithms that were not configured are offered: {offers}",
    )
    lab.check(all(offer.get("qop") == "auth" for offer in offers), "no qop is offered")


async def _challenge(phone: Party) -> str:
    answer = await ask(phone, "REGISTER")
    assert answer is not None
    return answer["www-authenticate"]


async def _replay(lab: Lab, phone: Party, thief: Party) -> None:
    offer = await _challenge(phone)
    line = proof(offer, "user1", "secret1", "REGISTER", URI)
    first = await ask(phone, "REGISTER", line, cseq="2")
    lab.check(first and first.status == 200, f"the rightful one: {first and first.first}")
    for what, other in (
        ("the same count again", {"cseq": "3"}),
        ("in a new Call-ID", {"call_id": "two", "cseq": "1"}),
        ("with another Contact", {"call_id": "three", "host": "10.77.1.40", "port": "9"}),
        ("with another method", {"method": "INVITE", "call_id": "four", "uri": URI}),
    ):
        answer = await ask(phone, other.pop("method", "REGISTER"), line, **other)
        lab.check(refused(answer), f"a replay {what} was accepted")
    second = proof(offer, "user1", "secret1", "REGISTER", URI, count=2)
    answer = await ask(thief, "REGISTER", second, call_id="five")
    lab.check(refused(answer), "a proof for one address was accepted from another")
    lab.check(
        answer is None or "stale=true" not in answer["www-authenticate"].lower(),
        "stale=true for a nonce that was never his",
    )
    forged = re.sub(r'nonce="[^"]*"', 'nonce="0123456789abcdef"', offer)
    answer = await ask(
        phone, "REGISTER", proof(forged, "user1", "secret1", "REGISTER", URI), call_id="six"
    )
    lab.check(refused(answer), "a nonce that we never gave was accepted")
    lab.check(
        answer is None or "stale=true" not in answer["www-authenticate"].lower(),
        "stale=true for a nonce that we never gave",
    )
    bindings = [place for place in await lab.daemon.get("endpoints") if place["id"] == "sip/user1"]
    lab.check("10.77.1.40" not in str(bindings), "the thief's Contact is registered")


async def _downgrades(lab: Lab, phone: Party) -> None:
    for what, kwargs in (
        ("without qop", {"qop": False}),
        ("with MD5", {"algorithm": "MD5"}),
        ("with MD5 and without qop", {"algorithm": "MD5", "qop": False}),
        ("of another realm", {"realm": "elsewhere"}),
    ):
        offer = await _challenge(phone)
        line = proof(offer, "user1", "secret1", "REGISTER", URI, **kwargs)  # type: ignore[arg-type]
        answer = await ask(phone, "REGISTER", line, call_id=what.replace(" ", ""))
        lab.check(refused(answer), f"a proof {what} was accepted")
    for what, spoil in (
        ("auth-int", lambda line: line.replace("qop=auth,", "qop=auth-int,")),
        ("without response", lambda line: re.sub(r'response="[^"]*", ', "", line)),
        ("with an empty response", lambda line: re.sub(r'response="[^"]*"', 'response=""', line)),
        ("with nc=0", lambda line: re.sub(r"nc=\w+", "nc=00000000", line)),
        ("of another uri", lambda line: line.replace(f'uri="{URI}"', 'uri="sip:elsewhere"')),
    ):
        offer = await _challenge(phone)
        line = spoil(proof(offer, "user1", "secret1", "REGISTER", URI))
        answer = await ask(phone, "REGISTER", line, call_id=what.replace(" ", ""))
        lab.check(refused(answer), f"a proof {what} was accepted")


async def _leaks(lab: Lab, caller: Party, called: Party) -> None:
    """Who is challenged gives a proof only to whom it belongs."""
    # A far end whose realm is not the configured one; one that asks in a call from its side (the
    # digest leak: the victim answers a challenge to its BYE).
    called.answers = 401
    for realm, proves in (("elsewhere", False), ("carrier", True)):
        called.challenged.clear()
        called.greeting = (
            f'WWW-Authenticate: Digest realm="{realm}", nonce="n{realm}", algorithm=SHA-256, '
            'qop="auth"'
        )
        await caller.call("1000", lab.number(), within_s=6.0)
        lab.check(
            bool(called.challenged) == proves,
            f"a challenge of realm {realm!r} was {'' if called.challenged else 'not '}answered",
        )
        lab.check(
            all("SHA-256" in line for line in called.challenged), "proved with another algorithm"
        )
    called.challenged.clear()
    called.greeting = 'WWW-Authenticate: Digest realm="carrier", nonce="n", algorithm=MD5'
    await caller.call("1000", lab.number(), within_s=6.0)
    lab.check(not called.challenged, "an MD5 challenge was answered, though MD5 is not configured")
    called.answers = 200
    # The digest leak: a caller for whom we hold no password challenges our BYE.
    caller.challenge_byes = 'Digest realm="carrier", nonce="leak", algorithm=SHA-256, qop="auth"'
    caller.challenged.clear()
    talk = await caller.call("1000", lab.number())
    lab.check(talk.up, f"a call: {talk.status}")
    other = next(
        (each for each in called.calls.values() if each.calling == talk.calling and each.up), None
    )
    if lab.check(other is not None, "no far end of the call") and other is not None:
        await called.hang_up(other)
        await asyncio.sleep(1.0)
        lab.check(caller.seen["BYE"] >= 1, "no BYE came to be challenged")
        lab.check(not caller.challenged, "a challenge to a BYE was answered")
    caller.challenge_byes = ""
    lab.figure(replays="refused", realm_of_others="not answered")
