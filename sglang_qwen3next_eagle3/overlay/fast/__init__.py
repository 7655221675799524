"""Our own kernels for passes of few rows, and where they stand in for stock SGLang's.

A pass of few rows, a decode step or the tokens of a verify, is bound by reading the weights once
and by the number of launches. The kernels in `kernels/` keep stock's rounding points and read the
weights where SGLang holds them.

hooks         the SGLang symbols that it replaces, and when
stages        the steps of a layer that can be given back to stock, one by one
proved        where they are on without being asked for
updates       what is derived of weights, when they are updated
trials        what was not measured and can be switched on to be
conditions    on what it serves at all; exclusions: not with which flags
preparation   from SGLang's model to the layers here; made_up, selfcheck: these against stock's
rehearsal     what these launch, compiled ahead; reference: what stock's FP8 products are to them
ahead         how: by processes (compile_pool, compile_server, compile_job), or in threads
cuda_modules  SGLang's CUDA kernels, compiled meanwhile; prefill_products: for prefills
ranks         what those of tensor parallelism add up and agree on
dispatch      which pass is served here; layers: by which steps
kernel_table  what SGLang's objects are to the kernels; kernels, device: the kernels themselves
"""

__all__ = ["exclusions", "hooks", "proved", "sizes", "stages", "trials"]
