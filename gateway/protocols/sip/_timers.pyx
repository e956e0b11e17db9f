"""The heap of deadlines; see `timers`, through which everybody else takes it.

Here because each call starts and stops some twenty timers, most of which are never due: one
costs an object of 56 octets and no comparison in Python.
"""

cimport cython


@cython.freelist(256)
cdef class Timer:
    cdef readonly double due
    cdef unsigned long long order
    cdef readonly object action
    cdef object event

    def stop(self):
        # The action refers to the transaction: dropping it frees the transaction now, although
        # the heap's entry stays until it is due or swept.
        self.action = None
        self.event = None


cdef inline bint _before(Timer a, Timer b) noexcept:
    return a.due < b.due or (a.due == b.due and a.order < b.order)


cdef void _up(list heap, Py_ssize_t at) noexcept:
    """Bring the last entry to its place."""
    cdef Timer timer = <Timer>heap[at], above
    cdef Py_ssize_t parent
    while at > 0:
        parent = (at - 1) >> 1
        above = <Timer>heap[parent]
        if not _before(timer, above):
            break
        heap[at] = above
        at = parent
    heap[at] = timer


cdef void _down(list heap, Py_ssize_t at) noexcept:
    """Bring an entry to its place, both of whose branches are heaps."""
    cdef Timer timer = <Timer>heap[at], below
    cdef Py_ssize_t n = len(heap), child
    while True:
        child = 2 * at + 1
        if child >= n:
            break
        if child + 1 < n and _before(<Timer>heap[child + 1], <Timer>heap[child]):
            child += 1
        below = <Timer>heap[child]
        if not _before(below, timer):
            break
        heap[at] = below
        at = child
    heap[at] = timer


cdef Timer _pop(list heap):
    cdef Timer last = <Timer>heap.pop(), first
    if not heap:
        return last
    first = <Timer>heap[0]
    heap[0] = last
    _down(heap, 0)
    return first


cdef class Timers:
    cdef list heap
    cdef unsigned long long count
    cdef Py_ssize_t sweep_at

    def __cinit__(self):
        self.heap = []
        self.count = 0
        self.sweep_at = 1024

    def __len__(self):
        cdef Timer timer
        cdef Py_ssize_t n = 0
        for timer in self.heap:
            n += timer.action is not None
        return n

    def start(self, double due, object action not None, object event=None):
        cdef Timer timer = Timer.__new__(Timer)
        timer.due = due
        timer.action = action
        timer.event = event
        self.count += 1
        timer.order = self.count
        self.heap.append(timer)
        _up(self.heap, len(self.heap) - 1)
        if len(self.heap) > self.sweep_at:
            self.sweep()
        return timer

    cdef int sweep(self) except -1:
        # Most timers are stopped before they are due; without sweeping they would pile up.
        cdef Timer timer
        cdef list kept = []
        cdef Py_ssize_t at
        for timer in self.heap:
            if timer.action is not None:
                kept.append(timer)
        for at in range(len(kept) // 2 - 1, -1, -1):
            _down(kept, at)
        self.heap = kept
        self.sweep_at = max(1024, 2 * len(kept))
        return 0

    def next_due(self):
        cdef list heap = self.heap
        while heap and (<Timer>heap[0]).action is None:
            _pop(heap)
        return (<Timer>heap[0]).due if heap else None

    def run(self, double now):
        cdef list due = []
        cdef Timer timer
        cdef Py_ssize_t fired = 0
        cdef object action, event
        while self.heap and (<Timer>self.heap[0]).due <= now:
            due.append(_pop(self.heap))
        for timer in due:
            action, event = timer.action, timer.event
            if action is None:
                continue
            timer.action = timer.event = None
            fired += 1
            if event is None:
                action(now)
            else:
                action(event, now)
        return fired
