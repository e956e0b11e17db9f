"""Digest authentication: the vectors of RFC 7616, replay, expiry, downgrade."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UsageError
from gateway.protocols.sip.auth import (
    Authenticated,
    Challenge,
    Credentials,
    DigestClient,
    DigestServer,
    digest_response,
    ha1,
)
from gateway.protocols.sip.message import Request, Response

URI = "sip:pbx.test"


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_rfc_7616_section_3_9_1(algorithm: str, response: str) -> None:
    secret = ha1(algorithm, "Mufasa", "http-auth@example.org", "Circle of Life")
    assert response == digest_response(
        algorithm,
        secret,
        "GET",
        "/dir/index.html",
        "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        qop="auth",
        nc="00000001",
        cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
    )


def test_rfc_2617_section_3_5() -> None:
    secret = ha1("MD5", "Mufasa", "testrealm@host.com", "Circle Of Life")
    assert secret == "939e7578ed9e3c518a452acee763bce9"
    assert (
        digest_response(
            "MD5",
            secret,
            "GET",
            "/dir/index.html",
            "dcd98b7102dd2f0e8b11d0f600bfb0c093",
            qop="auth",
            nc="00000001",
            cnonce="0a4f113b",
        )
        == "6629fae49393a05397450978507c4ef1"
    )


def lookup(user: str, realm: str, algorithm: str) -> str | None:
    return ha1(algorithm, user, realm, "secret") if user == "bob" else None


def request(headers: list[tuple[str, str]], method: str = "REGISTER", uri: str = URI) -> Request:
    filed: dict[str, list[str]] = {}
    for name, value in headers:
        filed.setdefault(name.lower(), []).append(value)
    return Request(method, uri, filed)


def challenge(server: DigestServer, now: float, status: int = 401) -> Response:
    found = server.check(request([]), now)
    assert isinstance(found, Challenge)
    assert not found.failed
    filed: dict[str, list[str]] = {}
    for name, value in found.headers:
        filed.setdefault(name.lower(), []).append(value)
    return Response(status, "", filed)


def answered(server: DigestServer, client: DigestClient, now: float) -> list[tuple[str, str]]:
    assert client.challenged(challenge(server, now))
    return client.headers("REGISTER", URI, b"")


@pytest.fixture
def server() -> DigestServer:
    return DigestServer("pbx.test", lookup, algorithms=["SHA-256", "MD5"])


def test_right_password(server: DigestServer) -> None:
    headers = answered(server, DigestClient(Credentials("bob", "secret")), 10.0)
    assert "algorithm=SHA-256" in headers[0][1], "the strongest one offered is used"
    assert server.check(request(headers), 10.1) == Authenticated("bob")


@pytest.mark.parametrize(("user", "password"), [("bob", "wrong"), ("eve", "secret")])
def test_wrong_password_and_unknown_user_look_the_same(
    server: DigestServer, user: str, password: str
) -> None:
    found = server.check(
        request(answered(server, DigestClient(Credentials(user, password)), 10.0)), 10.1
    )
    assert isinstance(found, Challenge)
    assert found.failed
    assert found.status == 401
    assert "stale" not in found.headers[0][1]


def test_replay_is_refused(server: DigestServer) -> None:
    client = DigestClient(Credentials("bob", "secret"))
    headers = answered(server, client, 10.0)
    assert isinstance(server.check(request(headers), 10.1), Authenticated)
    again = server.check(request(headers), 10.2)
    assert isinstance(again, Challenge)
    assert again.failed
    other = server.check(request(headers, "INVITE"), 10.2)
    assert isinstance(other, Challenge)
    counted = client.headers("REGISTER", URI, b"")
    assert "nc=00000002" in counted[0][1]
    assert isinstance(server.check(request(counted), 10.3), Authenticated)


def test_counts_may_overtake_each_other_once(server: DigestServer) -> None:
    client = DigestClient(Credentials("bob", "secret"))
    lines = [answered(server, client, 10.0)]
    lines += [client.headers("REGISTER", URI, b"") for _ in range(4)]
    for n in (3, 0, 4, 1, 2):
        assert isinstance(server.check(request(lines[n]), 10.1), Authenticated)
    for n in range(5):
        assert isinstance(server.check(request(lines[n]), 10.1), Challenge)


def test_stale_is_said_of_our_own_expired_nonces_only(server: DigestServer) -> None:
    client = DigestClient(Credentials("bob", "secret"))
    headers = answered(server, client, 10.0)
    late = server.check(request(headers), 1000.0)
    assert isinstance(late, Challenge)
    assert not late.failed
    assert "stale=true" in late.headers[0][1]
    stranger = DigestServer("pbx.test", lookup)
    other = stranger.check(request(headers), 10.1)
    assert isinstance(other, Challenge)
    # A nonce of before a restart is no wrong password.
    assert not other.failed
    assert "stale" not in other.headers[0][1]
    forged = [(n, v.replace("bob", "eve")) for n, v in headers]
    wrong = server.check(request(forged), 1000.0)
    assert isinstance(wrong, Challenge)
    assert "stale" not in wrong.headers[0][1]


def test_a_client_answers_stale_and_gives_up_otherwise(server: DigestServer) -> None:
    client = DigestClient(Credentials("bob", "secret"))
    assert client.challenged(challenge(server, 10.0))
    assert not client.challenged(challenge(server, 10.0))
    client.succeeded(Response(200, "", {}))
    assert client.challenged(challenge(server, 10.0))


@pytest.mark.parametrize("line", ['nextnonce="n2", qop=auth', "nextnonce=n2", "qop=auth", '"'])
def test_the_next_nonce_that_the_peer_names_is_used(server: DigestServer, line: str) -> None:
    client = DigestClient(Credentials("bob", "secret"))
    before = answered(server, client, 10.0)[0][1]
    client.succeeded(Response(200, "", {"authentication-info": [line]}))
    ((_, after),) = client.headers("REGISTER", URI, b"")
    if "n2" in line:
        assert 'nonce="n2"' in after
        assert "nc=00000001" in after
    else:
        assert before.partition("nonce=")[2][:64] == after.partition("nonce=")[2][:64]
        assert "nc=00000002" in after


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("qop=auth, ", ""),
        ("qop=auth", "qop=auth-int"),
        ("nc=00000001", "nc=00000000"),
        ("nc=00000001", "nc=zzzzzzzz"),
        ("nc=00000001", "nc=1"),
        ("algorithm=SHA-256", "algorithm=MD5"),
        ("algorithm=SHA-256", "algorithm=NONE"),
        ('realm="pbx.test"', 'realm="other"'),
        ('uri="sip:pbx.test"', 'uri="sip:evil.test"'),
        ("Digest", "Basic"),
    ],
)
def test_downgrades_and_alterations(server: DigestServer, old: str, new: str) -> None:
    headers = answered(server, DigestClient(Credentials("bob", "secret")), 10.0)
    assert old in headers[0][1]
    altered = [(name, value.replace(old, new)) for name, value in headers]
    assert isinstance(server.check(request(altered), 10.1), Challenge)


def test_another_request_uri_is_refused(server: DigestServer) -> None:
    headers = answered(server, DigestClient(Credentials("bob", "secret")), 10.0)
    assert isinstance(server.check(request(headers, uri="sip:00900@pbx.test"), 10.1), Challenge)
    assert isinstance(server.check(request(headers, uri="sip:pbx.test:5060"), 10.1), Authenticated)


def test_a_client_of_rfc_2069_uses_a_nonce_once() -> None:
    server = DigestServer("pbx.test", lookup, algorithms=["MD5"], require_qop=False)
    response = challenge(server, 10.0)
    lines = response.headers["www-authenticate"]
    lines[:] = [line.replace(', qop="auth"', "") for line in lines]
    client = DigestClient(Credentials("bob", "secret"))
    assert client.challenged(response)
    headers = client.headers("REGISTER", URI, b"")
    assert "qop" not in headers[0][1]
    assert isinstance(server.check(request(headers), 10.1), Authenticated)
    assert isinstance(server.check(request(headers), 10.2), Challenge)


def test_a_forgotten_nonce_is_not_believed_again() -> None:
    server = DigestServer("pbx.test", lookup, max_nonces=2)
    first = answered(server, DigestClient(Credentials("bob", "secret")), 10.0)
    assert isinstance(server.check(request(first), 10.0), Authenticated)
    for at in (11.0, 12.0):
        headers = answered(server, DigestClient(Credentials("bob", "secret")), at)
        assert isinstance(server.check(request(headers), at), Authenticated)
    assert isinstance(server.check(request(first), 12.1), Challenge)


def test_client_keeps_to_its_realm_and_strength(server: DigestServer) -> None:
    other = DigestClient(Credentials("bob", "secret", realm="elsewhere"))
    assert not other.challenged(challenge(server, 10.0))
    weak = DigestServer("pbx.test", lookup, algorithms=["MD5"])
    strict = DigestClient(Credentials("bob", "secret", allow_md5=False))
    assert not strict.challenged(challenge(weak, 10.0))
    assert strict.headers("REGISTER", URI, b"") == []


def test_unknown_algorithm_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="SHA-1"):
        DigestServer("x", lookup, algorithms=["SHA-1"])


def test_a_nonce_is_good_for_the_source_it_was_sent_to(server: DigestServer) -> None:
    client = DigestClient(Credentials("bob", "secret"))
    found = server.check(request([]), 10.0, "192.0.2.1")
    assert isinstance(found, Challenge)
    headers = {name.lower(): [value] for name, value in found.headers}
    assert client.challenged(Response(401, "", headers))
    answer = client.headers("REGISTER", "sip:pbx.test", b"")
    elsewhere = server.check(request(answer), 10.1, "192.0.2.2")
    assert isinstance(elsewhere, Challenge)
    # Nobody is shut out by what others send in his name, and nobody learns whether it was right.
    assert not elsewhere.failed
    assert "stale" not in elsewhere.headers[0][1]
    wrong = [(name, value.replace("bob", "eve")) for name, value in answer]
    assert not getattr(server.check(request(wrong), 10.1, "192.0.2.2"), "failed", True)
    assert getattr(server.check(request(wrong), 10.1, "192.0.2.1"), "failed", False)
    assert server.check(request(answer), 10.1, "192.0.2.1") == Authenticated("bob")


@given(st.text(max_size=200))
def test_garbage_credentials(text: str) -> None:
    server = DigestServer("pbx.test", lookup)
    for value in (text, "Digest " + text, 'Digest realm="pbx.test", algorithm=SHA-256, ' + text):
        assert isinstance(server.check(request([("Authorization", value)]), 1.0), Challenge)
    client = DigestClient(Credentials("bob", "secret"))
    client.challenged(Response(401, "", {"www-authenticate": ["Digest " + text]}))
