"""Whose certificate it is: SIP domains in X.509 certificates (RFC 5922)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from gateway.errors import PeerError
from gateway.protocols.sip.uri import parse_uri


def certificate_names(certificate: Mapping[str, Any]) -> frozenset[str]:
    """Domains and addresses that a certificate speaks for, lower case (RFC 5922 section 7.1).

    certificate: as `ssl.SSLSocket.getpeercert` decodes it. SIP URIs without a user count first;
    DNS names only where there is none; the common name only where there are no alternative names
    at all. Addresses are taken too: a peer that is configured by its address has no other name.
    """
    alternative = list(_pairs(certificate.get("subjectAltName")))
    uris = {host for kind, value in alternative if kind == "URI" and (host := _domain(value))}
    addresses = {
        address
        for kind, value in alternative
        if kind == "IP Address" and (address := _address(value))
    }
    if uris:
        return frozenset(uris | addresses)
    names = {_dns(value) for kind, value in alternative if kind == "DNS"}
    if not alternative:
        subject = certificate.get("subject")
        for part in subject if isinstance(subject, tuple | list) else ():
            names |= {_dns(value) for kind, value in _pairs(part) if kind == "commonName"}
    return frozenset((names - {""}) | addresses)


def speaks_for(certificate: Mapping[str, Any], domain: str) -> bool:
    """Whether a certificate is that of a SIP domain or address (RFC 5922 section 7.2).

    Names are compared whole: no wildcard, and a parent's certificate is not that of a child.
    """
    wanted = _address(domain) or _dns(domain)
    return bool(wanted) and wanted in certificate_names(certificate)


def _pairs(value: object) -> Iterable[tuple[str, str]]:
    for pair in value if isinstance(value, tuple | list) else ():
        if isinstance(pair, tuple | list) and len(pair) == 2:
            yield str(pair[0]), str(pair[1])


def _domain(text: str) -> str:
    """The domain of a SIP URI that names no user; empty for any other."""
    try:
        uri = parse_uri(text)
    except PeerError:
        return ""
    if uri.scheme != "sip" or "@" in text:
        return ""
    return _address(uri.host) or _dns(uri.host)


def _dns(text: str) -> str:
    """A domain name as it is compared; empty for a wildcard, which RFC 5922 does not know."""
    name = text.strip().rstrip(".").lower()
    return "" if "*" in name else name


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip().removeprefix("[").removesuffix("]")))
    except ValueError:
        return ""
