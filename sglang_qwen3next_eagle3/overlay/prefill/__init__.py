"""Prefill on stock SGLang without a server: any streams of the target for lists of prompts."""

from sglang_qwen3next_eagle3.overlay.prefill.runner import Prefill, PrefillRunner, every_stream

__all__ = ["Prefill", "PrefillRunner", "every_stream"]
