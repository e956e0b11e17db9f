"""Moved to `gateway.lab.linecard`."""

from gateway.lab.linecard import *  # noqa: F403
