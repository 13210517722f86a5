"""How a new arm earns its traffic: the plan, the gates, and tests that may be looked at at any time."""
