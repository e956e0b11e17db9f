"""A secret never shows itself."""

from __future__ import annotations

import msgspec
import pytest

from gateway.adapters.secrets import Secret


def test_it_hides_from_every_way_of_printing() -> None:
    class Config(msgspec.Struct):
        password: Secret

    secret = Secret("hunter2")
    for text in (str(secret), repr(secret), f"{secret}", f"{Config(secret)}", repr([secret])):
        assert "hunter2" not in text
    with pytest.raises(TypeError):
        msgspec.json.encode(Config(secret))
    assert secret.reveal() == "hunter2"


def test_equality_and_truth() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert not Secret()
    assert Secret("ä") == Secret("ä")
