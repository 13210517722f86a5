"""Bodies that are dear to read: each keeps the others waiting no longer than an ordinary one of its size."""

from __future__ import annotations

import time
from collections.abc import Iterable

from loadtest.faults.ground import MOST_STALL_MS, PLANNED, Ground
from loadtest.faults.scenario import Figures, at_most, exactly, scenario
from loadtest.processes.server import Route, Server
from loadtest.traffic.hostile import JSON_TYPE, HostileBody, hostile_bodies, ordinary_body
from loadtest.traffic.messages import ask_once, message_of

LARGE_BYTES = 900_000
COLLISION_BYTES = 870_000
MOST_ANSWER_SECONDS = 1.0
MOST_TIMES_ORDINARY = 5.0


def ask_each(server: Server, bodies: Iterable[HostileBody], seconds: float = 60.0) -> Figures:
    """Send bodies one after another; the longest wait, and how many were not answered as planned."""
    longest, unplanned = 0.0, 0
    for body in bodies:
        route = Route(server.route.path, {**server.route.headers, "Content-Type": body.media_type})
        began = time.monotonic()
        try:
            status, _ = ask_once(server, message_of(body.content, route), seconds)
        except OSError:
            status = 0
        unplanned += status not in PLANNED
        longest = max(longest, time.monotonic() - began)
    return {"longest answer s": longest, "unplanned answers": unplanned}


@scenario(
    exactly("unplanned answers", 0),
    exactly("others lost", 0),
    at_most("longest answer s", MOST_ANSWER_SECONDS, is_timed=True),
    at_most("others' p99 ms", MOST_STALL_MS, is_timed=True),
)
def hash_collisions(ground: Ground) -> Figures:
    """MessagePack of 870 KB whose maps have keys with the same hash, under unknown names and known ones."""
    bodies = [
        each
        for each in hostile_bodies(ground.field_names, COLLISION_BYTES)
        if each.name.startswith("float tuples")
    ]
    with ground.serving() as server, ground.others(server) as figures:
        asked = ask_each(server, bodies)
    return {**asked, **figures}


@scenario(
    exactly("unplanned answers", 0),
    exactly("others lost", 0),
    at_most("longest answer / ordinary", MOST_TIMES_ORDINARY, is_timed=True),
    at_most("others' p99 ms", MOST_STALL_MS, is_timed=True),
    for_any_server=True,
    seconds=300,
)
def dear_bodies(ground: Ground) -> Figures:
    """Every body that aims at more than linear time, 900 KB each, one after another."""
    bodies = hostile_bodies(ground.field_names, LARGE_BYTES)
    if not ground.subject.is_ours:  # they read JSON alone
        bodies = [each for each in bodies if each.media_type == JSON_TYPE]
    with ground.serving() as server, ground.others(server) as figures:
        ordinary = ask_each(server, [ordinary_body(ground.field_names, LARGE_BYTES)] * 5)
        asked = ask_each(server, bodies)
    asked["longest answer / ordinary"] = asked["longest answer s"] / ordinary["longest answer s"]
    return {**asked, **figures}
