"""One file a kernel: the Triton kernel, its launcher, and a reference in plain torch."""
