"""What an EAGLE3 head is, read without its weights but for `forward`, which runs it in torch.

head             its config and tensors, as one value
files            where they are, a folder or the hub, and their published names
check            what it must be for SGLang to draft with it, as findings
captured_layers  which states it is fed with, and who decided that
record           what `head calibrate` measured of it
inspect          all that of one head, for people
convert          a head in another form, as SGLang reads it; parts: its tensors, read and written
forward          its network in torch
"""

__all__ = [
    "captured_layers", "check", "convert", "files", "formats", "forward", "head", "inspect",
    "record",
]  # fmt: skip
