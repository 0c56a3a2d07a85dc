"""Property tests without a deadline for each example: machines are shared, and a slow moment is no fault."""

from hypothesis import HealthCheck, settings

settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
