"""Framing: octets cut into frames, and frames written as octets."""

from __future__ import annotations

import re

import msgspec

from gateway.errors import UsageError
from gateway.protocols.intercom.profile import Checksum, Framing

_QUOTED = re.compile(r'"([^"]*)"')


class Frame(msgspec.Struct, frozen=True):
    """A whole frame: its octets from `start` up to the checksum, or its text."""

    octets: bytes
    text: str | None = None


class Spoiled(msgspec.Struct, frozen=True):
    """Octets that were no frame: ``noise``, ``checksum`` or ``half``."""

    kind: str
    octets: bytes


class Framer:
    """Cuts a stream of octets; driven by `feed` and, when the line is silent, by `idle`.

    Keeps at most `maximum` octets and what came in one piece. Raises nothing.
    """

    def __init__(self, framing: Framing, checksum: Checksum) -> None:
        self._framing, self._checksum = framing, checksum
        self._start, self._end = framing.start_octets, framing.end_octets
        # A control octet cannot occur within text: a later one begins the frame anew.
        self._unique = bool(self._start) and framing.encoding != "octets" and self._start[0] < 32
        self._buffer = bytearray()
        self._overlong = False

    @property
    def pending(self) -> bool:
        """Whether half a frame waits for the rest."""
        return bool(self._buffer)

    def reset(self) -> None:
        """Forget what is pending."""
        self._buffer.clear()
        self._overlong = False

    def feed(self, data: bytes) -> list[Frame | Spoiled]:
        """The frames that are complete now, and what was none."""
        self._buffer += data
        found: list[Frame | Spoiled] = []
        noise = bytearray()
        while self._buffer:
            if self._framing.gap_ms:
                if len(self._buffer) > self._framing.maximum:
                    noise += self._buffer
                    self._buffer.clear()
                break
            step = self._next()
            if step is None:
                break
            if isinstance(step, int):
                noise += self._buffer[:step]
                del self._buffer[:step]
                continue
            if noise:
                found.append(Spoiled("noise", bytes(noise)))
                noise.clear()
            found.append(step)
        if noise:
            found.append(Spoiled("noise", bytes(noise)))
        return found

    def idle(self) -> list[Frame | Spoiled]:
        """The line was silent for as long as ends a frame, or gives half of one up."""
        if not self._buffer:
            return []
        if self._framing.gap_ms:
            data = bytes(self._buffer)
            self._buffer.clear()
            return [self._decode(data)]
        found: list[Frame | Spoiled] = [Spoiled("half", bytes(self._buffer))]
        # A whole frame may stand behind a false beginning.
        rest = bytes(self._buffer[1:])
        self.reset()
        if self._start:
            found += [each for each in self.feed(rest) if isinstance(each, Frame)]
            self.reset()
        return found

    def _next(self) -> Frame | Spoiled | int | None:
        """A frame; a number of octets that are noise; None: wait for more."""
        buffer, framing = self._buffer, self._framing
        if framing.encoding != "octets" and not self._start:
            # Line ends between lines, whichever of CR and LF the sender adds.
            del buffer[: len(buffer) - len(buffer.lstrip(b"\r\n"))]
        if self._start:
            at = buffer.find(self._start)
            if at < 0:
                # Its first octets may be here already.
                keep = next(
                    (n for n in range(len(self._start) - 1, 0, -1)
                     if buffer.endswith(self._start[:n])), 0
                )  # fmt: skip
                return len(buffer) - keep or None
            if at:
                return at
        n_octets = self._length()
        if n_octets == 0:
            return None
        if n_octets < 0:
            if self._start:
                return 1
            self._overlong = True
            return min(len(buffer), framing.maximum)
        if self._overlong:
            self._overlong = False
            return n_octets
        if self._unique and (again := buffer.rfind(self._start, 1, n_octets)) > 0:
            return again
        data = bytes(buffer[:n_octets])
        if not data.endswith(self._end):
            return 1
        step = self._decode(data[: n_octets - len(self._end)])
        if isinstance(step, Spoiled) and framing.size + (framing.length_at is not None):
            # Not the whole of it: the frame that the length ran into may be good.
            del buffer[:1]
            return Spoiled(step.kind, data[:1])
        del buffer[:n_octets]
        return step

    def _length(self) -> int:
        """Octets of the frame at the beginning of the buffer; 0: unknown yet, -1: impossible."""
        framing, buffer = self._framing, self._buffer
        if framing.size:
            n_octets = framing.size
        elif framing.length_at is not None:
            behind = framing.length_at + framing.length_size
            if len(buffer) < behind:
                return 0
            n_octets = framing.length_add + int.from_bytes(buffer[framing.length_at : behind])
            if not behind <= n_octets <= framing.maximum:
                return -1
        else:
            at = buffer.find(self._end, len(self._start), framing.maximum)
            if at < 0:
                return -1 if len(buffer) >= framing.maximum else 0
            return at + len(self._end)
        return n_octets if len(buffer) >= n_octets else 0

    def _decode(self, data: bytes) -> Frame | Spoiled:
        if self._framing.encoding == "octets":
            size = self._checksum.size
            body = data[: len(data) - size]
            if len(data) < size or int.from_bytes(
                data[len(body) :], self._checksum.order
            ) != self._checksum.of(body):
                return Spoiled("checksum" if len(data) > size else "noise", data)
            return Frame(body)
        try:
            text = data[len(self._start) :].decode("ascii")
        except UnicodeDecodeError:
            return Spoiled("noise", data)
        if self._framing.encoding == "text":
            return Frame(data, text)
        if self._framing.plain and text.startswith(self._framing.plain):
            return Frame(data, text)
        return self._decode_hex(data, text)

    def _decode_hex(self, data: bytes, text: str) -> Frame | Spoiled:
        total = ""
        if self._checksum.separator:
            text, _, total = text.rpartition(self._checksum.separator)
        if self._framing.quoted:
            text = _QUOTED.sub(lambda found: found[1].encode().hex(), text)
        try:
            octets = bytes.fromhex(text)
            found = bytes.fromhex(total)
        except ValueError:
            return Spoiled("noise", data)
        if not octets:
            return Spoiled("noise", data)
        if self._checksum.separator:
            if found != self._checksum.of(octets).to_bytes(self._checksum.size):
                return Spoiled("checksum", data)
        elif self._checksum.size:
            octets, found = octets[: -self._checksum.size], octets[-self._checksum.size :]
            if int.from_bytes(found, self._checksum.order) != self._checksum.of(octets):
                return Spoiled("checksum", data)
        return Frame(octets)

    # The other way

    def encode(self, body: str, *, plain: bool = False) -> bytes:
        """A frame around a rendered template. Raises `UsageError` when it is no legal frame."""
        framing, checksum = self._framing, self._checksum
        if framing.encoding == "text" or plain:
            return self._start + body.encode("ascii", "replace") + self._end
        try:
            octets = bytes.fromhex(body)
        except ValueError:
            raise UsageError(f"{body!r} is not hexadecimal") from None
        if framing.encoding == "hex":
            total = checksum.of(octets).to_bytes(checksum.size, checksum.order).hex().upper()
            text = octets.hex().upper() + (checksum.separator + total if total else "")
            return self._start + text.encode() + self._end
        data = bytearray(self._start + octets)
        n_octets = len(data) + checksum.size + len(self._end)
        if n_octets > framing.maximum or (framing.size and n_octets != framing.size):
            raise UsageError(f"a frame of {n_octets} octets is not legal on this bus: {body}")
        if framing.length_at is not None:
            value = n_octets - framing.length_add
            size = framing.length_size
            data[framing.length_at : framing.length_at + size] = value.to_bytes(size)
        data += checksum.of(bytes(data)).to_bytes(checksum.size, checksum.order)
        return bytes(data) + self._end
