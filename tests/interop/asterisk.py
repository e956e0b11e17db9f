"""Asterisk as another exchange, at an address of its own.

Debian 12 does not have it: `make asterisk` unpacks one into ``build/asterisk``. Else any program
`asterisk` in PATH will do.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
from pathlib import Path

import pytest

from gateway.lab.softphone import free_port
from gateway.testing.audio import tone, write_wav
from tests.interop.peers import Program, common_port, until

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
defaultlanguage = {language}
"""
_MODULES = """
pbx_config app_dial app_echo app_transfer app_verbose app_playback app_stack app_read app_senddtmf
app_voicemail func_callerid func_channel res_pjproject res_sorcery_config res_sorcery_memory
res_sorcery_astdb res_pjsip res_pjsip_pubsub res_pjsip_session res_pjsip_sdp_rtp
res_pjsip_caller_id res_pjsip_nat res_pjsip_endpoint_identifier_ip
res_pjsip_endpoint_identifier_user res_pjsip_registrar res_pjsip_authenticator_digest
res_pjsip_outbound_authenticator_digest res_pjsip_outbound_registration res_pjsip_rfc3326
res_pjsip_dtmf_info res_pjsip_acl res_pjsip_refer res_pjsip_dlg_options res_pjsip_empty_info
res_pjsip_messaging res_pjsip_mwi res_pjsip_mwi_body_generator res_rtp_asterisk
res_pjsip_logger res_timing_timerfd res_musiconhold res_clioriginate bridge_simple bridge_native_rtp
bridge_softmix bridge_holding bridge_builtin_features bridge_builtin_interval_features res_srtp
codec_ulaw codec_alaw codec_a_mu codec_g722 codec_gsm codec_resample format_gsm format_wav
"""
_PJSIP = """
[global]
type=global
endpoint_identifier_order=auth_username,username,ip
[udp]
type=transport
protocol=udp
bind={address}:{port}
[tcp]
type=transport
protocol=tcp
bind={address}:{port}
[gateway]
type=identify
endpoint=gateway
match=127.0.0.1
[gateway]
type=aor
contact=sip:127.0.0.1:{peer}
"""
_ENDPOINT = f"""
type=endpoint
context=all
message_context=texts
disallow=all
allow=ulaw,alaw,g722
direct_media=no
rtp_symmetric=no
media_address={ADDRESS}
bind_rtp_to_media_address=yes
trust_id_inbound=yes
trust_id_outbound=yes
send_pai=yes
"""
_TLS = """
[tls]
type=transport
protocol=tls
bind={address}:{port}
method=tlsv1_2
cert_file={certificate}
priv_key_file={certificate}
ca_list_file={authority}
verify_server=yes
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
exten => 9002,1,Dial(PJSIP/dora,20,{may})
exten => _2XX,1,Dial(PJSIP/${{EXTEN}}@{way},20,{may})
 same => n,Verbose(1,ended ${{DIALSTATUS}} ${{HANGUPCAUSE}})
 same => n,Hangup(${{HANGUPCAUSE}})
exten => 7000,1,Dial(PJSIP/gw,20)
"""
MUSIC_HZ = 850.0
"""What those hear whom it puts on hold."""


def endpoint(name: str, *lines: str) -> str:
    """A section of an endpoint; `lines` count for more than the usual ones."""
    return "\n".join((f"[{name}]{_ENDPOINT}aors={name}", *lines, ""))


def account(name: str, password: str, *lines: str, aor: tuple[str, ...] = ()) -> str:
    """Sections of somebody who registers there; `aor`: lines of the place that he is called at."""
    return (
        endpoint(name, f"auth={name}", *lines)
        + (
            f"[{name}]\ntype=auth\nauth_type=userpass\nusername={name}\npassword={password}\n"
            f"[{name}]\ntype=aor\nmax_contacts=1\nremove_existing=yes\n"
        )
        + "".join(f"{line}\n" for line in aor)
    )


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
        self,
        directory: Path,
        peer: int,
        port: int = 0,
        *,
        tls: tuple[Path, Path] | None = None,
        music: bool = False,
        way: str = "gateway",
        pjsip: str = "",
        dialplan: str = "",
        files: dict[str, str] | None = None,
    ) -> None:
        """`peer`: the gateway's port; `tls`: a file with key and certificate, and one with the
        authority it believes; `music`: it plays it to those on hold, else tells them; `way`: the
        endpoint that 2XX are called at; then more of its configuration."""
        self._program, installed = find()
        self.tls_port = free_port() if tls else 0
        self.port = port or common_port()
        for name in ("run", "log", "spool", "db", "lib", "music"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        write_wav(directory / "music/tone.wav", tone(MUSIC_HZ, 10.0))
        tells = () if music else ("moh_passthrough=yes",)
        self._configuration = directory / "asterisk.conf"
        sounds = installed / "share/asterisk/sounds"
        texts = {
            "asterisk.conf": _DIRECTORIES.format(
                home=directory,
                modules=next(installed.glob("lib/*/asterisk/modules"), installed),
                data=installed / "share/asterisk",
                language=next((each.name for each in sounds.glob("en_US*")), "en"),
            ),
            "modules.conf": "[modules]\nautoload=no\nrequire = chan_pjsip.so\n"
            + "".join(f"load = {name}.so\n" for name in _MODULES.split()),
            "pjsip.conf": _PJSIP.format(address=ADDRESS, port=self.port, peer=peer)
            + endpoint("gateway", *tells)
            + account("dora", "d1", "callerid=Dora <600>", *tells)
            + pjsip,
            "extensions.conf": _EXTENSIONS.format(peer=peer, way=way, may="tT" if music else "")
            + dialplan,
            "rtp.conf": "[general]\nrtpstart=30000\nrtpend=30100\n",
            "logger.conf": "[logfiles]\nconsole => notice,warning,error,verbose\n",
            "musiconhold.conf": f"[default]\nmode=files\ndirectory={directory}/music\n",
            "features.conf": "[general]\nfeaturedigittimeout = 4000\ntransferdigittimeout = 2\n"
            "[featuremap]\nblindxfer = *1\natxfer = *2\n",
            "indications.conf": "[general]\ncountry=us\n[us]\nringcadence = 2000,4000\n",
        }
        for name in ("pjproject", "cdr", "cel", "http", "manager", "acl", "ccss", "udptl"):
            texts[f"{name}.conf"] = ""
        if tls:
            texts["pjsip.conf"] += _TLS.format(
                address=ADDRESS, port=self.tls_port, certificate=tls[0], authority=tls[1]
            )
        for name, text in (texts | (files or {})).items():
            (directory / name).write_text(text)
        super().__init__([self._program, "-f", "-C", str(self._configuration)], directory)

    async def console(self, text: str) -> str:
        """One command of its console; what it says."""
        process = await asyncio.create_subprocess_exec(
            self._program, "-C", str(self._configuration), "-rx", text,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(process.communicate(), 20.0)
        return out.decode(errors="replace")

    async def killed(self) -> None:
        """End it without a word to anybody."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

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
