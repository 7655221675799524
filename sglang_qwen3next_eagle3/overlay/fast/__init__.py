"""Our own kernels for passes of few rows, and where they stand in for stock SGLang's.

A pass of up to `device.MAX_ROWS` rows (a decode step, or the tokens of a verify) is bound by
reading the weights once and by the number of launches. The kernels in `kernels/` keep stock's
rounding points and read the weights where SGLang holds them.
"""
