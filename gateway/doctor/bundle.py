"""Bundle: what a helper far away needs, in one file, without secrets."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import msgspec

from gateway.adapters.secrets import Secret
from gateway.config import Configuration
from gateway.journal import segments
from gateway.typed import is_secret

HIDDEN: Final = "***"
_LOG_LINES: Final = 20_000
_README: Final = """\
Support bundle of a Crosspoint gateway.

config.toml        the configuration, secrets replaced by ***
versions.json      program, system, packages
check.txt          only where the configuration is wrong: why; config.toml is the one before
doctor.json        what `gateway doctor` says
status.json ...    answers of the running gateway; *.missing says why there is none
records-*.json     the newest call detail records
journal/           the end of the journal; `gateway replay journal` runs it again
log.txt            the end of the gateway's log
"""


def secrets(configuration: Configuration) -> set[str]:
    """Every secret that the configuration holds, also those in files and the environment."""
    found: set[str] = set()
    for section in configuration.adapters.values():
        found.update(_secrets(section.config))
    for route in configuration.routes:
        found.update(route.pins.values())
    found.update(_of_url(configuration.records_url))
    try:
        document = tomllib.loads(configuration.file.read_text("utf-8-sig"))
    except (OSError, ValueError):
        document = {}
    found.update(_named(document, hidden=False))
    return {text for text in found if text}


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, Secret):
        yield value.reveal()
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from _secrets(getattr(value, field))
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _secrets(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _secrets(inner)
    elif isinstance(value, str) and "://" in value:
        yield from _of_url(value)


def _of_url(text: str) -> Iterator[str]:
    try:
        password = urlsplit(text).password
    except ValueError:
        return
    if password:
        yield password
        yield unquote(password)


def _named(value: Any, *, hidden: bool) -> Iterator[str]:
    """What stands under a key that names a secret: an adapter may have typed it as plain text."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if hidden and name in ("file", "env"):
                continue
            yield from _named(inner, hidden=hidden or is_secret(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner, hidden=hidden)
    elif isinstance(value, str):
        if hidden:
            yield value
        elif "://" in value:
            yield from _of_url(value)
    elif hidden and isinstance(value, int) and not isinstance(value, bool):
        yield str(value)


class Scrubber:
    """Takes secrets out of text. Whole words only: 4711 is a PIN, 0.4711 a time."""

    def __init__(self, words: set[str]) -> None:
        forms: set[str] = set()
        for word in words:
            # As it may stand in TOML, JSON and addresses.
            quoted = {word, json.dumps(word)[1:-1], json.dumps(word, ensure_ascii=False)[1:-1]}
            forms |= quoted | {quote(word, safe=""), word.replace("'", "\\'")}
        ordered = sorted(filter(None, forms), key=len, reverse=True)
        body = "|".join(re.escape(form) for form in ordered)
        self._pattern = re.compile(rf"(?<![0-9A-Za-z.])(?:{body})(?![0-9A-Za-z])") if body else None
        long = [form for form in ordered if len(form) >= 8]
        # A long one is no accident wherever it stands.
        self._long = re.compile("|".join(re.escape(form) for form in long)) if long else None

    def __call__(self, text: str) -> str:
        for pattern in (self._long, self._pattern):
            if pattern is not None:
                text = pattern.sub(_unless_a_number, text)
        return text


def _unless_a_number(found: re.Match[str]) -> str:
    """A number in JSON that happens to be somebody's PIN is no secret, and JSON must stay JSON."""
    text, begin, end = found.string, found.start(), found.end()
    before = text[max(0, begin - 2) : begin].rstrip(" ")[-1:]
    alone = before in (":", ",", "[") and text[end : end + 1] in (",", "}", "]")
    return found[0] if found[0].isdecimal() and alone else HIDDEN


def pack(
    file: Path,
    configuration: Configuration,
    answers: dict[str, str],
    *,
    journal_bytes: int,
    log: Path | None = None,
) -> list[str]:
    """Write the bundle; the names of what is in it. Only its owner may read it.

    answers: further files, by name. Raises `OSError`.
    """
    scrub = Scrubber(secrets(configuration))
    files: dict[str, str] = {
        "README.txt": _README,
        "config.toml": configuration.file.read_text("utf-8-sig", errors="replace"),
        "versions.json": json.dumps(versions(), indent=1),
        "log.txt": _log(log),
        **answers,
    }
    stem = file.name.split(".")[0] or "bundle"
    names = []
    scratch = file.with_name(file.name + ".part")
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
            for name, text in files.items():
                _add(archive, f"{stem}/{name}", scrub(text))
                names.append(name)
            for name, text in _journal(configuration.journal_dir, journal_bytes):
                _add(archive, f"{stem}/{name}", scrub(text))
                names.append(name)
        scratch.replace(file)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    return names


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode("utf-8", "replace")
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
    archive.addfile(info, io.BytesIO(data))


def _journal(directory: Path, most: int) -> Iterator[tuple[str, str]]:
    """The newest files of the journal, whole lines, at most so many octets together."""
    left = most
    try:
        found = list(reversed(segments(directory)))
    except OSError as error:
        yield "journal.missing", f"{error}\n"
        return
    for path in found:
        if left <= 0:
            return
        try:
            with path.open("rb") as lines:
                size = lines.seek(0, os.SEEK_END)
                lines.seek(max(0, size - left))
                data = lines.read(left)
        except OSError as error:
            yield f"journal/{path.name}.missing", f"{error}\n"
            return
        if size > left:
            data = data[data.find(b"\n") + 1 :]
        left -= size
        yield f"journal/{path.name}", data.decode("utf-8", "replace")


def _log(file: Path | None) -> str:
    if file is not None:
        return "\n".join(file.read_text(errors="replace").splitlines()[-_LOG_LINES:])
    if shutil.which("journalctl") is None:
        return "there is no journalctl; give the log with --log\n"
    done = subprocess.run(
        ["journalctl", "-u", "crosspoint", "-n", str(_LOG_LINES), "--no-pager", "-o", "short-iso"],
        capture_output=True, text=True, errors="replace", timeout=20, check=False,
    )  # fmt: skip
    return done.stdout or done.stderr


def versions() -> dict[str, Any]:
    """Of the program, the system and every package."""
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        system = ""
    packages = {
        found.metadata["Name"]: found.version for found in importlib.metadata.distributions()
    }
    return {
        "python": sys.version,
        "kernel": platform.platform(),
        "machine": platform.machine(),
        "system": system,
        "cores": os.cpu_count(),
        "packages": dict(sorted((name, found) for name, found in packages.items() if name)),
    }
