"""All scenarios, in the order in which they are run."""

from loadtest.faults import bodies, connections, endings, overload, reloads, scenario, stores

MODULES = (overload, bodies, connections, stores, reloads, endings)
SCENARIOS = {
    name: each
    for module in MODULES
    for name, each in scenario.SCENARIOS.items()
    if each.run.__module__ == module.__name__
}
