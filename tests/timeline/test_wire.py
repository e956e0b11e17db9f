"""The memory of the wires: bounded in time and octets, tied together by keys."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.timeline.blocks import Block
from gateway.timeline.items import Item
from gateway.timeline.page import page
from gateway.timeline.wire import MAXIMUM, Reader, Ring, WireEntry


def entry(mono: float, text: str = "x", about: str = "", key: str = "") -> WireEntry:
    return WireEntry(
        mono=mono, at=1000.0 + mono, adapter="sip", about=about, outward=False, kind="sip",
        data=text, key=key,
    )  # fmt: skip


def texts(ring: Ring, trace: str = "t", legs: tuple[str, ...] = (), **window: float) -> list[str]:
    window = {"since": 0.0, "until": 9e9} | window
    found = Reader(ring, trace).fresh(legs, ("sip/a",), rests=True, **window)
    return [str(each.data) for each in found]


def test_a_dialogue_is_found_from_before_its_leg() -> None:
    ring = Ring()
    ring.put(entry(1.0, "INVITE", key="call-1"))
    ring.put(entry(1.1, "OPTIONS", key="call-2"))
    ring.put(entry(1.2, "100", about="sip/a#1", key="call-1"))
    ring.put(entry(1.3, "of the place", about="sip/a"))
    ring.put(entry(1.4, "of the trace", key="t"))
    ring.put(entry(1.5, "of another", about="sip/a#2"))
    assert texts(ring, legs=("sip/a#1",)) == ["INVITE", "100", "of the place", "of the trace"]
    assert texts(ring, legs=("sip/a#1",), since=1001.25) == ["of the place", "of the trace"]


def test_too_old_is_forgotten_and_too_long_is_cut() -> None:
    ring = Ring(keep_s=10.0)
    ring.put(entry(0.0, "old", key="t"))
    ring.put(entry(10.0, "y" * (MAXIMUM + 5), key="t"))
    ring.put(entry(10.5, "new", key="t"))
    assert ring.dropped == 0
    cut, new = texts(ring)
    assert cut.endswith("... 5 characters more")
    assert new == "new"


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 6000)), max_size=200))
def test_never_more_octets_than_allowed(entries: list[tuple[float, int]]) -> None:
    ring = Ring(keep_s=60.0, maximum_bytes=20_000)
    for mono, size in sorted(entries):
        ring.put(entry(mono, "z" * size))
        assert 0 <= ring.n_bytes <= 20_000
        assert len(ring) <= 200


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 60_000)), max_size=60))
def test_blocks_are_dropped_as_a_whole_and_read_as_they_came(
    entries: list[tuple[float, int]],
) -> None:
    ring = Ring(keep_s=30.0, maximum_bytes=400_000)
    put: list[WireEntry] = []
    for n, (mono, size) in enumerate(sorted(entries)):
        put.append(entry(mono, f"{n} " + "z" * size, about="sip/a#1", key="\ud800"))
        ring.put(put[-1])
        assert ring.n_bytes <= 400_000
        if n % 5 == 0:
            for block in ring.unpacked():
                block.pack()
    found = ring.entries()
    assert [each.data for each in found] == [each.data for each in put[len(put) - len(found) :]]
    assert all(each.mono >= put[-1].mono - 30.0 and each.key == "\ud800" for each in found)
    assert len(ring) + ring.dropped <= len(put)
    assert [each.number for each in ring.after(len(put) - 3)] == [
        each.number for each in found if each.number > len(put) - 3
    ]
    late = [each for each in found if each.at >= 1050.0]
    assert ring.entries(since=1050.0) == late


_ENTRIES = st.builds(
    lambda about, key, octets: WireEntry(
        mono=0.0, at=0.0, adapter="sip", about=about, outward=False, kind="sip", key=key,
        data=octets, ends=("tcp", ("127.0.0.1", 5060), ("127.0.0.2", 5060)),
    ),
    st.sampled_from(["", "sip/a", "sip/a#1", "sip/a#2", "sip/b#3"]),
    st.sampled_from(["", "", "call-1", "call-2"]),
    st.sampled_from([
        b"x",
        b"BYE sip:b SIP/2.0\r\nCall-ID: call-1\r\nContent-Length: 0\r\n\r\n",
        b"BYE sip:b SIP/2.0\r\ni: call-2\r\nSession-ID: " + b"a" * 32 + b"\r\nl: 0\r\n\r\n",
        b"BYE sip:b SIP/2.0\r\nCall-ID: call-3\r\nContent-",
        b"Length: 0\r\n\r\n",
    ]),
)  # fmt: skip
_STEPS = st.lists(
    st.one_of(
        _ENTRIES,
        st.tuples(st.sampled_from(["sip/a#1", "sip/b#3"]), st.sampled_from(["call-1", "call-3"])),
        st.sampled_from(["sip/a#1", "sip/a#2", "look"]),
    ),
    max_size=40,
)


@given(_STEPS)
def test_looks_at_what_is_new_find_what_one_look_finds(steps: list[object]) -> None:
    ring, legs = Ring(), []
    trace = "a" * 32
    reader = Reader(ring, trace)
    found: list[WireEntry] = []

    def look() -> None:
        found.extend(reader.fresh(legs, ("sip/a",), since=0.0))

    for n, step in enumerate(steps):
        if isinstance(step, WireEntry):
            # As it came: what a look has found out about it is noted in it.
            step = msgspec.structs.replace(step, mono=float(n), at=float(n))
            ring.put(step)
        elif isinstance(step, tuple):
            ring.tie(float(n), *step)
        elif step == "look":
            look()
        elif step not in legs:
            legs.append(str(step))
    look()
    once = Reader(ring, trace).fresh(legs, ("sip/a",), since=0.0)
    assert sorted(each.number for each in found) == [each.number for each in once]


@given(st.text(), st.text())
def test_whatever_the_network_says_stays_text_in_a_page(lane: str, text: str) -> None:
    item = Item(at=1.0, mono=1.0, lane=lane, kind="in", name="sip", text=f"<script>{text}")
    document = page([item], [lane], trace=text, facts={lane: text}, notes=[text])
    assert "<script" not in document


def test_a_block_is_packed_also_where_no_more_ranges_of_memory_are_to_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [(float(n), "a message", b"octets") for n in range(1000)]
    block = Block(rows, 1, mono=0.0, ats=(0.0, 0.0))
    before = block.held

    def full(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("gateway.timeline.blocks.mmap.mmap", full)
    block.pack()
    assert block.packed
    assert block.held < before / 4
    assert block.rows() == rows
