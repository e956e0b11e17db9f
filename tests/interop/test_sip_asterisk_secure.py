"""Asterisk as a carrier that we register with over TLS, with encrypted audio both ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.asterisk import ADDRESS, Asterisk, account
from tests.interop.certificates import Authority
from tests.interop.peers import Box, assert_hears, box, common_port, need, phone, until
from tests.interop.test_sip_srtp import phones, spoken
from tests.interop.test_sip_tls import secure

pytestmark = pytest.mark.interop

GW = account("gw", "gwpw", "allow=!all,ulaw", "media_encryption=sdes")
ROUTES = """
[[routes]]
name = "out"
called = "0(X.)"
targets = ["sip/pbx:{1}"]
[[routes]]
name = "in"
from = ["sip/pbx"]
targets = ["sip/anna"]
"""


async def test_registered_and_called_with_srtp(tmp_path: Path) -> None:
    need("baresip")
    authority = Authority(tmp_path / "ca")
    ours = authority.issue("box", "DNS:box.test", "IP:127.0.0.1")
    theirs = authority.issue("pbx", "URI:sip:pbx.test")
    tls = (theirs, authority.certificate)
    async with Asterisk(tmp_path / "asterisk", common_port(), tls=tls, pjsip=GW) as pbx:
        await pbx.ready()
        trunk = (
            f'[adapters.sip.trunks.pbx]\npeer = "sip:{ADDRESS}:{pbx.tls_port};transport=tls"\n'
            'tls_name = "pbx.test"\nregister = true\nuser = "gw"\npassword = "gwpw"\n'
            'srtp = "required"\nkeepalive_s = 1.0\n'
        )
        async with (
            box(secure(ours, authority) + phones("never", "never") + trunk, ROUTES) as gateway,
            phone(tmp_path, "anna", "a1", gateway, hz=1000, answer="auto") as anna,
            phone(tmp_path, "dora", "d1", (ADDRESS, pbx.port), hz=600) as dora,
        ):
            await gateway.up("sip/anna", "sip/pbx")
            await until(lambda: pbx.said().count("Added contact") >= 2, "both are registered")
            # Its echo.
            await anna.dial(gateway.uri("09000"))
            await anna.wait("CALL_ESTABLISHED")
            await spoken(gateway)
            encrypted(gateway)
            await anna.hang_up()
            await gateway.legs(2)
            assert_hears(anna.heard(), 1000)
            # And its telephone calls us by the account.
            seen = len(anna.events)
            await dora.dial(f"sip:7000@{ADDRESS}:{pbx.port}")
            await anna.wait("CALL_ESTABLISHED", skip=seen)
            await spoken(gateway)
            encrypted(gateway)
            await dora.hang_up()
            legs = await gateway.legs(4)
            assert_hears(anna.heard(), 600, 1000)
            assert_hears(dora.heard(), 1000, 600)
    assert {leg.cause for leg in legs.values()} == {"normal"}


def encrypted(gateway: Box) -> None:
    """The trunk's leg is, with a suite that Asterisk chose; the phone's is not."""
    found = {}
    for leg in gateway.sip._calls._legs.values():
        assert leg.audio.stream is not None
        stats = leg.audio.stream.stats()
        assert stats.srtp_replayed == 0
        found[leg.user] = stats.srtp_suite
    assert found == {"anna": "", "pbx": "AES_CM_128_HMAC_SHA1_80"}
