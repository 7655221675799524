"""Suites of prompts: a name or a YAML file in, a validated `Suite` and its prompts out."""

from sglang_qwen3next_eagle3.bench.suites.prompts import Selection, select
from sglang_qwen3next_eagle3.bench.suites.suite import Prompt, Suite, load_suite, suite_names

__all__ = ["Prompt", "Selection", "Suite", "load_suite", "select", "suite_names"]
