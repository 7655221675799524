"""Everything that knows SGLang's insides. Nothing outside this package imports `sglang.srt`."""
