"""A suite of two prompts, and its records as they are read."""

from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.bench.suites import Suite, prompts

ROWS = [{"id": "a", "word": "one"}, {"id": "b", "word": "two"}]


def suite(*files: dict[str, Any], **source: Any) -> Suite:
    return Suite.model_validate(
        {
            "name": "ours",
            "description": "",
            "licence": "",
            "source": {"files": files, **source},
            "prompt": {"id": "id", "template": "{word}"},
            "temperature": 0,
            "max-tokens": 8,
            "sample-count": None,
            "seed": 0,
        }
    )


def fields(suite: Suite, folder: Path | None) -> list[dict[str, Any]]:
    return [dict(record.fields) for record in prompts.read_records(suite, folder).records]
