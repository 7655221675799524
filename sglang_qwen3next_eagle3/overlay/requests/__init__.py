"""What a request may ask for, and that speculation does not change what it gets.

SGLang 0.5.17 lets some requests end its scheduler, and answers others differently with speculation
than without. Each module mends one cause, for CPU and GPU alike: `admission` what may come in,
`access` from whom, `bounds` and `body` how much of it, `room` how long it may become, `choices`
several answers, `endings` where an answer ends, `penalties` what depends on what was said, `min_p`
what is too unlikely, `logprobs` what is told of single tokens. `hooks` names the symbols.
"""

__all__ = ["bounds", "hooks"]
