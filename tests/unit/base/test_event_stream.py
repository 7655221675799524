from sglang_qwen3next_eagle3.base.event_stream import EventData

STREAM = (
    ": a comment\r\n\r\nevent: x\r\n"
    'data: {"text": "a\u2028b\u2029c\x85d"}\n\ndata:{"text": "né"}\r\n\r\ndata: [DONE]\n\n'
).encode()
EXPECTED = ['{"text": "a\u2028b\u2029c\x85d"}', '{"text": "né"}', "[DONE]"]


def test_events_are_the_same_wherever_the_stream_is_cut() -> None:
    for size in (1, 2, 7, len(STREAM)):
        events, found = EventData(), []
        for start in range(0, len(STREAM), size):
            found += [data.decode() for data in events.feed(STREAM[start : start + size])]
        assert found == EXPECTED


def test_a_line_that_is_not_whole_is_not_given() -> None:
    events = EventData()
    assert list(events.feed(b"data: {")) == []
    assert list(events.feed(b"}\n")) == [b"{}"]
    assert list(events.feed(b"data: cut")) == []
