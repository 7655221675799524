"""One file a kernel: the Triton kernel, its launcher, and a reference in plain torch. What several
of them compute stands in gdn_step (one step of Gated DeltaNet) and quantize."""
