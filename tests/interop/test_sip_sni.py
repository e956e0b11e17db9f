"""Which name we ask a carrier's TLS server for (RFC 6066), with openssl as the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.lab.softphone import free_port
from tests.interop.certificates import Authority
from tests.interop.peers import Program, box, need
from tests.interop.test_sip_tls import secure

pytestmark = pytest.mark.interop

CARRIER = "127.0.2.51"


async def test_a_server_with_two_names_shows_the_right_certificate(tmp_path: Path) -> None:
    """It has the trunk's certificate only for who asks for the trunk's domain."""
    need("openssl")
    authority = Authority(tmp_path / "ca")
    ours = authority.issue("box", "DNS:box.test")
    other, right = (
        authority.issue("other", "DNS:other.test"),
        authority.issue("pbx", "DNS:pbx.test"),
    )
    port = free_port()
    command = [
        "openssl", "s_server", "-accept", f"{CARRIER}:{port}", "-cert", str(other), "-key",
        str(other), "-servername", "pbx.test", "-cert2", str(right), "-key2", str(right),
    ]  # fmt: skip
    trunk = (
        f'[adapters.sip.trunks.carrier]\npeer = "sip:{CARRIER}:{port};transport=tls"\n'
        'tls_name = "pbx.test"\nkeepalive_s = 0.5\n'
    )
    async with (
        Program(command, tmp_path / "server", server_port=port) as server,
        box(secure(ours, authority) + trunk) as gateway,
    ):
        await server.says("OPTIONS sip:")
        assert 'Hostname in TLS extension: "pbx.test"' in server.said()
        assert not gateway.counters["certificates_refused"]
