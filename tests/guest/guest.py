"""Run commands in the QEMU guest that has the real DAHDI driver.

The guest boots, runs commands as root, and powers off. Its root is this machine's file system,
read-only, so the checkout and the virtual environment are where they are here; ``/run`` and
``/tmp`` are empty and writable. By hand::

    python -m tests.guest.guest pytest -k dahdi tests/adapters
    python -m tests.guest.guest -- python tests/guest/line_truth.py /dev/dahdi 1 5
"""

from __future__ import annotations

import fcntl
import functools
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = Path(os.environ.get("CROSSPOINT_GUEST", ROOT / "build" / "guest"))

# Channels 1 to 4 are FXS ports, cabled inside the driver to the FXO ports 5 to 8.
SYSTEM_CONF = """\
dynamic=loc,1:0,4,0
dynamic=loc,1:1,4,0
fxoks=1-4
fxsks=5-8
echocanceller=mg2,1-8
loadzone=us
defaultzone=us
"""
TRUTH = "python -m tests.guest.line_truth /dev/dahdi 1 5"
DRIVER = "python -m pytest -q -p no:cacheprovider tests/drivers/test_dahdi_real.py"
ADAPTER = "python -m pytest -q -p no:cacheprovider tests/adapters/test_analog_real.py"
COMMANDS = (TRUTH, DRIVER, ADAPTER)


class GuestError(Exception):
    """The guest could not be built or did not run the command."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command in the guest left."""

    output: str
    """Standard output and error together."""
    status: int
    seconds: float
    """By the guest's clock."""


def why_not() -> str | None:
    """Why the guest cannot run here, or None if it can."""
    if not shutil.which("qemu-system-x86_64"):
        return "no qemu-system-x86_64 (apt-get install qemu-system-x86)"
    if (BUILD / "ready").exists():
        return None
    if not any(Path("/usr/src").glob("dahdi-2.11*")):
        return "no DAHDI sources (apt-get install dahdi-source dahdi-dkms)"
    if not shutil.which("gcc-12") or not shutil.which("cpio"):
        return "cannot build the guest (apt-get install gcc-12 cpio kmod make)"
    return None


def build() -> None:
    """Build the guest unless it is there; about 20 s.

    Raises GuestError with the end of the log.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (BUILD / "ready").exists():
            return
        script = [str(HERE / "build.sh"), str(BUILD)]
        done = subprocess.run(script, capture_output=True, text=True, check=False)
        if done.returncode:
            raise GuestError(f"build.sh: {(done.stdout + done.stderr)[-800:]}")


@functools.cache
def _outcomes() -> dict[str, Outcome] | GuestError:
    try:
        return dict(zip(COMMANDS, run(*COMMANDS, within=400.0), strict=True))
    except GuestError as error:
        return error


def outcome(command: str) -> Outcome:
    """What one of the tests' commands came to. All ran in one guest: booting takes longer.

    Raises GuestError as `run` does.
    """
    found = _outcomes()
    if isinstance(found, GuestError):
        raise found
    return found[command]


def run(*commands: str, within: float = 180.0) -> list[Outcome]:
    """Boot, run each command in the checkout on the card configured afresh, power off.

    Raises GuestError when the guest does not finish within so many seconds of wall time.
    """
    build()
    kernel = (BUILD / "ready").read_text().strip()
    modules = f"modprobe -d {BUILD}/root"
    job = f"""\
export PATH={ROOT}/.venv/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run PYTHONDONTWRITEBYTECODE=1
{modules} dahdi auto_assign_spans=1 && {modules} dahdi_dynamic && {modules} dahdi_dynamic_loc \\
  && {modules} dahdi_echocan_mg2 || exit 125
cat > /run/system.conf <<'CONF'
{SYSTEM_CONF}CONF
cd {ROOT}
"""
    for n, command in enumerate(commands):
        job += f"""\
dahdi_cfg -c /run/system.conf || exit 125
begin=$(date +%s.%N)
( {command}
) > /mnt/output-{n} 2>&1
echo $? $begin $(date +%s.%N) > /mnt/status-{n}
"""
    # Translation (TCG) keeps up with a few channels of 8 kHz audio and works everywhere; nested
    # virtualisation does not, so it is used only where it is known to.
    kvm = os.environ.get("CROSSPOINT_GUEST_KVM") == "1"
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one guest at a time: they share the job's files
        out = BUILD / "out"
        for each in out.iterdir():
            each.unlink()
        (out / "job").write_text(job)
        host = "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"
        share = f"local,id=out,path={out},security_model=none"
        argv = [
            *("qemu-system-x86_64", "-M", "q35", "-smp", "1", "-m", "1024"),
            *(("-enable-kvm", "-cpu", "host") if kvm else ("-cpu", "max")),
            *("-nographic", "-no-reboot", "-nodefaults", "-serial", "mon:stdio"),
            *("-kernel", f"{BUILD}/root/boot/vmlinuz-{kernel}", "-initrd", f"{BUILD}/initrd.gz"),
            *("-append", "console=ttyS0 quiet panic=-1"),
            *("-fsdev", host, "-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
            *("-fsdev", share, "-device", "virtio-9p-pci,fsdev=out,mount_tag=out"),
        ]
        try:
            console = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=within, check=False
            )
        except subprocess.TimeoutExpired as late:
            tail = (late.stdout or b"")[-400:].decode("utf-8", "replace")
            raise GuestError(f"not done after {within} s; console: {tail}") from late
        found = []
        for n in range(len(commands)):
            if not (out / f"status-{n}").exists():
                said = (out / "output").read_bytes() if (out / "output").exists() else b""
                tail = (said + console.stdout + console.stderr)[-800:].decode("utf-8", "replace")
                raise GuestError(f"the guest did not run {commands[n]}; console: {tail}")
            status, begin, end = (out / f"status-{n}").read_text().split()
            output = (out / f"output-{n}").read_text("utf-8", "replace")
            found.append(Outcome(output, int(status), float(end) - float(begin)))
        return found


def main() -> int:
    """Run the command of the command line in the guest."""
    command = [word for word in sys.argv[1:] if word != "--"]
    if not command:
        print(__doc__, file=sys.stderr)
        return 2
    if command[0] == "pytest":
        # The checkout is read-only in there.
        command[1:1] = ["-p", "no:cacheprovider"]
    within = float(os.environ.get("CROSSPOINT_GUEST_SECONDS", "600"))
    (outcome,) = run(shlex.join(command), within=within)
    print(outcome.output, end="")
    print(f"guest: status {outcome.status} after {outcome.seconds:.1f} s", file=sys.stderr)
    return outcome.status


if __name__ == "__main__":
    sys.exit(main())
