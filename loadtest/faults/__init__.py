"""Faults: what breaks a service is done to a real one, and what it must hold is measured meanwhile.

`scenario` says what a scenario is, and a module each has those of overload, of a single client, of stores and
of reloads, stops and workers. To add one, write one function there.
"""
