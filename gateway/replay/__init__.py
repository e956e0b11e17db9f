"""Replay: runs a journal through the switchboard again, without a clock, a socket or a device.

`tape` reads a journal run by run, `player` plays one and finds the first difference, `digits`
guesses what a journal hides, `flow` turns a run or one trace of it into a flow test.
"""
