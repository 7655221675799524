"""Serving: profiles, what is checked before a launch, servers of our own, and a client."""

__all__ = ["client", "flags", "preflight", "profile", "server"]
