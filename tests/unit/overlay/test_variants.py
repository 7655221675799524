from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_qwen3next_eagle3.overlay import contract, variants
from sglang_qwen3next_eagle3.overlay.contract import Installed


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    variants.has_layer_boundaries.cache_clear()
    yield
    variants.has_layer_boundaries.cache_clear()


def test_arguments_are_published_where_a_release_reads_them_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = Installed("0.5.23", Path())
    monkeypatch.setattr(contract, "installed_sglang", lambda: installed)
    done: list[Any] = []
    one_batch = SimpleNamespace(
        spawn_world_rank=lambda arguments, tp_rank, pp_rank: 10 * pp_rank + tp_rank,
        SpawnRanks=lambda world_rank, gpu_id: (world_rank, gpu_id),
        publish=lambda arguments, role, ranks: done.append((arguments, role, ranks)),
        _init_process_global_configs=lambda: done.append("configured"),
    )
    variants.publish(one_batch, "arguments", 3)
    assert done == [("arguments", "scheduler", (3, 3)), "configured"]


@pytest.mark.parametrize("installed", [Installed("0.5.17", Path()), None])
def test_elsewhere_there_is_nothing_to_publish(
    monkeypatch: pytest.MonkeyPatch, installed: Installed | None
) -> None:
    monkeypatch.setattr(contract, "installed_sglang", lambda: installed)
    variants.publish(SimpleNamespace(), "arguments", 0)


@pytest.fixture(params=["0.5.17", "0.5.23"])
def release(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    installed = Installed(request.param, Path())
    monkeypatch.setattr(contract, "installed_sglang", lambda: installed)
    return installed.release


def test_what_a_backend_is_given_before_a_graph_is_read_in_the_order_of_its_release(
    release: str,
) -> None:
    in_verify = {
        "0.5.17": ("requests", "lengths", "places", "info"),
        "0.5.23": ("plan", "requests", "lengths", "info", "places"),
    }
    in_extend = {
        "0.5.17": ("requests", "lengths", "places", "mode", "info"),
        "0.5.23": ("plan", "requests", "lengths", "mode", "info", "places"),
    }
    expected = ("requests", "lengths", "places", "info")
    assert variants.host().of_verify(in_verify[release]) == expected
    assert variants.host().of_draft_extend(in_extend[release]) == (*expected, "mode")


def test_a_relay_that_makes_its_rows_by_itself_does_so_first(release: str) -> None:
    asked: list[Any] = []
    relay = SimpleNamespace(
        _forward_buf_initialized=False, _maybe_init_forward_bufs=asked.append, _relay=None
    )
    assert variants.host().has_relay_rows(relay, "payload") is (release == "0.5.23")
    assert asked == (["payload"] if release == "0.5.23" else [])
    relay._forward_buf_initialized, relay._relay = True, "rows that a graph fills"
    assert variants.host().has_relay_rows(relay, "payload") is (release == "0.5.17")


def test_slots_that_are_translated_are_not_read_as_they_are(release: str) -> None:
    backend = SimpleNamespace(kv_index_translator=SimpleNamespace(is_translating=True))
    assert variants.host().reads_slots_as_they_are(backend) is (release == "0.5.17")
    backend.kv_index_translator.is_translating = False
    assert variants.host().reads_slots_as_they_are(backend)


def test_the_longest_row_is_told_where_lengths_are_on_the_gpu_alone(release: str) -> None:
    for lengths in (None, "on the host"):
        batch = SimpleNamespace(seq_lens_cpu=lengths, max_seq_len_host=None)
        variants.host().tell_longest(batch, [3, 9, 4])
        told = release == "0.5.23" and lengths is None
        assert batch.max_seq_len_host == (9 if told else None)


def test_the_event_of_a_cycles_last_reader_is_where_a_release_has_it(release: str) -> None:
    names = {
        "0.5.17": ("war_fastpath_runner", "war_fastpath_read_done_event"),
        "0.5.23": ("last_shared_read_runner", "shared_read_done_event"),
    }
    of_worker, of_runner = names[release]
    runner = SimpleNamespace(**{of_runner: None})
    host = variants.host()
    assert host.last_reader(SimpleNamespace(**{of_worker: runner})) is runner
    assert host.read_done(runner) is None
    host.say_read_done(runner, "an event")
    assert host.read_done(runner) == vars(runner)[of_runner] == "an event"


def test_what_a_prefill_tracked_is_forgotten_in_every_field_that_a_release_has(
    release: str,
) -> None:
    batch = SimpleNamespace()
    variants.host().forget_tracking(batch)
    fields = {"mamba_track_mask", "mamba_track_seqlens"}
    if release == "0.5.23":
        fields |= {"mamba_prefill_track_mask_cpu", "mamba_track_seqlens_cpu"}
    assert vars(batch) == dict.fromkeys(fields)


def test_a_relay_that_a_graph_fills_is_not_recorded_with(release: str) -> None:
    relay = SimpleNamespace(_forward_buf_initialized=release == "0.5.17", _relay=None)
    assert variants.host().is_relay_made(relay)
    relay._forward_buf_initialized, relay._relay = False, "rows that a graph fills"
    assert not variants.host().is_relay_made(relay)


def test_layers_hand_on_what_those_of_their_release_take(release: str) -> None:
    between = variants.boundaries()
    arguments = {"hidden_states": "hidden", "residual": "stream"}
    assert between.taken(arguments) == ("hidden", "stream" if release == "0.5.17" else None)
    returned = between.returned("hidden", "stream")  # type: ignore[arg-type]
    assert returned == (("hidden", "stream") if release == "0.5.17" else "hidden")
    assert variants.draft_extend_reads_alone() is (release == "0.5.23")


def test_arguments_are_a_runners_own_where_nothing_is_resolved_beside_them() -> None:
    runner = SimpleNamespace(server_args="as they were read")
    assert variants.arguments_of(runner) == "as they were read"
