"""Load tests over HTTP: they start a service as a process of its own and import nothing of how it is made.

Rooms, each of which imports only those after it: `faults` (what breaks a service, done to it and to others),
`rivals` (other servers beside Bidlight), `reports` (the commands, their tables and JSON), `load` (closed and
open loops), `traffic` (what is sent and what must come back), `processes` (servers under test and the
machine). A contract in pyproject.toml allows one exception: the programs of the rivals, `rivals.servers`, use
`service.bundle`, so that every server does the same job.
"""
