"""Modems with AT commands: the dialogue, what their lines mean, and calls over a radio module.

`at` is the dialogue (ITU-T V.250), `lines` reads what comes (3GPP TS 27.007), `module` brings a
module up and makes calls with it.
"""
