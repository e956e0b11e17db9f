"""Whose certificate it is (RFC 5922)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.sip.domains import certificate_names, speaks_for


def certificate(*names: tuple[str, str], common: str = "common.example") -> dict[str, Any]:
    subject = ((("organizationName", "X"),), (("commonName", common),))
    return {"subject": subject, **({"subjectAltName": names} if names else {})}


@pytest.mark.parametrize(
    ("names", "domain", "right"),
    [
        ((("URI", "sip:example.com"),), "example.com", True),
        ((("URI", "SIP:Example.COM"),), "EXAMPLE.com", True),
        # A user's certificate is not its domain's, and another scheme is not SIP.
        ((("URI", "sip:bob@example.com"),), "example.com", False),
        ((("URI", "sips:example.com"),), "example.com", False),
        ((("URI", "https://example.com"),), "example.com", False),
        # DNS names count only where no SIP URI says more.
        ((("DNS", "example.com"),), "example.com", True),
        ((("URI", "sip:a.example"), ("DNS", "example.com")), "example.com", False),
        ((("URI", "https://x"), ("DNS", "example.com")), "example.com", True),
        # Names are compared whole.
        ((("DNS", "*.example.com"),), "sip.example.com", False),
        ((("DNS", "example.com"),), "sip.example.com", False),
        ((("DNS", "sip.example.com"),), "example.com", False),
        # The common name only where nothing else is there.
        ((), "common.example", True),
        ((("DNS", "example.com"),), "common.example", False),
        ((("IP Address", "192.0.2.1"),), "192.0.2.1", True),
        ((("IP Address", "2001:DB8:0:0:0:0:0:1"),), "2001:db8::1", True),
        ((("URI", "sip:a.example"), ("IP Address", "192.0.2.1")), "192.0.2.1", True),
        ((("DNS", "example.com"),), "", False),
    ],
)
def test_who_it_speaks_for(names: tuple[tuple[str, str], ...], domain: str, right: bool) -> None:
    assert speaks_for(certificate(*names), domain) is right


def test_no_certificate_speaks_for_nobody() -> None:
    assert certificate_names({}) == frozenset()
    assert not speaks_for({}, "example.com")


@given(
    st.dictionaries(
        st.sampled_from(["subjectAltName", "subject"]),
        st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=20)
        | st.lists(st.tuples(st.sampled_from(["URI", "DNS", "IP Address"]), st.text())),
    ),
    st.text(),
)
def test_odd_certificates_never_raise(odd: dict[str, Any], domain: str) -> None:
    speaks_for(odd, domain)
