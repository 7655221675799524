"""Serve Qwen3-Coder-Next with EAGLE3 speculative decoding on stock SGLang."""

__version__ = "0.1.0"
