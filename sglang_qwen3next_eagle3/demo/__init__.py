"""The small trained pair that comes with this package."""

from sglang_qwen3next_eagle3.demo.pair import DemoPair, demo_pair

__all__ = ["DemoPair", "demo_pair"]
