"""The guard: a small process of its own that alone holds a transmitter's key line.

It keys for as long as a lease lasts. When the lease is not renewed, when the gateway is gone, or
at the start, it releases the line, reads it back, and writes down the proof.
"""
