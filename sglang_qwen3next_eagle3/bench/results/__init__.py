"""What was measured: samples and figures, the folder that keeps passes, cells of repetitions."""

__all__ = ["cycles", "journal", "metrics", "records", "summary"]
