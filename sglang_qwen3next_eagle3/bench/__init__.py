"""Benchmarks over HTTP: what a way of serving gives, what a draft tree costs, and which one pays.

options         what is asked for, with its defaults
run, speed      the two benchmarks; measure.py is what they do alike
auto            steps that follow load and acceptance, against none and the best
cycle           the phases of a cycle in the schedulers
start           the phases of a start, and what compile caches bring
configurations  what is compared
servers         how their servers are started, in which order, and what if one fails
markdown        tables, of reports and plans
suites/         prompts
load            requests in flight
results/        passes as they are kept, and the figures made of them
trees/          what a cycle costs, and which tree pays at which accept length
reports/        what people read of it
join, divergences
"""

__all__ = [
    "auto",
    "configurations",
    "cycle",
    "divergences",
    "join",
    "measure",
    "options",
    "reports",
    "results",
    "run",
    "speed",
    "start",
    "suites",
    "trees",
]
