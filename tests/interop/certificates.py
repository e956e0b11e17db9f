"""Certificates for the tests, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.interop.peers import need


class Authority:
    """A certificate authority in a directory."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        need("openssl")
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.certificate = directory / f"{name}.crt"
        self._key = directory / f"{name}.key"
        _openssl(
            "req", "-x509", *_NEW, "-days", "30", "-subj", f"/CN={name}", "-keyout", self._key,
            "-out", self.certificate, "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip

    def issue(self, name: str, *names: str, days: int = 30, common: str = "") -> Path:
        """A file with key and certificate; `names` are alternative names such as ``DNS:a.test``."""
        base = self.directory / name
        key, asked, shown = (base.with_suffix(end) for end in (".key", ".csr", ".crt"))
        _openssl("req", *_NEW, "-subj", f"/CN={common or name}", "-keyout", key, "-out", asked)
        extensions = base.with_suffix(".ext")
        lines = ["basicConstraints=CA:FALSE", "extendedKeyUsage=serverAuth,clientAuth"]
        lines += [f"subjectAltName={','.join(names)}"] if names else []
        extensions.write_text("\n".join(lines) + "\n")
        _openssl(
            "x509", "-req", "-in", asked, "-CA", self.certificate, "-CAkey", self._key,
            "-CAcreateserial", "-days", str(days), "-extfile", extensions, "-out", shown,
        )  # fmt: skip
        both = base.with_suffix(".pem")
        both.write_text(key.read_text() + shown.read_text())
        return both


_NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: object) -> None:
    command = ["openssl", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
