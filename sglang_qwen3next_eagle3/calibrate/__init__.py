"""`head calibrate`: which auxiliary layers was a head trained with? Measured, not assumed.

options.py  what is asked for, without torch
run.py      from the options to what is kept
source.py   what it is measured on
answers.py  the target's own answers to prompts
states.py   the target's streams over prompts, once, prompt by prompt on disk
scoring.py  how well a head drafts from a selection of them
search.py   coordinate descent over the streams of each slot
verdict.py  which selection it is, and how sure that is
report.py   the figures, and their table
"""

from sglang_qwen3next_eagle3.calibrate.run import CalibrationOptions, calibrate

__all__ = ["CalibrationOptions", "calibrate", "report"]
