"""Asterisk as another exchange, at an address of its own.

Debian 12 does not have it: `make asterisk` unpacks one into ``build/asterisk``. Else any program
`asterisk` in PATH will do.
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from gateway.lab.softphone import free_port
from tests.interop.peers import Program, until

ADDRESS = "127.0.2.50"
_BUILT = Path(__file__).parents[2] / "build/asterisk"
_DIRECTORIES = """
[directories]
astetcdir => {home}
astrundir => {home}/run
astlogdir => {home}/log
astspooldir => {home}/spool
astdbdir => {home}/db
astvarlibdir => {home}/lib
astkeydir => {home}/lib
astmoddir => {modules}
astdatadir => {data}
[options]
verbose = 3
"""
_MODULES = """
require = chan_pjsip.so
pbx_config app_dial app_echo app_transfer app_verbose app_playback app_stack func_callerid
func_channel res_pjproject res_sorcery_config res_sorcery_memory res_sorcery_astdb res_pjsip
res_pjsip_pubsub res_pjsip_session res_pjsip_sdp_rtp res_pjsip_caller_id res_pjsip_nat
res_pjsip_endpoint_identifier_ip res_pjsip_endpoint_identifier_user res_pjsip_registrar
res_pjsip_authenticator_digest res_pjsip_rfc3326 res_pjsip_dtmf_info res_pjsip_acl res_pjsip_refer
res_pjsip_dlg_options res_pjsip_empty_info res_rtp_asterisk res_timing_timerfd bridge_simple
bridge_native_rtp bridge_softmix bridge_builtin_features bridge_builtin_interval_features
res_srtp codec_ulaw codec_alaw codec_a_mu codec_g722 codec_resample features
"""
_PJSIP = """
[global]
type=global
endpoint_identifier_order=username,ip
[udp]
type=transport
protocol=udp
bind={address}:{port}
[gateway]
type=endpoint
context=all
disallow=all
allow=ulaw,alaw
direct_media=no
rtp_symmetric=no
media_address={address}
bind_rtp_to_media_address=yes
moh_passthrough=yes
aors=gateway
[gateway]
type=aor
contact=sip:127.0.0.1:{peer}
[gateway]
type=identify
endpoint=gateway
match=127.0.0.1
[dora]
type=endpoint
context=all
disallow=all
allow=ulaw
direct_media=no
media_address={address}
bind_rtp_to_media_address=yes
moh_passthrough=yes
auth=dora
aors=dora
[dora]
type=auth
auth_type=userpass
username=dora
password=d1
[dora]
type=aor
max_contacts=1
"""
_SECURE = """
[tls]
type=transport
protocol=tls
bind={address}:{port}
method=tlsv1_2
cert_file={certificate}
priv_key_file={certificate}
ca_list_file={authority}
[gw]
type=endpoint
context=all
disallow=all
allow=ulaw
direct_media=no
media_address={address}
bind_rtp_to_media_address=yes
media_encryption=sdes
auth=gw
aors=gw
[gw]
type=auth
auth_type=userpass
username=gw
password=gwpw
[gw]
type=aor
max_contacts=1
remove_existing=yes
"""
_EXTENSIONS = """
[all]
exten => 9000,1,Answer()
 same => n,Echo()
exten => 9001,1,Answer()
 same => n,Wait(1)
 same => n,Transfer(PJSIP/sip:202@127.0.0.1:{peer})
 same => n,Wait(1)
 same => n,Hangup()
exten => 9002,1,Dial(PJSIP/dora,20)
exten => _2XX,1,Dial(PJSIP/${{EXTEN}}@gateway,20)
exten => 7000,1,Dial(PJSIP/gw,20)
"""


def find() -> tuple[str, Path]:
    """The program, and the ``/usr`` that it belongs to; skips the test where there is none."""
    if (_BUILT / "stamp").exists():
        return str(_BUILT / "bin/asterisk"), _BUILT / "usr"
    program = shutil.which("asterisk")
    if program is None:
        pytest.skip("there is no Asterisk: make asterisk")
    return program, Path("/usr")


class Asterisk(Program):
    """Exchange with one telephone (`dora`), an echo at 9000 and one who transfers us at 9001."""

    def __init__(
        self, directory: Path, peer: int, port: int = 0, tls: tuple[Path, Path] | None = None
    ) -> None:
        """`peer`: the gateway's port; `tls`: a file with key and certificate, and one with the
        authority it believes, for an account `gw` whose audio is encrypted, called at 7000."""
        program, installed = find()
        self.tls_port = free_port() if tls else 0
        self.port = port or free_port(socket.SOCK_DGRAM)
        for name in ("run", "log", "spool", "db", "lib"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        first, *rest = _MODULES.split("\n", 2)[1:]
        loads = "\n".join(
            f"load = {name}.so" for name in " ".join(rest).split() if name != "features"
        )
        files = {
            "asterisk.conf": _DIRECTORIES.format(
                home=directory,
                modules=next(installed.glob("lib/*/asterisk/modules"), installed),
                data=installed / "share/asterisk",
            ),
            "modules.conf": f"[modules]\nautoload=no\n{first}\n{loads}\n",
            "pjsip.conf": _PJSIP.format(address=ADDRESS, port=self.port, peer=peer),
            "extensions.conf": _EXTENSIONS.format(peer=peer),
            "rtp.conf": "[general]\nrtpstart=30000\nrtpend=30100\n",
            "logger.conf": "[logfiles]\nconsole => notice,warning,error,verbose\n",
            "features.conf": "[general]\n",
        }
        if tls:
            files["pjsip.conf"] += _SECURE.format(
                address=ADDRESS, port=self.tls_port, certificate=tls[0], authority=tls[1]
            )
        for name in ("pjproject", "cdr", "cel", "http", "manager", "acl", "ccss", "udptl"):
            files[f"{name}.conf"] = ""
        files["indications.conf"] = "[general]\ncountry=us\n[us]\nringcadence = 2000,4000\n"
        for name, text in files.items():
            (directory / name).write_text(text)
        super().__init__([program, "-f", "-C", str(directory / "asterisk.conf")], directory)

    async def ready(self) -> None:
        """Wait until it answers."""
        await until(self._answers, "asterisk is there", 30.0)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            probe.settimeout(0.1)
            own = "{}:{}".format(*probe.getsockname())
            probe.sendto(
                f"OPTIONS sip:{ADDRESS} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK1;rport\r\n"
                f"From: <sip:t@{own}>;tag=1\r\nTo: <sip:{ADDRESS}>\r\nCall-ID: {own}\r\n"
                "CSeq: 1 OPTIONS\r\nMax-Forwards: 5\r\nContent-Length: 0\r\n\r\n".encode(),
                (ADDRESS, self.port),
            )
            try:
                return probe.recv(2000).startswith(b"SIP/2.0 ")
            except OSError:
                return False
