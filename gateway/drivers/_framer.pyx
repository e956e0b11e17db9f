"""Framer: puts a header, a running count and the frame before in front of each audio frame.

A thread of plain C: neither the event loop nor Python's lock delays a packet.
"""

import os

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "framer_impl.h":
    enum:
        CF_PREFIX_BYTES
        CF_FRAME_BYTES
    ctypedef struct cf_framer:
        pass
    ctypedef struct cf_counts:
        uint64_t sent
        uint64_t dropped
        uint64_t errors
        uint64_t worst_gap_ns
    cf_framer *cf_start(int in_fd, int out_fd, const uint8_t *prefix, int prefix_bytes,
                        int frame_bytes, uint32_t count, uint32_t step)
    void cf_forward(cf_framer *f, int on)
    void cf_counts_get(cf_framer *f, cf_counts *c)
    void cf_stop(cf_framer *f) nogil


cdef class Framer:
    """Reads frames as datagrams from one descriptor, sends packets on another that is connected.

    A packet is `prefix`, the count (32 bits, most significant octet first, growing by `step`),
    the frame before (not in the first packet) and the frame. Both descriptors are duplicated.
    Until `forward(True)` frames are read and dropped. Raises ValueError for sizes that do not
    fit, OSError when no thread can be started.
    """

    cdef cf_framer *_framer
    cdef tuple _last

    def __cinit__(self, int in_fd, int out_fd, bytes prefix, *, int frame_bytes, int step,
                  uint32_t count=0):
        if len(prefix) > CF_PREFIX_BYTES or not 1 <= frame_bytes <= CF_FRAME_BYTES:
            raise ValueError(f"prefix of {len(prefix)}, frames of {frame_bytes} octets")
        self._last = (0, 0, 0, 0)
        fd = os.dup(in_fd)
        try:
            out = os.dup(out_fd)
        except OSError:
            os.close(fd)
            raise
        self._framer = cf_start(fd, out, prefix, <int>len(prefix), frame_bytes, count, step)
        if self._framer is NULL:
            os.close(fd)
            os.close(out)
            raise OSError("no thread can be started for the framer")

    def __dealloc__(self):
        if self._framer is not NULL:
            cf_stop(self._framer)

    def forward(self, bint on):
        """Let frames through, or drop them."""
        if self._framer is not NULL:
            cf_forward(self._framer, on)

    def counts(self):
        """Packets sent, frames dropped, packets refused by the kernel, and the longest time
        between two packets in nanoseconds; after `close`, the last ones."""
        cdef cf_counts c
        if self._framer is not NULL:
            cf_counts_get(self._framer, &c)
            self._last = (c.sent, c.dropped, c.errors, c.worst_gap_ns)
        return self._last

    def close(self):
        """End the thread; harmless when it has ended."""
        cdef cf_framer *framer = self._framer
        if framer is not NULL:
            self.counts()
            self._framer = NULL
            with nogil:
                cf_stop(framer)
