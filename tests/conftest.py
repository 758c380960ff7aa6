"""What every test may rely on."""

from hypothesis import HealthCheck, settings

# A loaded machine is no defect: examples are bounded in number, not in time.
settings.register_profile("exai", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("exai")
