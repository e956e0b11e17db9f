"""Serial intercom buses: octets to meaning and back, as a profile file describes the bus.

`profile` is the file, `framing` cuts octets into frames, `fields` reads and writes them, `link`
is the engine that a bus is driven with: polls, acknowledgements, retries, collisions, liveness.
`openwebnet` has that bus's two log-ins. Sources of the published protocols stand in the profiles.
"""
