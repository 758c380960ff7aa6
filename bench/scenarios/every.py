"""All scenarios, in the order of the report."""

from bench.scenario import Scenario
from bench.scenarios import (
    bursts,
    durability,
    echo,
    fairness,
    idle_sessions,
    mcp_doors,
    overload,
    stdio_upstream,
)

SCENARIOS: dict[str, Scenario] = {
    module.SCENARIO.name: module.SCENARIO
    for module in (
        echo,
        mcp_doors,
        durability,
        stdio_upstream,
        bursts,
        overload,
        fairness,
        idle_sessions,
    )
}
