"""Registry: adapters by entry point; only those that are configured are imported."""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Final

import msgspec

from gateway.adapters.base import Adapter
from gateway.errors import ConfigError
from gateway.typed import nearest

GROUP: Final = "gateway.adapters"


class Registry:
    """The kinds of adapters that are installed; reads the packages' metadata once.

    `found` replaces what is installed, for tests.
    """

    def __init__(self, found: list[EntryPoint] | None = None) -> None:
        """Raises `ConfigError` when two packages offer one name: neither overrides the other."""
        self._points: dict[str, EntryPoint] = {}
        for point in found if found is not None else entry_points(group=GROUP):
            known = self._points.setdefault(point.name, point)
            if known.value != point.value:
                raise ConfigError(
                    f"two adapters are called {point.name}: {known.value} and {point.value}",
                    remedy="uninstall one of the two packages",
                )

    @property
    def kinds(self) -> list[str]:
        """Names that `kind` may have in the configuration."""
        return sorted(self._points)

    def load(self, kind: str) -> type[Adapter]:
        """Import the adapter of this kind.

        Raises `ConfigError`: unknown kind, optional package missing, or not an adapter.
        """
        point = self._points.get(kind)
        if point is None:
            remedy = nearest(kind, self._points) or "no adapter is installed"
            raise ConfigError(f"no adapter is called {kind!r}", remedy=remedy)
        try:
            found = getattr(importlib.import_module(point.module), point.attr)
        except ImportError as error:
            missing = (error.name or "").partition(".")[0]
            if missing and missing != point.module.partition(".")[0]:
                raise ConfigError(
                    f"adapter {kind} needs the Python package {missing}, which is not installed",
                    remedy=_install(kind, point, missing),
                ) from error
            raise ConfigError(f"adapter {kind} cannot be imported: {error}") from error
        except AttributeError:
            raise ConfigError(f"adapter {kind}: {point.module} has no {point.attr}") from None
        if not (isinstance(found, type) and issubclass(found, Adapter)):
            raise ConfigError(f"adapter {kind}: {point.value} is no gateway.adapters.base.Adapter")
        config = getattr(found, "Config", None)
        if not (isinstance(config, type) and issubclass(config, msgspec.Struct)):
            raise ConfigError(f"adapter {kind}: {point.value} has no Config struct")
        return found


def _install(kind: str, point: EntryPoint, missing: str) -> str:
    if point.dist is not None:
        extras = point.dist.metadata.get_all("Provides-Extra") or []
        if kind in extras:
            return f"pip install '{point.dist.name}[{kind}]'"
    return f"pip install {missing}"
