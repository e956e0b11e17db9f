"""23: configurations that are wrong, at the start and by a reload, with calls up."""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import aiohttp

from gateway.config import load
from gateway.errors import ConfigError
from tests.reliability.daemon import CALLED, CALLER
from tests.reliability.lab import Lab, Pair
from tests.reliability.net import FURTHER

N = 200
N_CHECKED = 30
"""So many of them are also shown to ``gateway check``, all of the named ones among them."""
CHECK_EXIT = 4
SECRET = "never-to-be-read-1974"
PHONE = f'[adapters.sip.phones.user0]\npassword = "{SECRET}"\nnumber = "300"\n'
AT_START = ("wrong type", "unknown key", "no file", "NUL", "10 MB")


async def run(lab: Lab) -> None:
    """Refused with file, line and key, never half applied, no secret told, calls go on."""
    await lab.start(trunks=CALLER + CALLED + PHONE)
    caller, called = lab.ends()
    probe = lab.party("b", FURTHER[0])
    await lab.warm(caller)
    pairs = await lab.talk(caller, called, lab.load)
    file = lab.daemon.file
    good = file.read_text()
    cases = list(_named(good))
    chance = random.Random(23)
    cases += [(f"mutation {n}", _mutated(good, chance)) for n in range(N - len(cases))]
    refused = 0
    for number, (name, data) in enumerate(cases):
        why = _write(file, data)
        refused += await _reload(lab, name, why, good)
        if why and number < N_CHECKED:
            await _check(lab, name, why)
    lab.figure(configurations=len(cases), refused=refused)
    file.write_text(good)
    for name in AT_START:
        await _at_start(lab, name, dict(cases)[name])
    await lab.hear(pairs, what="after")
    _stand(lab, pairs)
    # What is right is taken as ever.
    file.write_text(
        good + '[[routes]]\nname = "more"\ncalled = "2000"\ntargets = ["sip/called:1000"]\n'
    )
    before = await _generation(lab)
    status, text = await _post(lab)
    lab.check(status == 200, f"a good configuration is refused: {text[:200]}")
    lab.check(await _generation(lab) == before + 1, "a good configuration is not counted")
    talk = await caller.call("2000", lab.number())
    lab.check(talk.up, f"the new route: {talk.status}")
    lab.unknown.add(talk.calling)
    await caller.hang_up(talk)
    await lab.end(caller, pairs)
    lab.check(SECRET not in lab.daemon.log.read_text(), "a secret is in the log")
    await lab.judge(caller, probe)


def _named(good: str) -> list[tuple[str, bytes]]:
    """What people do wrong."""
    text = good.encode()

    def with_tls(lines: str) -> bytes:
        return text + f"[adapters.sip.tls]\n{lines}\n".encode()

    return [
        ("wrong type", text.replace(b"ports = [20000, 24000]", b'ports = "many"')),
        ("unknown key", text.replace(b"realtime = true", b"realtime = true\nreal_time = true")),
        ("unknown adapter", text + b"[adapters.fax]\n"),
        ("unknown table", text + b"[adaptors]\n"),
        ("listens twice", text.replace(b"listen = [", b'listen = ["udp:10.77.0.2:5060", ')),
        ("ports upside down", text.replace(b"[20000, 24000]", b"[24000, 20000]")),
        ("no certificate", with_tls('cert_file = "/nowhere/gateway.pem"')),
        ("a certificate of zeros", with_tls('cert_file = "/dev/null"')),
        ("a folder as certificate", with_tls('cert_file = "/etc"')),
        ("target that is nowhere", text.replace(b"sip/called:1000", b"sip/nobody:1000")),
        ("route twice", text + text[text.index(b"[[routes]]") :]),
        ("table twice", text + b"[gateway]\n"),
        ("not closed", text + b'[[routes]]\nname = "x\n'),
        ("a secret as a number", text.replace(f'"{SECRET}"'.encode(), b"4711")),
        ("a phone without a number", text.replace(b'number = "300"', b"number = 300")),
        ("a negative time", text.replace(b"drain_s = 5", b"drain_s = -5")),
        ("not a number", text.replace(b"drain_s = 5", b"drain_s = nan")),
        ("NUL", text.replace(b"[media]", b"[med\0ia]")),
        ("Latin-1", text.replace(b'name = "reliability"', b'name = "B\xfcro"')),
        ("10 MB", text + b"# " + b"x" * (10 << 20) + b"\n[[["),
        ("deep", text + b"x = " + b"[" * 5000),
        ("garbage", random.Random(1).randbytes(5000)),
        ("no file", b""),
    ]


