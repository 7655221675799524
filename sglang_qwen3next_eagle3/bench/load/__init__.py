"""Requests in flight: one as a stream, many at once."""

__all__ = ["load", "stream"]
