"""19: people who want to call at others' expense, or to find out who has an account."""

from __future__ import annotations

import asyncio
import re
import statistics
import time

from tests.reliability.daemon import CALLED, CALLER
from tests.reliability.lab import Lab
from tests.reliability.net import CLIENT, FURTHER, GATEWAY
from tests.reliability.party import Message, Party, proof

USERS = 10
GUESSES = 1000
FAILURES = 10
DIFFERENCE_S = 0.005
USERS_PARTS = (
    "1000", "9001000", "+491000", "1000%0d%0aX-Evil:1", "1000&1001", "1000;phone-context=x",
    "1000%40elsewhere", "%31000", "anonymous", "1000\\r\\n", "'; DROP TABLE legs; --",
)  # fmt: skip


async def run(lab: Lab) -> None:
    """No call goes out; known and unknown users look the same; who guesses is shut out alone."""
    phones = "".join(
        f'[adapters.sip.phones.user{n}]\npassword = "right{n}"\nnumber = "{300 + n}"\n'
        for n in range(USERS)
    )
    await lab.start(
        trunks=CALLER + CALLED + phones, users="*", sip=f"lockout_failures = {FAILURES}"
    )
    caller, called = lab.ends()
    users = [lab.party("a", f"10.77.1.{n + 1}", port=5070, first_hz=2000) for n in range(USERS)]
    codes = await asyncio.gather(
        *(party.register(f"user{n}", f"right{n}") for n, party in enumerate(users))
    )
    lab.check(set(codes) == {200}, f"registrations of the rightful: {codes}")
    await lab.warm(caller)
    seized = called.seen["INVITE"]
    thief = lab.party("a", "10.77.1.40", port=5066)

    await _enumerate(lab, thief)
    await _spoof(lab, thief)
    # A trunk's INVITE looks the same from the outside; this one has no dialog at all.
    await _tags(lab, thief)
    lab.check(called.seen["INVITE"] == seized, f"{called.seen['INVITE'] - seized} calls went out")
    await _guess(lab)
    lab.check(called.seen["INVITE"] == seized, "a guess led to a call")
    # The rightful are not shut out.
    talks = await asyncio.gather(*(party.call("1000", f"user{n}") for n, party in enumerate(users)))
    up = sum(talk.up for talk in talks)
    lab.check(up == USERS, f"{up} of {USERS} rightful users can call: {[t.status for t in talks]}")
    lab.unknown |= {str(300 + n) for n in range(USERS)}
    await asyncio.gather(*(users[n].hang_up(talk) for n, talk in enumerate(talks)))
    for n in range(USERS):
        # What happens in the name of a user raises his alarm: more numbers than a person tries.
        if n == 0:
            await _suspicious(lab, users[0])
    lab.figure(outbound=0 if called.seen["INVITE"] == seized + up else called.seen["INVITE"])
    await lab.judge(caller, lab.party("b", FURTHER[0]), records=False)


async def ask(
    party: Party, method: str, uri: str, from_: str, to: str, *extra: str, body: str = ""
) -> Message | None:
    """A request outside of any dialog, and its final answer."""
    data, branch = party.build(
        method, uri,
        [f"From: {from_};tag=t{time.monotonic_ns()}", f"To: {to}",
         f"Call-ID: {time.monotonic_ns()}@{party.address}", f"CSeq: 1 {method}",
         f"Contact: <sip:t@{party.address}:{party.port}>", *extra], body,
    )  # fmt: skip
    answer = await party.transact(data, branch, method, within_s=4.0)
    if method == "INVITE" and answer is not None and answer.status >= 300:
        party._ack_failure(data, branch, answer)
    return answer


async def _enumerate(lab: Lab, thief: Party) -> None:
    """Known and unknown users: same answer, same time."""
    took: dict[bool, list[float]] = {True: [], False: []}
    looks: dict[bool, set[str]] = {True: set(), False: set()}
    for n in range(100):
        for known in (True, False):
            user = f"user{n % USERS}" if known else f"nobody{n % USERS}"
            began = time.perf_counter()
            for method in ("REGISTER", "INVITE")[n % 2 :][:1]:
                answer = await ask(
                    thief, method, f"sip:{GATEWAY}", f"<sip:{user}@{GATEWAY}>",
                    f"<sip:{user}@{GATEWAY}>",
                )  # fmt: skip
            took[known].append(time.perf_counter() - began)
            if answer is None:
                looks[known].add("nothing")
                continue
            shown = re.sub(r'nonce="[^"]*"|opaque="[^"]*"', "", answer["www-authenticate"])
            looks[known].add(f"{answer.first} {shown} {sorted({k for k, _ in answer.headers})}")
    difference = abs(statistics.median(took[True]) - statistics.median(took[False]))
    lab.check(looks[True] == looks[False], f"known users look different: {looks}")
    lab.check(difference <= DIFFERENCE_S, f"known users take {1000 * difference:.1f} ms more")
    lab.figure(known_unknown_ms=round(1000 * difference, 2))


