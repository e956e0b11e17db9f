"""The lab: a gateway with everything around it that is not hardware.

A virtual line card with telephones and an exchange, an MQTT broker with an alarm panel, and a real
softphone as the outside caller. `gateway lab` drives it; the tests use the same parts.
"""
