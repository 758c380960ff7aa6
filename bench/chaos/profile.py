"""How much is brought, and how the daemon dies."""

from typing import Literal, NamedTuple

Way = Literal["kill", "term", "hup"]
"""SIGKILL and a new process; SIGTERM and a new process; SIGHUP, which replaces it in place."""


class Profile(NamedTuple):
    """A kind of run. Half of `upstream_deaths` are of each MCP server behind the daemon."""

    name: str
    calls: int
    deaths: int
    ways: tuple[Way, ...]
    upstream_deaths: int
    mean_clients: int
    steady_clients: int


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("kill", 1000, 10, ("kill",), 4, mean_clients=10, steady_clients=4),
        Profile("upgrade", 2000, 20, ("term", "hup"), 0, mean_clients=10, steady_clients=4),
        Profile("mixed", 1000, 12, ("kill", "term", "hup"), 4, mean_clients=10, steady_clients=4),
        Profile("smoke", 60, 2, ("kill",), 0, mean_clients=3, steady_clients=1),
    )
}
LONG_FACTOR = 10


def longer(profile: Profile) -> Profile:
    """Return a profile with ten times the calls and the deaths."""
    return profile._replace(
        name=f"{profile.name}, long",
        calls=profile.calls * LONG_FACTOR,
        deaths=profile.deaths * LONG_FACTOR,
        upstream_deaths=profile.upstream_deaths * LONG_FACTOR,
    )
