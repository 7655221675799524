"""Serving: profiles, what is checked before a launch, servers of our own, and a client."""

__all__ = [
    "client",
    "command_line",
    "connection",
    "conversation",
    "doctor",
    "flags",
    "machine",
    "preflight",
    "profile",
    "server",
]
