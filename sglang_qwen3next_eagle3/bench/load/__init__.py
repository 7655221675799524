"""Requests in flight: one as a stream, many at once, and the servers that get them."""

__all__ = ["load", "runner", "stream"]