def _mutated(good: str, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(good))
        change = chance.choice(["", "\n", '"', "[", "]", "=", "9", "{", "x", "-1", "'", "true"])
        good = good[:at] + change + good[at + chance.randint(0, 6) :]
    return good.encode()


def _write(file: Path, data: bytes) -> str:
    """Put it in the file's place; what is wrong with it, empty when it may be used."""
    if file.is_dir():
        file.rmdir()
    if data:
        file.write_bytes(data)
    else:
        # For root every file is readable; this is none.
        file.unlink()
        file.mkdir()
    try:
        load(file)
    except ConfigError as error:
        return str(error)
    return ""


async def _reload(lab: Lab, name: str, why: str, good: str) -> bool:
    """Ask for it; whether it was refused."""
    before = await _generation(lab)
    status, text = await _post(lab)
    after = await _generation(lab)
    lab.check(SECRET not in text, f"{name}: the answer tells a secret")
    if why:
        lab.check(400 <= status < 500, f"{name}: the reload is answered {status}")
        lab.check("gateway.toml" in text, f"{name}: the answer names no file: {text[:200]}")
    if status != 200:
        lab.check(after == before, f"{name}: refused, but counted as applied")
        return True
    if after != before:
        # It was fit for use: back to what the calls began with.
        _write(lab.daemon.file, good.encode())
        status, text = await _post(lab)
        lab.check(status == 200, f"back from {name}: {text[:200]}")
    return False


async def _check(lab: Lab, name: str, why: str) -> None:
    code, output = await _gateway(lab, "check", str(lab.daemon.file))
    lab.check(code == CHECK_EXIT, f"{name}: check ends with {code}: {output[-300:]}")
    lab.check("gateway.toml" in output, f"{name}: check names no file: {output[:200]}")
    lab.check("Traceback" not in output, f"{name}: {output[-300:]}")
    lab.check(SECRET not in output, f"{name}: check tells a secret")
    # As many places as `load` has found.
    lab.check(
        output.count("gateway.toml:") >= why.count("gateway.toml:"), f"{name}: {output[:200]}"
    )


async def _at_start(lab: Lab, name: str, data: bytes) -> None:
    home = lab.home / "second"
    home.mkdir()
    file = home / "gateway.toml"
    file.touch()
    _write(file, data.replace(str(lab.home).encode(), str(home).encode()))
    code, output = await _gateway(lab, "--config", str(file), "run")
    lab.check(code == CHECK_EXIT, f"{name}: run ends with {code}: {output[-300:]}")
    lab.check(SECRET not in output, f"{name}: run tells a secret")
    lab.check(not (home / "data").exists(), f"{name}: it has begun before it was refused")
    shutil.rmtree(home)


async def _gateway(lab: Lab, *arguments: str) -> tuple[int | None, str]:
    """A command of ours beside the gateway: exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *lab.net.command("b", sys.executable, "-m", "gateway", *arguments),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 60.0)
    except TimeoutError:
        process.kill()
        await process.wait()
        return None, "it does not end"
    return process.returncode, output.decode(errors="replace")


async def _post(lab: Lab) -> tuple[int, str]:
    """Ask for a reload; status and answer."""
    connector = aiohttp.UnixConnector(str(lab.home / "s"))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post("http://gateway/v1/reload", json={}) as response,
    ):
        return response.status, await response.text()


async def _generation(lab: Lab) -> int:
    figures: dict[str, Any] = await lab.daemon.metrics()
    return int(figures["crosspoint_configuration_generation"])


def _stand(lab: Lab, pairs: list[Pair]) -> None:
    gone = [one for one, other in pairs if not (one.up and other.up)]
    lab.check(not gone, f"{len(gone)} of {len(pairs)} calls were lost")
