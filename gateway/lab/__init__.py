"""The lab: a gateway with everything around it that is not hardware.

A virtual line card with telephones and an exchange, an MQTT broker with an alarm panel, a
softphone, an intercom bus, a radio, a hall, a cabinet of contacts and relays, and another PBX.
`gateway lab` drives it; the tests use the same parts.
"""
