"""`from sglang_qwen3next_eagle3.client import Client`: the public place of the client."""

from sglang_qwen3next_eagle3.serving.client import Answer, AnswerStream, Client

__all__ = ["Answer", "AnswerStream", "Client"]