async def _spoof(lab: Lab, thief: Party) -> None:
    body = thief._no_audio()
    trunk = f"<sip:7123@{CLIENT}>"
    for part in USERS_PARTS:
        for from_ in (trunk, "<sip:user1@10.77.0.2>", '"x" <sip:anonymous@anonymous.invalid>'):
            answer = await ask(
                thief, "INVITE", f"sip:{part}@{GATEWAY}", from_, f"<sip:1000@{GATEWAY}>",
                f"P-Asserted-Identity: {trunk}", "Remote-Party-ID: <sip:user1@10.77.0.2>",
                f"Via: SIP/2.0/UDP {CLIENT}:5060;branch=z9hG4bKx", body=body,
            )  # fmt: skip
            status = answer.status if answer else 0
            lab.check(not 200 <= status < 300, f"a stranger's call of {part!r} got {status}")
    for method, extra in (
        ("REFER", f"Refer-To: <sip:1000@{GATEWAY}>"),
        ("INVITE", "Replaces: 1;to-tag=1;from-tag=1"),
        ("SUBSCRIBE", "Event: dialog"), ("MESSAGE", "Subject: x"), ("UPDATE", "X: 1"),
    ):  # fmt: skip
        answer = await ask(
            thief, method, f"sip:1000@{GATEWAY}", trunk, f"<sip:1000@{GATEWAY}>", extra,
            body=body if method == "INVITE" else "",
        )  # fmt: skip
        status = answer.status if answer else 0
        lab.check(not 200 <= status < 300, f"a stranger's {method} got {status}")


async def _tags(lab: Lab, thief: Party) -> None:
    for n in range(50):
        answer = await ask(
            thief, ("INVITE", "BYE", "REFER")[n % 3], f"sip:1000@{GATEWAY}",
            f"<sip:7123@{CLIENT}>", f"<sip:1000@{GATEWAY}>;tag={n:016x}",
            f"Refer-To: <sip:1000@{GATEWAY}>", body=thief._no_audio() if n % 3 == 0 else "",
        )  # fmt: skip
        status = answer.status if answer else 0
        lab.check(not 200 <= status < 300, f"a request with a guessed tag got {status}")


async def _guess(lab: Lab) -> None:
    """A thousand passwords from one address."""
    guesser = lab.party("a", "10.77.1.41", port=5067)
    before = await lab.daemon.counter("wrong_password")
    answered = 0
    loop = asyncio.get_running_loop()
    began = loop.time()
    challenge = await ask(
        guesser, "REGISTER", f"sip:{GATEWAY}", f"<sip:user1@{GATEWAY}>", f"<sip:user1@{GATEWAY}>"
    )
    assert challenge is not None
    offer = challenge["www-authenticate"]
    for n in range(GUESSES):
        line = proof(offer, "user1", f"guess{n}", "REGISTER", f"sip:{GATEWAY}", count=n + 1)
        data, branch = guesser.build(
            "REGISTER", f"sip:{GATEWAY}",
            [f"From: <sip:user1@{GATEWAY}>;tag=g", f"To: <sip:user1@{GATEWAY}>",
             f"Call-ID: guess{n}", f"CSeq: {n + 1} REGISTER",
             f"Contact: <sip:user1@{guesser.address}:{guesser.port}>", line],
        )  # fmt: skip
        heard: list[Message] = []
        guesser._waiting[branch, "REGISTER"] = heard.append
        guesser.send(data)
        if n < 3 * FAILURES:
            for _ in range(20):
                if heard:
                    break
                await asyncio.sleep(0.01)
            answered += bool(heard)
            if heard and heard[0]["www-authenticate"]:
                offer = heard[0]["www-authenticate"]
            lab.check(not heard or heard[0].status != 200, "a guess was right")
        elif n % 50 == 0:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)
    tried = await lab.daemon.counter("wrong_password") - before
    lab.check(tried <= FAILURES, f"{tried} guesses were looked at")
    lab.check(answered <= FAILURES + 1, f"{answered} guesses were answered")
    lab.figure(guesses_tried=tried, guessing_s=round(loop.time() - began, 1))


async def _suspicious(lab: Lab, user: Party) -> None:
    """An account that tries one number after the other raises the alarm toll-fraud."""
    for n in range(25):
        await user.call(f"55{n:03}", "user0", audio=False, within_s=5.0)
    alarms = await lab.daemon.get("alarms")
    lab.check(
        any(alarm["alarm"] == "toll-fraud" for alarm in alarms), f"no toll-fraud alarm: {alarms}"
    )
