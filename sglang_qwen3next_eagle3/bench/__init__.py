"""Benchmarks over HTTP: what a way of serving gives, what a draft tree costs, and which one pays.

options         what is asked for, with its defaults
run, speed      the two benchmarks; measure.py is what they do alike
configurations  what is compared
servers         how their servers are started, in which order, and what if one fails
suites/         prompts
load            requests in flight
results/        passes as they are kept, and the figures made of them
trees/          what a cycle costs, and which tree pays at which accept length
reports/        what people read of it
join, divergences
"""

from sglang_qwen3next_eagle3.bench.configurations import HOW_TO_SPELL
from sglang_qwen3next_eagle3.bench.divergences import find_divergences
from sglang_qwen3next_eagle3.bench.join import Joined, join_results
from sglang_qwen3next_eagle3.bench.measure import Outcome
from sglang_qwen3next_eagle3.bench.options import BenchOptions, RunOptions, SpeedOptions
from sglang_qwen3next_eagle3.bench.reports import readme_rows, write
from sglang_qwen3next_eagle3.bench.reports.compare import ResultComparison, compare
from sglang_qwen3next_eagle3.bench.results.records import Result
from sglang_qwen3next_eagle3.bench.run import run_suites
from sglang_qwen3next_eagle3.bench.speed import run_speed
from sglang_qwen3next_eagle3.bench.suites import Suite, load_suite, suite_names
from sglang_qwen3next_eagle3.bench.trees.cost import CostModel, fit
from sglang_qwen3next_eagle3.bench.trees.plan import (
    HOW_TO_WRITE,
    TreePlan,
    parse_accept_lengths,
    plan,
)
from sglang_qwen3next_eagle3.bench.trees.synthetic import dialogues, write_head, write_target

__all__ = [
    "HOW_TO_SPELL",
    "HOW_TO_WRITE",
    "BenchOptions",
    "CostModel",
    "Joined",
    "Outcome",
    "Result",
    "ResultComparison",
    "RunOptions",
    "SpeedOptions",
    "Suite",
    "TreePlan",
    "compare",
    "dialogues",
    "find_divergences",
    "fit",
    "join_results",
    "load_suite",
    "parse_accept_lengths",
    "plan",
    "readme_rows",
    "run_speed",
    "run_suites",
    "suite_names",
    "write",
    "write_head",
    "write_target",
]
