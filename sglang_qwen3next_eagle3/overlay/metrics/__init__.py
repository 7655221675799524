"""What SGLang's `/metrics` lacks about a target with a draft head, beside SGLang's own metrics.

`table` names every metric and says what it means, `counts` is the arithmetic, `cycle_costs` what a
cycle was measured to take, `families` makes prometheus_client objects of them, `hooks` names the
SGLang symbols that they are read from. With `--enable-metrics` off nothing of this is loaded.
"""

__all__ = ["cycle_costs", "hooks"]
