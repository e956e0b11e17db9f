"""Registry: by entry point, imported when asked for, never two of one name."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from gateway.adapters.loopback import Loopback
from gateway.errors import ConfigError
from gateway.registry import GROUP, Registry


def _point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, GROUP)


def test_loads_what_is_asked_for_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "explodes_on_import.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry(
        [
            _point("loopback", "gateway.adapters.loopback:Loopback"),
            _point("bomb", "explodes_on_import:Bomb"),
        ]
    )
    assert registry.load("loopback") is Loopback
    assert registry.kinds == ["bomb", "loopback"]
    assert "explodes_on_import" not in sys.modules


def test_two_of_one_name_is_an_error() -> None:
    with pytest.raises(ConfigError, match="two adapters are called sip: a:A and b:B"):
        Registry([_point("sip", "a:A"), _point("sip", "b:B")])
    # One package seen twice (a checkout that is also installed) is still one.
    assert Registry([_point("sip", "a:A"), _point("sip", "a:A")]).kinds == ["sip"]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("gateway.adapters.loopback:Lopback", "gateway.adapters.loopback has no Lopback"),
        ("gateway.errors:ConfigError", "is no gateway.adapters.base.Adapter"),
        ("gateway.adapters.base:Adapter", "has no Config struct"),
        ("gateway.adapters.no_such_module:X", "cannot be imported: No module named"),
    ],
)
def test_what_is_no_adapter(value: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        Registry([_point("x", value)]).load("x")


def test_unknown_kind_names_the_nearest() -> None:
    registry = Registry([_point("loopback", "gateway.adapters.loopback:Loopback")])
    with pytest.raises(ConfigError, match=r"'loopbak' \(did you mean loopback\?\)"):
        registry.load("loopbak")


def test_a_missing_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_vendor.py").write_text("import vendor_library_that_is_absent.core\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigError,
        match=r"needs the Python package vendor_library_that_is_absent, which is not installed "
        r"\(pip install vendor_library_that_is_absent\)",
    ):
        Registry([_point("vendor", "needs_vendor:X")]).load("vendor")


def test_an_extra_of_the_package_is_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "vendor_kit-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vendor-kit\nVersion: 1.0\nProvides-Extra: bus\n"
    )
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nbus = vendor_kit_bus:X\n")
    (tmp_path / "vendor_kit_bus.py").write_text("import absent_bus_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"pip install 'vendor-kit\[bus\]'"):
        Registry().load("bus")
