"""`train run`: SpecForge, told what to train on what, watched, and let go on."""

__all__ = ["recipe", "run", "specforge", "supervise"]
