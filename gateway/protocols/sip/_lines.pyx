"""The lines of messages, cut and written; see `message` and `headers`, through which everybody
else takes it.

Here because a daemon that wakes for each datagram finds the processor's caches filled by others:
what the interpreter, its regular expressions and its dictionaries touch for a message then takes
six times as long as in a loop, one pass over the octets does not.
"""

from sys import intern

from cpython.dict cimport PyDict_GetItem
from cpython.ref cimport PyObject
from libc.string cimport memchr, memcmp, memcpy

from gateway.errors import PeerError, UsageError
from gateway.protocols.sip.names import KEYS

cdef extern from *:
    str PyUnicode_DecodeUTF8(const char *octets, Py_ssize_t n, const char *errors)
    str PyUnicode_New(Py_ssize_t n, Py_UCS4 highest)
    bint PyUnicode_IS_ASCII(object text)
    unsigned char *PyUnicode_1BYTE_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    bytes PyBytes_FromStringAndSize(const char *octets, Py_ssize_t n)
    char *PyBytes_AS_STRING(object octets)
    Py_ssize_t PyBytes_GET_SIZE(object octets)

DEF LONGEST = 32
DEF NAMES = 200
DEF SLOTS = 512

cdef struct Name:
    unsigned char text[LONGEST]
    Py_ssize_t n
    PyObject *key

cdef Name _names[NAMES]
cdef unsigned char _slots[SLOTS]  # 0: empty, else one more than the name's place
cdef list _kept = []  # what the names refer to


cdef inline unsigned char _lower(unsigned char c) noexcept:
    return c + 32 if 65 <= c <= 90 else c


cdef inline unsigned int _slot(const unsigned char *text, Py_ssize_t n) noexcept:
    return <unsigned int>(n * 131 + text[0] * 31 + text[n >> 1] * 17 + text[n - 1]) % SLOTS


cdef Name *_find(const unsigned char *text, Py_ssize_t n) noexcept:
    """The name of 1 to `LONGEST` octets in lower case, NULL if it is not among ours."""
    cdef unsigned int slot = _slot(text, n)
    cdef Name *name
    while _slots[slot]:
        name = &_names[_slots[slot] - 1]
        if name.n == n and memcmp(name.text, text, n) == 0:
            return name
        slot = (slot + 1) % SLOTS
    return NULL


cdef int _learn() except -1:
    cdef bytes octets
    cdef unsigned int slot
    cdef Name *name
    for spelled, key in KEYS.items():
        octets = spelled.lower().encode()
        if _find(<const unsigned char *>PyBytes_AS_STRING(octets), len(octets)) != NULL:
            continue
        if len(octets) > LONGEST or len(_kept) == NAMES:
            raise AssertionError(f"no room for the header name {spelled}")
        name = &_names[len(_kept)]
        memcpy(name.text, PyBytes_AS_STRING(octets), len(octets))
        name.n = len(octets)
        # The same object as where somebody asks for it by name: found without comparing.
        key = intern(key)
        name.key = <PyObject *>key
        _kept.append(key)
        slot = _slot(name.text, name.n)
        while _slots[slot]:
            slot = (slot + 1) % SLOTS
        _slots[slot] = len(_kept)
    return 0


_learn()


cdef str _text(const unsigned char *octets, Py_ssize_t n):
    return PyUnicode_DecodeUTF8(<const char *>octets, n, "surrogateescape")


cdef str _key(const unsigned char *text, Py_ssize_t n):
    """The key of a header name, None if it is none."""
    cdef unsigned char low[LONGEST]
    cdef Py_ssize_t at
    cdef Name *name
    while n and text[n - 1] in (32, 9):
        n -= 1
    if 0 < n <= LONGEST:
        for at in range(n):
            low[at] = _lower(text[at])
        name = _find(low, n)
        if name != NULL:
            return <str>name.key
    cdef str key = _text(text, n).lower()
    key = KEYS.get(key, key)
    return key if key and " " not in key and "\t" not in key else None


