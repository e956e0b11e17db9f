"""What a call is: endpoints, events, actions, legs, calls, bridges, routes, switchboard.

No I/O, no clock, no asyncio: time comes in as `now`, in seconds of a monotonic clock.
"""
