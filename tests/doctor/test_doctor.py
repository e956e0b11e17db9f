"""The doctor: each check is shown the fault that it is there for."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import load
from gateway.doctor import files, machine, plan
from gateway.doctor.findings import Finding
from gateway.media import srtp
from tests.box import Box

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")


def of(found: list[Finding], grade: str) -> list[str]:
    return [each.what for each in found if each.grade == grade]


def configured(tmp_path: Path, text: str) -> object:
    file = tmp_path / "gateway.toml"
    file.write_text(f'[gateway]\ndata_dir = "{tmp_path}/data"\n{text}')
    file.chmod(0o640)
    return load(file)


def certificate(directory: Path, days: int) -> Path:
    pem = directory / f"cert{days}.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", str(directory / "key.pem"), "-out", str(pem), "-subj", "/CN=box",
         "-days", str(days)],
        check=True, capture_output=True,
    )  # fmt: skip
    return pem


SIP = """
[adapters.sip]
listen = ["udp:127.0.0.1:5060"]
srtp_over = "any"
[adapters.sip.trunks.telco]
peer = "sip:192.0.2.1"
srtp = "{}"
"""


def test_srtp_that_is_asked_for_needs_its_library(tmp_path: Path) -> None:
    never = configured(tmp_path, SIP.format("never"))
    assert list(plan.encryption(never, missing="no SRTP: there is none; x")) == []  # type: ignore[arg-type]
    for mode, grade in (("required", "wrong"), ("offered", "warning")):
        wanted = configured(tmp_path, SIP.format(mode))
        (found,) = plan.encryption(wanted, missing="no SRTP: cannot open libsrtp2.so.1; x")  # type: ignore[arg-type]
        assert (found.grade, found.remedy) == (grade, "apt install libsrtp2-1")
        assert "adapters.sip.trunks.telco" in found.what
        assert "cannot open libsrtp2.so.1" in found.what
        if srtp.suites():
            (well,) = plan.encryption(wanted)  # type: ignore[arg-type]
            assert well.grade == "ok"


@needs_openssl
@pytest.mark.parametrize("days", [10, 400, 36500])
def test_expiry_as_openssl_sees_it(tmp_path: Path, days: int) -> None:
    pem = certificate(tmp_path, days)
    done = subprocess.run(
        ["openssl", "x509", "-in", str(pem), "-noout", "-enddate", "-dateopt", "iso_8601"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    end = time.strptime(done.stdout.strip(), "notAfter=%Y-%m-%d %H:%M:%SZ")
    import calendar

    assert files.expiry(pem.read_text()) == calendar.timegm(end)


@given(st.binary(max_size=200))
def test_garbage_in_a_certificate(data: bytes) -> None:
    import ssl

    with pytest.raises(ValueError, match="certificate"):
        files.expiry(ssl.DER_cert_to_PEM_cert(data))


@needs_openssl
def test_certificates_that_end_soon_or_are_open_to_all(tmp_path: Path) -> None:
    certificate(tmp_path, 10)
    (tmp_path / "key.pem").chmod(0o644)
    text = """
[adapters.mqtt]
host = "127.0.0.1"
tls = { ca_file = "", cert_file = "cert10.pem", key_file = "key.pem" }
"""
    configuration = configured(tmp_path, text)
    found = list(files.certificates(configuration))
    assert any("expires on" in what for what in of(found, "warning"))
    assert any("can be read by anybody" in what for what in of(found, "warning"))
    late = list(files.certificates(configuration, now=time.time() + 11 * 86400))
    assert any("expired on" in what for what in of(late, "wrong"))
    (tmp_path / "cert10.pem").unlink()
    gone = list(files.certificates(configuration))
    assert any("No such file" in what for what in of(gone, "wrong"))


def test_ports_that_are_taken(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        text = f'[adapters.sip]\nlisten = ["udp:127.0.0.1:{port}", "udp:192.0.2.1:5060"]\n'
        configuration = configured(tmp_path, text)
        found = list(machine.ports(configuration, running=False))
        first, second = of(found, "wrong")
        assert "Address already in use" in first
        assert "no address 192.0.2.1" in second
        # The gateway itself has them: that is as it should be.
        assert of(list(machine.ports(configuration, running=True)), "wrong") == []
    free = list(machine.ports(configured(
        tmp_path, f'[adapters.sip]\nlisten = ["udp:127.0.0.1:{port}"]\n'
    ), running=False))  # fmt: skip
    assert of(free, "wrong") == []
    overlapping = configured(tmp_path, "[media]\nports = [30000, 40000]\n")
    assert any("overlap" in what for what in of(list(machine.ports(overlapping, running=False)),
                                                "warning"))  # fmt: skip


def test_devices_that_are_not_there(tmp_path: Path) -> None:
    text = f"""
