"""One streamed request, as the server's bytes come."""

import asyncio
import json

import httpx

from sglang_qwen3next_eagle3.bench.load import ask


def test_characters_at_which_python_ends_a_line_are_part_of_an_event() -> None:
    meta = {"completion_tokens": 1, "prompt_tokens": 2, "finish_reason": {"type": "stop"}}
    event = {"text": "a\u2028b\u2029c\x85d", "output_ids": [7], "meta_info": meta}
    content = f"data: {json.dumps(event, ensure_ascii=False)}\n\ndata: [DONE]\n\n".encode()

    async def asked() -> tuple[int, ...]:
        transport = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
        async with httpx.AsyncClient(transport=transport) as http:
            return (await ask(http, "http://host", "p", [1, 2], {})).output_ids

    assert asyncio.run(asked()) == (7,)
