"""pyVoIP as a telephone: PORT USER PASSWORD CALLEE PLAY.wav OUT.raw OWN_PORT RTP_PORT.

Registers at 127.0.0.1:PORT, calls, speaks PLAY (8 kHz), writes what it hears as 16-bit samples,
hangs up. pyVoIP's samples are 8-bit unsigned.
"""

from __future__ import annotations

import os
import sys
import time
import wave
from array import array

from pyVoIP.VoIP import CallState, VoIPPhone

SECONDS = 2.5


def main() -> None:
    port, user, password, callee, play, out, own, rtp = sys.argv[1:]
    phone = VoIPPhone(
        "127.0.0.1", int(port), user, password, myIP="127.0.0.1", sipPort=int(own),
        rtpPortLow=int(rtp), rtpPortHigh=int(rtp) + 40, callCallback=lambda call: None,
    )  # fmt: skip
    phone.start()
    while str(phone.get_status()) != "PhoneStatus.REGISTERED":
        time.sleep(0.05)
    print("REGISTERED", flush=True)
    call = phone.call(callee)
    while call.state is not CallState.ANSWERED:
        time.sleep(0.02)
    print("ANSWERED", flush=True)
    with wave.open(play) as file:
        samples = array("h", file.readframes(int(8000 * SECONDS)))
    call.write_audio(bytes((sample >> 8) + 128 for sample in samples))
    heard = b""
    end = time.time() + SECONDS
    while time.time() < end and call.state is CallState.ANSWERED:
        heard += call.read_audio(160, blocking=True)
    with open(out, "wb") as file:
        file.write(array("h", ((octet - 128) << 8 for octet in heard)).tobytes())
    call.hangup()
    print("HUNG UP", flush=True)
    time.sleep(0.3)
    # Its threads never end by themselves.
    os._exit(0)


main()
