"""For all tests."""

from hypothesis import HealthCheck, settings

# How long one example takes says something of the machine and who else uses it, not of the code.
settings.register_profile("gateway", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gateway")
