from array import array

from _typeshed import ReadableBuffer

def impulse_response(
    sent: ReadableBuffer, received: ReadableBuffer, n_taps: int, floor: float = 0.001
) -> array[float]: ...
def through(sent: ReadableBuffer, taps: array[float]) -> array[float]: ...
