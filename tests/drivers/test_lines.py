"""Key and carrier lines, on devices that a preloaded library imitates.

Each part runs in a process of its own, because the library must be there from its start.
"""

from __future__ import annotations

import os
import subprocess
import sys
import termios
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import gateway
from tests.adapters.radio_stand import Port, build_shim
from tests.fresh import descriptors

Run = Callable[[str], str]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def run(shim: Path, tmp_path: Path) -> Run:
    """Runs a piece of Python on the imitated devices; what it prints."""

    def carry_out(text: str) -> str:
        root = Path(gateway.__file__).parent.parent
        paths = os.pathsep.join([str(root), *filter(None, sys.path)])
        done = subprocess.run(
            [sys.executable, "-c", "from gateway.drivers.lines import *\n" + textwrap.dedent(text)],
            env=os.environ
            | {"LINES_SHIM": str(tmp_path), "LD_PRELOAD": str(shim), "PYTHONPATH": paths},
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return carry_out


def test_serial_key_and_carrier(run: Run, tmp_path: Path) -> None:
    port = Port(tmp_path)
    # Left raised, as the kernel does at every opening.
    port._out.write_bytes((termios.TIOCM_RTS | termios.TIOCM_DTR).to_bytes(4, "little"))
    port.carrier(True, termios.TIOCM_CTS)
    said = run(f"""
        port = SerialPort({port.path!r})
        key = SerialKey(port, "rts")
        cts, dcd = SerialCarrier(port, "cts"), SerialCarrier(port, "dcd")
        print(port.read() & (OUTPUTS["rts"] | OUTPUTS["dtr"]), key.get(), cts.get(), dcd.get())
        key.set(True)
        print(key.get(), bool(port.read() & OUTPUTS["dtr"]))
        key.close(); key.close()
    """)
    assert said.splitlines() == ["0 False True False", "True False"]
    assert not port.output(termios.TIOCM_RTS)
    port.close()


def test_inverted_serial_lines(run: Run, tmp_path: Path) -> None:
    port = Port(tmp_path)
    said = run(f"""
        port = SerialPort({port.path!r})
        key, dsr = SerialKey(port, "dtr", inverted=True), SerialCarrier(port, "dsr", inverted=True)
        print(key.get(), dsr.get(), bool(port.read() & OUTPUTS["dtr"]))
        key.set(True)
        print(key.get(), bool(port.read() & OUTPUTS["dtr"]))
    """)
    assert said.splitlines() == ["False True True", "True False"]
    port.close()


def test_the_kernel_is_told_to_drop_the_lines_with_the_process(run: Run, tmp_path: Path) -> None:
    port = Port(tmp_path)
    run(f"SerialPort({port.path!r})")
    assert termios.tcgetattr(port._fds[1])[2] & termios.HUPCL
    port.close()


def test_cm108(run: Run, tmp_path: Path) -> None:
    device = tmp_path / "hidraw"
    device.write_bytes(b"")
    (tmp_path / "hidraw.in").write_bytes(bytes((2, 0b0100, 0, 0)))
    said = run(f"""
        chip = Cm108({str(device)!r})
        key = Cm108Key(chip, 3)
        down, up = Cm108Carrier(chip, "volume-down"), Cm108Carrier(chip, "volume-up", inverted=True)
        pin = Cm108Carrier(chip, "gpio2")
        print(key.get(), down.get(), up.get(), pin.get())
        key.set(True)
        key.close()
    """)
    # GPIO3 reads back high; a clear bit is a carrier.
    assert said == "True False False True\n"
    reports = device.read_bytes()
    assert [reports[n : n + 5].hex() for n in range(0, len(reports), 5)] == [
        "0000000400", "0000040400", "0000000400",
    ]  # fmt: skip


@pytest.mark.parametrize("inverted", [False, True])
def test_gpio(run: Run, tmp_path: Path, inverted: bool) -> None:
    pytest.importorskip("gpiod", reason="the extra gpio is not installed")
    (tmp_path / "gpiochip").symlink_to("/dev/null")
    level = b"\1" if inverted else b"\0"
    said = run(f"""
        key = Gpio({str(tmp_path / "gpiochip")!r}, 3, output=True, inverted={inverted})
        pin = lambda: open({str(tmp_path / "gpio")!r}, "rb").read()[3]
        print(key.get(), pin())
        key.set(True)
        print(key.get(), pin())
        key.close(); key.close()
        print(pin())
        carrier = Gpio({str(tmp_path / "gpiochip")!r}, 3, output=False, inverted={inverted})
        print(carrier.get())
    """)
    off, on = level[0], 1 - level[0]
    assert said.splitlines() == [f"False {off}", f"True {on}", f"{off}", "False"]


def test_gpio_without_the_package_says_what_to_install(run: Run) -> None:
    said = run("""
        import sys
        sys.modules["gpiod"] = None
        try:
            Gpio("gpiochip0", 1, output=True)
        except DeviceError as error:
            print(error)
    """)
    assert "crosspoint-gateway[gpio]" in said


@pytest.mark.parametrize(
    "device", ["SerialPort('/dev/nowhere')", "Cm108('/dev/nowhere')", "PtyKey('/dev/nowhere')"]
)
def test_a_missing_device_is_an_os_error(run: Run, device: str) -> None:
    said = run(f"""
        try:
            {device}
        except OSError as error:
            print(error.filename)
    """)
    assert said == "/dev/nowhere\n"


def test_a_port_without_control_lines_is_an_os_error(tmp_path: Path) -> None:
    from gateway.drivers.lines import SerialPort

    port = Port(tmp_path)
    before = descriptors(tidy=True)
    with pytest.raises(OSError, match="ioctl"):
        SerialPort(port.path)
    assert descriptors() == before
    port.close()
