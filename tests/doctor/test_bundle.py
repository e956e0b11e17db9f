"""The support bundle: everything that helps, and no secret."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.config import load
from gateway.doctor.bundle import HIDDEN, Scrubber, pack, secrets
from tests.box import Box

SECRETS = {
    "phone": "hunter2-of-anna",
    "trunk": 'quo"te\\and back',
    "pin": "83650917",
    "short": "x7q",
    "file": "from-a-file-of-its-own",
    "env": "from-the-environment!",
    "url": "p%40ssw0rd-of-the-database",
    "umlaut": "geheim-ä-ö-ü",
}

CONFIG = """\
[gateway]
name = "box"
data_dir = "{home}/data"
[records]
url = "postgresql+psycopg://gateway:{url}@127.0.0.1/records"

[adapters.sip]
listen = ["udp:127.0.0.1:5099"]
[adapters.sip.phones.anna]
number = "21"
password = {phone}
[adapters.sip.phones.bert]
number = "22"
password = {{ file = "bert.pw" }}
[adapters.sip.phones.cleo]
number = "23"
password = {{ env = "CLEO_PASSWORD" }}
[adapters.sip.phones.dora]
number = "24"
password = {trunk}
[adapters.sip.phones.emil]
number = "25"
password = '{short}'
[adapters.sip.phones.fritz]
number = "26"
password = "{umlaut}"

[[routes]]
name = "disarm"
called = "*0"
command = {{ endpoint = "sip/anna", verb = "DISARM" }}
pins = {{ anna = "{pin}" }}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLEO_PASSWORD", SECRETS["env"])
    (tmp_path / "bert.pw").write_text(SECRETS["file"] + "\n")
    file = tmp_path / "gateway.toml"
    quoted = {
        name: json.dumps(text) for name, text in SECRETS.items() if name in ("phone", "trunk")
    }
    file.write_text(CONFIG.format(**(SECRETS | quoted), home=tmp_path))
    return file


def contents(file: Path) -> dict[str, str]:
    with tarfile.open(file) as archive:
        found = {}
        for member in archive.getmembers():
            data = archive.extractfile(member)
            assert data is not None
            found[member.name.partition("/")[2]] = data.read().decode()
        return found


def test_no_secret_of_the_configuration_is_in_it(config: Path, tmp_path: Path) -> None:
    configuration = load(config)
    assert set(SECRETS.values()) <= secrets(configuration)
    log = tmp_path / "log"
    log.write_text("\n".join(f"trying {text} as {json.dumps(text)}" for text in SECRETS.values()))
    answers = {"status.json": json.dumps({"said": list(SECRETS.values()), "at": 83650917})}
    journal = tmp_path / "data/journal"
    journal.mkdir(parents=True)
    name = "journal-019b8d2b-8c00-7000-a424-86a9556c1d13.jsonl"
    (journal / name).write_text(json.dumps({"said": list(SECRETS.values())}) + "\n")
    file = tmp_path / "bundle.tar.gz"
    names = pack(file, configuration, answers, journal_bytes=1 << 20, log=log)
    found = contents(file)
    assert set(names) == set(found)
    assert f"journal/{name}" in found
    for inside, text in found.items():
        for secret in SECRETS.values():
            for form in (secret, json.dumps(secret)[1:-1]):
                plain = text.replace('"at": 83650917', "")
                assert form not in plain, (inside, secret)
    # What is left is still what it was: TOML with the numbers, JSON that can be read.
    assert 'number = "21"' in found["config.toml"]
    assert HIDDEN in found["config.toml"]
    assert json.loads(found["status.json"])["at"] == 83650917
    assert os.stat(file).st_mode & 0o777 == 0o600
    assert list(tmp_path.glob("*.part")) == []


def test_the_journal_is_cut_at_a_line(config: Path, tmp_path: Path) -> None:
    configuration = load(config)
    journal = tmp_path / "data/journal"
    journal.mkdir(parents=True)
    for n in range(3):
        lines = "".join(f'{{"n":{n},"k":{k}}}\n' for k in range(100))
        (journal / f"journal-019b8d2b-8c0{n}-7000-a424-86a9556c1d13.jsonl").write_text(lines)
    file = tmp_path / "bundle.tar.gz"
    pack(file, configuration, {}, journal_bytes=2000, log=config)
    texts = [text for name, text in sorted(contents(file).items()) if name.startswith("journal/")]
    assert sum(map(len, texts)) <= 2000
    assert texts[-1].endswith('{"n":2,"k":99}\n')
    for text in texts:
        for line in text.splitlines():
            json.loads(line)


@given(st.sets(st.text(min_size=8, max_size=20), max_size=5), st.text(), st.text())
def test_a_long_secret_is_found_wherever_it_stands(
    words: set[str], before: str, after: str
) -> None:
    scrub = Scrubber(words)
    for word in words:
        # As a number among numbers of JSON it would stay, as it would be an accident.
        assume(word not in before + after)
        assert word not in scrub(f"{before} '{word}' {after}")


def test_from_the_command_line(box: Box) -> None:
    box.json("dial", "loopback/alice", "loopback/bob", "--wait")
    said = box.ok("support-bundle", "help.tar.gz", "--log", "log")
    assert "passwords, PINs and keys are not in it" in said
    found = contents(box.home / "help.tar.gz")
    assert json.loads(found["status.json"])["calls"] == 1
    assert json.loads(found["versions.json"])["packages"]["msgspec"]
    assert "gateway is running" in found["log.txt"]
    assert "crosspoint_calls_up 1.0" in found["metrics.txt"]
    assert {each["check"] for each in json.loads(found["doctor.json"])} >= {"clock", "ports"}
    journal = next(text for name, text in found.items() if name.startswith("journal/"))
    assert '"Dial"' in journal
    # The journal in it can be run again, far away.
    with tarfile.open(box.home / "help.tar.gz") as archive:
        archive.extractall(box.home)
    assert ": the same" in box.ok("replay", "help/journal")


def test_without_a_gateway(idle: Box) -> None:
    idle.ok("support-bundle", "help.tar.gz")
    found = contents(idle.home / "help.tar.gz")
    assert "does not answer" in found["status.json.missing"]
    assert "[gateway]" in found["config.toml"]
    done = idle.run("support-bundle", "/no/such/place/x.tar.gz")
    assert done.returncode == 1
    assert "No such file" in done.stderr
