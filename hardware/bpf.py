"""Compile the relay in the kernel into what the engine loads: needs clang and llvm, unlike a box.

``make bpf`` after a change of ``gateway/media/relay_bpf.c`` or ``.h``; the result is committed.
"""

import hashlib
import struct
import subprocess
import sysconfig
import tempfile
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent / "gateway" / "media"
SOURCES = ("relay_bpf.c", "relay_bpf.h")


def digest() -> str:
    """Of what the instructions are made of."""
    return hashlib.sha256(b"".join((HOME / name).read_bytes() for name in SOURCES)).hexdigest()


def compiled() -> list[int]:
    """The instructions, 64 bits each."""
    with tempfile.TemporaryDirectory() as tmp:
        made, text = Path(tmp) / "relay.o", Path(tmp) / "relay.bin"
        headers = f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}"
        subprocess.run(
            ["clang", "-O2", "-Wall", "-Wextra", "-Werror", "-mcpu=v3", "-target", "bpf",
             "-I", headers, "-c", HOME / "relay_bpf.c", "-o", made],
            check=True,
        )  # fmt: skip
        subprocess.run(
            ["llvm-objcopy", "-O", "binary", "--only-section=tc", made, text], check=True
        )
        return [word for (word,) in struct.iter_unpack("<Q", text.read_bytes())]


def main() -> None:
    """Write the instructions beside their source."""
    words = compiled()
    lines = [
        " ".join(f"0x{word:016x}," for word in words[i : i + 5]) for i in range(0, len(words), 5)
    ]
    head = f"/* Made by `make bpf` of {' and '.join(SOURCES)}: sha256\n * {digest()} */"
    (HOME / "relay_bpf.inc").write_text("\n".join([head, *lines]) + "\n")


if __name__ == "__main__":
    main()