def cut(bytes head not None, Py_ssize_t most):
    cdef const unsigned char *octets = <const unsigned char *>PyBytes_AS_STRING(head)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(head), at = 0, end, colon, first, last, n_lines = 0
    cdef unsigned char c
    cdef bint stray = False, many = False, repeated = False
    cdef dict headers = {}
    cdef str start = "", fault = None, key, value
    cdef PyObject *lines
    while True:
        n_lines += 1
        if n_lines > most:
            many = True
            break
        end, colon = at, -1
        while end < n:
            c = octets[end]
            if c == 13:
                if end + 1 < n and octets[end + 1] == 10:
                    break
                stray = True
            elif c == 10:
                stray = True
            elif c == 58 and colon < 0:
                colon = end
            end += 1
        if n_lines == 1:
            start = _text(octets + at, end - at)
        else:
            key = _key(octets + at, colon - at) if colon >= 0 else None
            if key is None:
                fault = f"malformed header line {_text(octets + at, end - at)[:60]!r}"
            else:
                first, last = colon + 1, end
                while first < last and octets[first] in (32, 9):
                    first += 1
                while first < last and octets[last - 1] in (32, 9):
                    last -= 1
                value = _text(octets + first, last - first)
                lines = PyDict_GetItem(headers, key)
                if lines == NULL:
                    headers[key] = [value]
                else:
                    (<list>lines).append(value)
                    repeated = True
        if end >= n:
            break
        at = end + 2
    if fault is None:
        if many:
            fault = f"more than {most} header lines"
        elif stray:
            fault = "bare CR or LF in the header"
    return start, headers, fault, repeated


cdef inline bint _is_plain(unsigned char c) noexcept:
    """What a parameter is made of, but for "="; blanks are those of `str.isspace`."""
    return not (c in (32, 59, 34, 60, 62, 44) or 9 <= c <= 13 or 28 <= c <= 31)


def plain_params(str text not None):
    cdef Py_ssize_t n = PyUnicode_GET_LENGTH(text), at = 0, first, end, place
    cdef const unsigned char *octets
    cdef unsigned char *low
    cdef dict pairs = {}
    cdef str name, value
    if n == 0 or not PyUnicode_IS_ASCII(text):
        return None
    octets = PyUnicode_1BYTE_DATA(text)
    while at < n:
        if octets[at] != 59:
            return None
        first = end = at + 1
        while end < n and octets[end] != 61 and _is_plain(octets[end]):
            end += 1
        if end == first:
            return None
        name = PyUnicode_New(end - first, 127)
        low = PyUnicode_1BYTE_DATA(name)
        for place in range(end - first):
            low[place] = _lower(octets[first + place])
        at, value = end, ""
        if end < n and octets[end] == 61:
            first = end = end + 1
            while end < n and _is_plain(octets[end]):
                end += 1
            if end == first:
                return None
            value = PyUnicode_New(end - first, 127)
            memcpy(PyUnicode_1BYTE_DATA(value), octets + first, end - first)
            at = end
        if at < n and octets[at] != 59:
            return None
        if name in pairs:
            raise PeerError(f"parameter {name[:40]!r} is given twice", status=400)
        pairs[name] = value
    return pairs


cdef inline Py_ssize_t _length(object text) except -2:
    """Octets of a text that is written as it stands; -1 of one that has to be encoded."""
    cdef Py_ssize_t n
    if not PyUnicode_IS_ASCII(text):
        return -1
    n = PyUnicode_GET_LENGTH(text)
    if memchr(PyUnicode_1BYTE_DATA(text), 13, n) or memchr(PyUnicode_1BYTE_DATA(text), 10, n):
        raise UsageError("a SIP header value may not contain CR or LF")
    return n


cdef inline char *_put(char *to, object text) noexcept:
    cdef Py_ssize_t n = PyUnicode_GET_LENGTH(text)
    memcpy(to, PyUnicode_1BYTE_DATA(text), n)
    return to + n


cdef bytes _encoded(str start, list headers, bytes body):
    """A message with text that is not ASCII."""
    lines = [start, *[f"{name}: {value}" for name, value in headers]]
    together = "".join(lines)
    if "\r" in together or "\n" in together:
        raise UsageError("a SIP header value may not contain CR or LF")
    lines.append(f"Content-Length: {len(body)}\r\n\r\n")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + body


def encode(str start not None, headers not None, bytes body not None = b""):
    cdef list lines = list(headers)
    cdef str last = f"Content-Length: {PyBytes_GET_SIZE(body)}\r\n\r\n"
    cdef object name, value
    cdef Py_ssize_t n, n_name, n_value, total = PyUnicode_GET_LENGTH(last) + PyBytes_GET_SIZE(body)
    cdef bytes message
    cdef char *to
    n = _length(start)
    if n < 0:
        return _encoded(start, lines, body)
    total += n + 2
    for name, value in lines:
        if not (isinstance(name, str) and isinstance(value, str)):
            raise TypeError("a header field is a name and a value")
        n_name, n_value = _length(name), _length(value)
        if n_name < 0 or n_value < 0:
            return _encoded(start, lines, body)
        total += n_name + n_value + 4
    message = PyBytes_FromStringAndSize(NULL, total)
    to = _put(PyBytes_AS_STRING(message), start)
    for name, value in lines:
        memcpy(to, b"\r\n", 2)
        to = _put(to + 2, name)
        memcpy(to, b": ", 2)
        to = _put(to + 2, value)
    memcpy(to, b"\r\n", 2)
    to = _put(to + 2, last)
    memcpy(to, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
    return message
