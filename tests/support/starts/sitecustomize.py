"""Python imports this before all else where the Makefile puts its folder on PYTHONPATH.

To import SGLang takes a process twenty seconds, a fifth of them in the collector of cyclic garbage,
which finds nothing: what is imported stays.
"""

import gc

gc.set_threshold(20_000, 20, 20)
