"""What an EAGLE3 head is, read without its weights but for `forward`, which runs it in torch."""

__all__ = [
    "captured_layers", "check", "convert", "files", "formats", "forward", "head", "inspect",
    "record",
]  # fmt: skip
