"""Draft trees: a synthetic pair, what a cycle costs, and which tree pays at which accept length."""

__all__ = ["adaptive", "cost", "plan", "synthetic"]
