"""All scenarios, in the order in which they are run."""

from loadtest.faults import bodies, connections, endings, ladder, overload, reloads, scenario, stores

MODULES = (overload, ladder, bodies, connections, stores, reloads, endings)
SCENARIOS = {
    name: each
    for module in MODULES
    for name, each in scenario.SCENARIOS.items()
    if each.run.__module__ == module.__name__
}
