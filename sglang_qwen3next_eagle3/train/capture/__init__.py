"""`train capture`: the target's states over prepared conversations, and the folder they are in."""

__all__ = ["capture", "encode", "features"]