[adapters.analog]
device_dir = "{tmp_path}/dahdi"
[adapters.analog.ports.1]
kind = "fxs"
"""
    configuration = configured(tmp_path, text)
    (what,) = of(list(files.devices(configuration)), "wrong")
    assert "there is no" in what
    (tmp_path / "dahdi").mkdir()
    assert of(list(files.devices(configuration)), "wrong") == []


def test_disk_permissions_and_group(tmp_path: Path) -> None:
    configuration = configured(tmp_path, "[journal]\ntotal_mb = 1000000\n")
    assert any(
        "the journal alone" in what for what in of(list(files.disk(configuration)), "warning")
    )
    assert of(list(files.permissions(configuration, True)), "wrong") == []
    (tmp_path / "gateway.toml").chmod(0o644)
    assert len(of(list(files.permissions(configuration, True)), "wrong")) == 1
    assert of(list(files.permissions(configuration, False)), "wrong") == []
    (tmp_path / "gateway.toml").chmod(0o666)
    assert len(of(list(files.permissions(configuration, False)), "wrong")) == 1
    assert len(of(list(files.group(configuration)), "warning")) == 1
    missing = configured(tmp_path, '[control]\ngroup = "no-such-group-here"\n')
    assert of(list(files.group(missing)), "wrong") == ["there is no group no-such-group-here"]


def test_alarms_that_nobody_is_told_of(tmp_path: Path) -> None:
    panel = """
[adapters.mqtt]
host = "127.0.0.1"
[adapters.mqtt.panels.house]
state_topic = "house/state"
[adapters.loopback.ports.a]
"""
    route = """
[[routes]]
name = "fire"
on = "alarm"
targets = ["loopback/a"]
acknowledge = "1"
"""
    untold = configured(tmp_path, panel)
    assert any("nobody is told" in what for what in of(list(plan.alarms(untold)), "warning"))
    told = configured(tmp_path, panel + route)
    assert of(list(plan.alarms(told)), "warning") == []
    assert any(
        "calls one person once" in what for what in of(list(plan.emergencies(told)), "warning")
    )


def test_speech_without_a_synthesiser(tmp_path: Path) -> None:
    text = """
[adapters.loopback.ports.a]
[[routes]]
name = "say"
targets = ["loopback/a"]
announce = { text = "hello" }
"""
    configuration = configured(tmp_path, 'synthesiser = ["no-such-program"]\n' + text)
    assert any("not installed" in what for what in of(list(files.programs(configuration)), "wrong"))


def test_processors_and_codecs() -> None:
    assert of(list(machine.processor("flags\t: fpu sse avx2\n", ())), "ok")
    assert of(list(machine.processor("Features\t: fp asimd\n", ())), "ok")
    assert of(list(machine.processor("flags\t: fpu\n", ("powersave",))), "warning") == [
        "no known vector unit: G.722 takes far more time",
        "is set to save power: audio may come late",
    ]
    assert of(list(machine.codecs()), "ok")
    assert of(list(machine.limits(os.getpid(), False)), "wrong")
    assert [each.check for each in machine.clock()] == ["clock"]


@pytest.mark.parametrize("name", ["steer", "kernel"])
def test_what_the_kernel_refuses_for_rtp(tmp_path: Path, name: str) -> None:
    configuration = configured(tmp_path, f"[media]\n{name} = true\n")
    refused = list(machine.packets(configuration, f"crosspoint_engine_{name} 0.0\n"))
    assert f"media.{name} is refused" in of(refused, "warning")[0]
    assert "CAP_BPF" in refused[0].remedy
    granted = list(machine.packets(configuration, f"crosspoint_engine_{name} 1.0\n"))
    assert of(granted, "ok") == [f"media.{name} is granted"]
    unasked = configured(tmp_path, "")
    assert not list(machine.packets(unasked, f"crosspoint_engine_{name} 0.0\n"))
    assert not list(machine.packets(configuration, ""))  # the daemon does not run


def test_endpoints_that_are_down_or_in_doubt() -> None:
    fine = {"id": "lte/a", "condition": "up", "reason": "", "absent": False}
    found = list(plan.places([
        fine,
        {**fine, "id": "lte/b", "condition": "down", "reason": "the SIM asks for SIM PIN"},
        {**fine, "id": "lte/c", "reason": "weak signal, -111 dBm"},
        {**fine, "id": "sip/anna", "condition": "down", "absent": True},
        {**fine, "id": "mqtt/x", "condition": "unknown", "reason": "not heard of"},
    ]))  # fmt: skip
    assert of(found, "wrong") == ["lte/b is down: the SIM asks for SIM PIN"]
    assert of(found, "warning") == ["lte/c: weak signal, -111 dBm"]
    assert found[0].remedy == "gateway endpoints lte/b --detail"


def test_from_the_command_line(box: Box) -> None:
    box.config.chmod(0o640)
    found = json.loads(box.run("doctor", "--json").stdout)
    assert found["ok"] is True, found
    grades = {each["check"]: each["grade"] for each in found["findings"]}
    assert grades["adapters"] == "ok"
    assert grades["codecs"] == "ok"
    shown = box.ok("doctor", "--all")
    assert "checks are well, 0 are not" in shown
    assert box.run("doctor", "--strict").returncode == 1  # no group is configured
    box.stop()
    text = box.config.read_text().replace("[control]", '[control]\ngroup = "no-such-group-here"')
    box.config.write_text(text)
    done = box.run("doctor")
    assert done.returncode == 1
    assert "groupadd --system no-such-group-here" in done.stdout
    assert "systemctl start crosspoint" in done.stdout
