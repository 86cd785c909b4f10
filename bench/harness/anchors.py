"""Figures that do not come from this run: Kong 3.9.3 as measured elsewhere, and the goals of this project.

Kong's were taken on two machines with two cores, with 2 workers, 32 connections and wrk, as ratio to nginx as a reverse
proxy in the same rounds. They say what to expect on a machine like those, no more: the ratio to nginx carries over from
one machine to another within some tens of percent.
"""

KONG = "Kong 3.9.3, measured elsewhere"

KONG_PLAIN = (0.51, 0.38)
# By language, then by the number of get_header calls before one set_header; a figure for each machine.
KONG_CALLS: dict[str, dict[int, tuple[float, ...]]] = {
    "go": {0: (0.215, 0.178), 1: (0.161, 0.141), 8: (0.076, 0.085), 32: (0.0275, 0.034)},
    "js": {1: (0.138, 0.105), 8: (0.054, 0.045), 32: (0.018, 0.016)},
    "gevent": {1: (0.076,), 8: (0.030,), 32: (0.012,)},
    "python": {1: (0.021,), 8: (0.0070,), 32: (0.0021,)},
}
# Microseconds that one more PDK call costs at one connection.
KONG_CALL_MICROSECONDS = {"go": 36.0, "js": 56.0, "gevent": 80.0, "python": 202.0}

GOAL_PLAIN = 0.95
GOAL_CALLS: dict[str, dict[int, float]] = {
    "go": {0: 0.38, 1: 0.31, 8: 0.115, 32: 0.040},
    "js": {n: round(1.3 * kong[0], 3) for n, kong in KONG_CALLS["js"].items()},
    "gevent": {n: round(1.3 * kong[0], 3) for n, kong in KONG_CALLS["gevent"].items()},
    "python": {n: kong[0] for n, kong in KONG_CALLS["python"].items()},
}
GOAL_P99_MS_AT_HALF_LOAD = 5.0
GOAL_MEMORY_AT_REST_MB = 40.0
