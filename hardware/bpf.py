"""Compile what the kernel does for the engine into what that loads: needs clang and llvm, unlike a
box.

``make bpf`` after a change of ``gateway/media/*_bpf.c`` or ``.h``; the results are committed.
"""

import hashlib
import struct
import subprocess
import sysconfig
import tempfile
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent / "gateway" / "media"
PROGRAMS = {"relay": "tc", "steer": "sk_lookup"}
"""By the section of the object file."""


def sources(name: str) -> tuple[str, str]:
    """Files that a program is made of."""
    return f"{name}_bpf.c", f"{name}_bpf.h"


def digest(name: str) -> str:
    """Of what the instructions are made of."""
    return hashlib.sha256(b"".join((HOME / f).read_bytes() for f in sources(name))).hexdigest()


def compiled(name: str) -> list[int]:
    """The instructions, 64 bits each."""
    with tempfile.TemporaryDirectory() as tmp:
        made, text = Path(tmp) / "made.o", Path(tmp) / "made.bin"
        headers = f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}"
        subprocess.run(
            ["clang", "-O2", "-Wall", "-Wextra", "-Werror", "-mcpu=v3", "-target", "bpf",
             "-I", headers, "-c", HOME / f"{name}_bpf.c", "-o", made],
            check=True,
        )  # fmt: skip
        subprocess.run(
            ["llvm-objcopy", "-O", "binary", f"--only-section={PROGRAMS[name]}", made, text],
            check=True,
        )
        return [word for (word,) in struct.iter_unpack("<Q", text.read_bytes())]


def main() -> None:
    """Write the instructions beside their source."""
    for name in PROGRAMS:
        words = compiled(name)
        lines = [
            " ".join(f"0x{word:016x}," for word in words[i : i + 5])
            for i in range(0, len(words), 5)
        ]
        made_of = " and ".join(sources(name))
        head = f"/* Made by `make bpf` of {made_of}: sha256\n * {digest(name)} */"
        (HOME / f"{name}_bpf.inc").write_text("\n".join([head, *lines]) + "\n")


if __name__ == "__main__":
    main()
