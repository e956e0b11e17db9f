"""ITU-T G.711 A-law and mu-law, bit-exact to the ITU's software tool library (G.191)."""

from gateway._codecs.edge cimport blank, i16, octets, samples, u8

cp_g711_setup()


def encode_ulaw(pcm) -> bytes:
    """int16 samples to mu-law octets."""
    cdef bytes src = samples(pcm), out = blank(len(src) // 2)
    cp_ulaw_encode(i16(src), u8(out), <int32_t>len(out))
    return out


def encode_alaw(pcm) -> bytes:
    """int16 samples to A-law octets."""
    cdef bytes src = samples(pcm), out = blank(len(src) // 2)
    cp_alaw_encode(i16(src), u8(out), <int32_t>len(out))
    return out


def decode_ulaw(payload) -> bytes:
    """mu-law octets to int16 samples."""
    cdef bytes src = octets(payload), out = blank(2 * len(src))
    cp_ulaw_decode(u8(src), i16(out), <int32_t>len(src))
    return out


def decode_alaw(payload) -> bytes:
    """A-law octets to int16 samples."""
    cdef bytes src = octets(payload), out = blank(2 * len(src))
    cp_alaw_decode(u8(src), i16(out), <int32_t>len(src))
    return out


def convert_ulaw_to_alaw(payload) -> bytes:
    """mu-law to A-law: the octet that decoding and encoding anew would give."""
    cdef bytes src = octets(payload), out = blank(len(src))
    cp_ulaw_to_alaw(u8(src), u8(out), <int32_t>len(src))
    return out


def convert_alaw_to_ulaw(payload) -> bytes:
    """A-law to mu-law: the octet that decoding and encoding anew would give."""
    cdef bytes src = octets(payload), out = blank(len(src))
    cp_alaw_to_ulaw(u8(src), u8(out), <int32_t>len(src))
    return out
