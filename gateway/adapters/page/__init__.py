"""Paging zones over multicast, and scheduled bells."""

from gateway.adapters.page.adapter import Page

__all__ = ["Page"]
