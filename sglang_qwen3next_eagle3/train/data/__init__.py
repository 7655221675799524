"""`train prepare`: records of many formats to conversations, mixed, split and written once."""

__all__ = ["build", "decontaminate", "formats", "regenerate", "sources"]
