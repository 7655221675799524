"""The seams of a cycle against the functions of the installed SGLang, on a CPU.

The kernels run in Triton's interpreter (`TRITON_INTERPRET=1`), on random batches; the requests of
two ranks go over gloo, through SGLang's own receiver. Prints a line for each that holds, of the
seams that this release's manifest lists.
"""

import multiprocessing
import random
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from sglang.srt.layers.attention.triton_backend import TritonAttnBackend
from sglang.srt.managers.overlap_utils import FutureMap, RelayPayload
from sglang.srt.managers.scheduler_components import request_receiver
from sglang.srt.managers.scheduler_components.request_receiver import SchedulerRequestReceiver
from sglang.srt.mem_cache import allocation, allocation_sizing
from sglang.srt.speculative import eagle_utils, spec_utils
from torch import distributed

from sglang_qwen3next_eagle3.overlay import contract, variants
from sglang_qwen3next_eagle3.overlay.hooks import apply
from sglang_qwen3next_eagle3.overlay.seams import broadcasts, hooks, kernels, launches, seams

POOL = 24
TURNS = 600


def accepted(batch: int, depth: int, draft_tokens: int, chance: random.Random) -> tuple[Any, Any]:
    """Nodes of the whole batch on accepted paths, and how many of each request's they are."""
    lens = [chance.randint(1, depth) for _ in range(batch)]
    index = torch.full((batch, depth), -1, dtype=torch.int32)
    for request, count in enumerate(lens):
        nodes = [0, *sorted(chance.sample(range(1, draft_tokens), count - 1))]
        index[request, :count] = torch.tensor(nodes) + request * draft_tokens
    return index, torch.tensor(lens, dtype=torch.int32)


def check_commit(chance: random.Random) -> int:
    done = 0
    for depth, draft_tokens in ((4, 4), (4, 8), (2, 2), (7, 8), (6, 32)):
        for batch in (1, 2, 7):
            for interval in (None, 4, 64, 256):
                index, lens = accepted(batch, depth, draft_tokens, chance)
                seq_lens = torch.tensor([chance.randint(1, 600) for _ in range(batch)])
                tracked = None if interval is None else torch.zeros(batch, dtype=torch.int64)
                of = SimpleNamespace(seq_lens=seq_lens, mamba_track_indices=tracked)
                mamba = SimpleNamespace(mamba_track_interval=interval)
                spec_utils.get_exec = lambda mamba=mamba: SimpleNamespace(mamba=mamba)
                theirs = spec_utils._verify_commit_step_indices(
                    batch=of, accept_index=index, accept_lens=lens, draft_token_num=draft_tokens
                )
                ours = kernels.commit_steps(index, lens, seq_lens, draft_tokens, interval)
                for stock, own in zip(theirs, ours, strict=True):
                    assert (stock is None) == (own is None)
                    assert stock is None or torch.equal(stock, own), (stock, own)
                    assert stock is None or stock.dtype == own.dtype
                done += 1
    return done


def relay(need_topk: bool, need_hidden: bool) -> Any:
    """SGLang's buffers, made by itself, for heads of 4 drafts and 70 wide."""
    made = object.__new__(FutureMap)
    made.spec_algo = SimpleNamespace(
        is_ngram=lambda: False, is_some=lambda: True, need_topk=lambda: need_topk
    )
    made.req_pool_size, made.device = POOL, "cpu"
    made._forward_buf_initialized, made.dsa_topk_indices_buf = False, None
    made.need_topk = made.need_hidden_states = False
    made._relay = made.draft_probs_buf = None
    made.output_tokens_buf = torch.zeros(POOL, dtype=torch.int64)
    spec_utils.spec_need_hidden_states = lambda: need_hidden
    return made


def left(batch: int, generator: torch.Generator) -> RelayPayload:
    return RelayPayload(
        bonus_tokens=torch.randint(1000, (batch,), generator=generator, dtype=torch.int32),
        topk_p=torch.rand((batch, 4), generator=generator),
        topk_index=torch.randint(1000, (batch, 4), generator=generator),
        hidden_states=torch.rand((batch, 70), generator=generator).bfloat16(),
    )


def check_stash(chance: random.Random) -> int:
    generator = torch.Generator().manual_seed(1)
    done = 0
    for need_topk, need_hidden in ((True, True), (True, False)):
        stock, own = relay(need_topk, need_hidden), relay(need_topk, need_hidden)
        for each in (stock, own):
            each.stash(torch.tensor([0]), left(1, generator))
            for name in ("output_tokens", "topk_p", "topk_index", "hidden_states"):
                rows = getattr(each, f"{name}_buf", None)
                if rows is not None:
                    rows.zero_()
        for batch in (1, 2, 9):
            payload = left(batch, generator)
            places = torch.tensor(chance.sample(range(POOL), batch))
            stock.stash(places, payload)
            pairs = launches._pairs(own, payload)
            assert pairs is not None
            assert len(pairs) == 1 + 2 * need_topk + need_hidden
            kernels.scatter_rows(places, pairs)
            for source, target in launches._pairs(stock, payload) or ():
                (mine,) = (to for of, to in pairs if of is source)
                assert torch.equal(target, mine)
                assert target.count_nonzero()
            done += 1
    return done


def backend(window: int | None = None) -> Any:
    """A Triton backend's buffers, with traces of an earlier batch in them."""
    made = object.__new__(TritonAttnBackend)
    made.device, made.num_draft_tokens = "cpu", 8
    made.sliding_window_size, made.window_kv_indptr = window, None
    made.req_to_token = torch.arange(POOL * 1300, dtype=torch.int32).reshape(POOL, 1300) * 3
    made.kv_indptr = torch.full((POOL + 1,), 7, dtype=torch.int32)
    made.qo_indptr = torch.full((POOL + 1,), 7, dtype=torch.int64)
    made.mask_indptr = torch.full((POOL + 1,), 7, dtype=torch.int64)
    for first in (made.kv_indptr, made.mask_indptr):
        first[0] = 0  # is never written
    made.cuda_graph_kv_indices = torch.full((POOL * 1300,), -1, dtype=torch.int64)
    buffer = torch.zeros(8 * POOL * 1300, dtype=MASKED)
    made._verify_mask = SimpleNamespace(buffer=buffer)
    if NEWER:
        made.target_verify_num_tokens_per_req, made.dcp_size = 8, 1
        made.kv_index_translator = translator(made.req_to_token)
    return made


NEWER = variants.has_layer_boundaries()
MASKED = torch.uint8 if NEWER else torch.bool
"""What a mask is of, in the backend."""


def translator(table: Any, translates: bool = False) -> Any:
    """SGLang's, of a pool whose slots are read as they are, or of one that translates them."""
    from sglang.srt.mem_cache.kv_index_translator import KVIndexTranslator

    made = object.__new__(KVIndexTranslator)
    made.req_to_token, made.is_translating, made._spaces = table, translates, {}
    return made


def in_verify(batch: int, seq_lens: Any, places: Any, spec_info: Any) -> tuple[Any, ...]:
    """What a backend is given before the graph of a verify."""
    if NEWER:
        return None, batch, seq_lens, spec_info, places
    return batch, seq_lens, places, spec_info


def in_extend(batch: int, seq_lens: Any, places: Any, spec_info: Any) -> tuple[Any, ...]:
    """The same before that of a draft extend."""
    mode = SimpleNamespace(is_draft_extend_v2=lambda: True)
    if NEWER:
        return None, batch, seq_lens, mode, spec_info, places
    return batch, seq_lens, places, mode, spec_info


BUFFERS = ("kv_indptr", "qo_indptr", "mask_indptr", "cuda_graph_kv_indices")


def same(theirs: Any, ours: Any, stock: Any, own: Any) -> None:
    for name in BUFFERS:
        assert torch.equal(getattr(stock, name), getattr(own, name)), name
    assert len(theirs) == len(ours)
    for expected, found in zip(theirs, ours, strict=True):
        if isinstance(expected, torch.Tensor):
            assert torch.equal(expected, found)
            assert expected.dtype == found.dtype
        else:
            assert expected == found


def check_metadata(chance: random.Random) -> int:
    done = 0
    launches._is_ours = lambda *tensors: True  # on a CPU, in the interpreter
    verify = TritonAttnBackend._update_target_verify_buffers
    extend = TritonAttnBackend._update_draft_extend_buffers
    for batch in (1, 2, 5, 16):
        for kind in (torch.int64, torch.int32):
            lens = [chance.choice([1, 3, 511, 512, 513, 1025]) for _ in range(batch)]
            of = (
                batch,
                torch.tensor(lens, dtype=kind),
                torch.tensor(chance.sample(range(POOL), batch)),
            )
            for tokens in (None, 4, 8):
                stock, own = backend(), backend()
                info = [
                    SimpleNamespace(
                        draft_token_num=tokens,
                        num_tokens_per_req=tokens or -1,
                        custom_mask=each._verify_mask.buffer,
                    )
                    for each in (stock, own)
                ]
                theirs = verify(stock, *in_verify(*of, info[0]))
                ours = launches.verify_metadata(built_not, own, *in_verify(*of, info[1]))
                same(theirs, ours, stock, own)
            stock, own = backend(), backend()
            theirs = verify(stock, *in_verify(*of, None))
            ours = launches.verify_metadata(built_not, own, *in_verify(*of, None))
            same(theirs, ours, stock, own)
            for taken in (None, torch.full((batch,), 8, dtype=torch.int32)):
                stock, own = backend(), backend()
                spec = SimpleNamespace(extend_seq_lens_tensor=taken)
                theirs = extend(stock, *in_extend(*of, spec))
                ours = launches.extend_metadata(built_not, own, *in_extend(*of, spec))
                same(theirs, ours, stock, own)
            done += 1
    # What is not plain is SGLang's: a window, a mask that lies somewhere else, translated slots.
    asked: list[Any] = []

    def original(*args: Any) -> None:
        asked.append(args)

    one = 1, torch.tensor([5]), torch.tensor([1])
    elsewhere = SimpleNamespace(draft_token_num=4, custom_mask=torch.ones(36, dtype=MASKED))
    left = [(backend(window=128), None), (backend(), elsewhere)]
    if NEWER:
        left.append((backend(), None))
        left[-1][0].kv_index_translator = translator(left[-1][0].req_to_token, translates=True)
    for each, spec in left:
        launches.verify_metadata(original, each, *in_verify(*one, spec))
    launches.extend_metadata(original, backend(window=128), *in_extend(*one, None))
    assert [each for each, *_ in asked] == [*(each for each, _ in left), asked[-1][0]]
    return done


def check_chain(chance: random.Random) -> int:
    """Against SGLang's own kernel in Triton, which stands for its CUDA one on another GPU."""
    of_trees: Any = (
        sys.modules["sglang.kernels.ops.speculative.spec_tree"] if NEWER else eagle_utils
    )
    of_trees._is_cpu, of_trees._is_xpu = False, True
    launches._is_ours = lambda *tensors: True  # on a CPU, in the interpreter
    built = eagle_utils.build_tree_kernel_efficient
    chains = launches.Chains()
    done = 0
    for steps in (1, 2, 3, 7):
        for batch in (1, 2, 5):
            for fills in (True, False):
                nodes = steps + 1
                lens = torch.tensor([chance.choice([1, 7, 300, 2049]) for _ in range(batch)])
                bonus = torch.randint(999, (batch,), dtype=torch.int32)
                drafts = torch.randint(999, (batch, steps))
                parents = torch.arange(-1, steps - 1).repeat(batch, 1)
                order = torch.arange(steps).repeat(batch, 1)
                cells = int((nodes * (lens + nodes)).sum())
                results = []
                for build in (built, lambda *of, **to: chains.around(built_not, *of, **to)):
                    mask = torch.zeros(cells + 50, dtype=MASKED)
                    words = bonus, parents, order, drafts, lens, 0, 1, steps, nodes
                    mode = eagle_utils.TreeMaskMode.FULL_MASK
                    results.append(build(*words, mode, mask, fill_prefix_mask=fills))
                (mask, *theirs), (own, *ours) = results
                # SGLang fills the whole buffer; behind the batch nobody reads.
                assert torch.equal(mask[:cells], own[:cells])
                assert own[:cells].any()
                for stock, found in zip(theirs, ours, strict=True):
                    assert torch.equal(stock, found)
                    assert stock.dtype == found.dtype
                done += 1
    tree = (torch.ones(1), None, None, torch.ones(1, 12), torch.ones(1), 0, 4, 3, 8)
    assert chains.around(lambda *of, **to: "SGLang", *tree, 0, torch.ones(1)) == "SGLang"
    return done


def asking(lens: list[tuple[int, int]], places: list[int]) -> Any:
    """A batch of requests that have so many places, so many of them filled."""
    taken = iter(range(1000, 10**6))

    def alloc(count: int) -> Any:
        return torch.tensor([next(taken) for _ in range(count)])

    requests = [
        SimpleNamespace(kv=SimpleNamespace(kv_allocated_len=held), decode_batch_idx=2)
        for held, _ in lens
    ]
    for request, (_, filled) in zip(requests, lens, strict=True):
        (request.kv if NEWER else request).kv_committed_len = filled
    allocator = SimpleNamespace(page_size=1, alloc=alloc)
    return SimpleNamespace(
        reqs=requests,
        batch_size=lambda: len(requests),
        maybe_evict_swa=lambda: None,
        sampling_info=SimpleNamespace(penalizer_orchestrator=SimpleNamespace(is_required=False)),
        token_to_kv_pool_allocator=allocator,
        tree_cache=SimpleNamespace(token_to_kv_pool_allocator=allocator),
        req_to_token_pool=SimpleNamespace(
            req_to_token=torch.full((POOL, 900), -1, dtype=torch.int32)
        ),
        req_pool_indices=torch.tensor(places),
        device="cpu",
        seq_lens_cpu=None,
        max_seq_len_host=None,
        hisparse_coordinator=None,
    )


def check_slots(chance: random.Random) -> int:
    allocation.evict_from_tree_cache = lambda cache, count: None
    allocation_sizing.get_alloc_reserve_per_decode = lambda: 16
    eagle_utils.get_alloc_reserve_per_decode = lambda: 16
    eagle_utils.get_spec = lambda: SimpleNamespace(speculative_eagle_topk=1)
    launches._is_ours = lambda *tensors: True  # on a CPU, in the interpreter
    done = 0
    for batch in (1, 1, 1, 2, 5, 16):
        for most in (0, 16, 300):
            filled = [chance.randint(1, 500) for _ in range(batch)]
            lens = [(chance.randint(max(0, each - most + 16), each + 20), each) for each in filled]
            places = chance.sample(range(POOL), batch)
            stock, own = asking(lens, places), asking(lens, places)
            eagle_utils.eagle_prepare_for_decode(stock)
            launches.slots(built_not, own)
            tables = [each.req_to_token_pool.req_to_token for each in (stock, own)]
            assert torch.equal(*tables)
            for theirs, ours in zip(stock.reqs, own.reqs, strict=True):
                assert theirs == ours
            assert stock.max_seq_len_host == own.max_seq_len_host
            done += 1
    paged = asking([(4, 4)], [1])
    paged.token_to_kv_pool_allocator.page_size = 64
    asked: list[Any] = []
    launches.slots(asked.append, paged)
    assert asked == [paged]
    return done


def built_not(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("left to SGLang")


def requests_of(turn: int) -> list[dict[str, Any]]:
    chance = random.Random(turn // 2)
    return [{"turn": turn, "ids": list(range(turn))}] if chance.random() < 0.1 else []


def decided_in(turn: int) -> list[dict[str, Any]]:
    """What the first rank of a newer SGLang has decided on itself."""
    return [{"aborts": turn}] if NEWER and turn % 37 == 5 else []


def rank(number: int, folder: str, counts: Any) -> None:
    """A receiver's turns; what it has received is compared with what the first rank had."""
    store = distributed.FileStore(f"{folder}/store", 2)  # type: ignore[attr-defined]
    distributed.init_process_group(
        "gloo", store=store, rank=number, world_size=2, timeout=timedelta(seconds=120)
    )
    group = distributed.new_group([0, 1], backend="gloo")
    ps = SimpleNamespace(tp_rank=number, tp_size=2, pp_rank=0, pp_size=1)
    tp_group = SimpleNamespace(rank=number, ranks=[0, 1], cpu_group=group)
    if NEWER:
        parallel = SimpleNamespace(attn_dp_enabled=False, tp_group=tp_group, **vars(ps))
    else:
        parallel = SimpleNamespace(enable_dp_attention=False)
    request_receiver.get_parallel = lambda: parallel
    runtime = sys.modules["sglang.srt.runtime_context"]
    runtime.get_parallel = lambda: parallel  # type: ignore[attr-defined]
    broadcasts = 0
    original = request_receiver.broadcast_pyobj

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal broadcasts
        broadcasts += 1
        return original(*args, **kwargs)

    request_receiver.broadcast_pyobj = counted
    fields: dict[str, Any] = dict.fromkeys(SchedulerRequestReceiver.__dataclass_fields__)
    fields["server_args"] = SimpleNamespace(nnodes=1)
    if not NEWER:
        fields |= {"ps": ps, "tp_group": tp_group, "tp_cpu_group": group}
    receiver = SchedulerRequestReceiver(**fields)
    chance = random.Random(number)
    for turn in range(TURNS):
        if chance.random() < 0.02:
            time.sleep(chance.random() / 200)
        mine = requests_of(turn) if number == 0 else None
        decided = ([] if number else decided_in(turn),) if NEWER else ()
        found = receiver._broadcast_reqs_across_ranks(mine, *decided)
        assert found == requests_of(turn) + decided_in(turn), turn
    counts.put(broadcasts)
    distributed.barrier()


def check_requests() -> str:
    apply(hooks.hooks(frozenset({"requests"})))
    fork = multiprocessing.get_context("fork")
    counts = fork.Queue()
    with tempfile.TemporaryDirectory() as folder:
        # Others on this machine may be serving in the folder that all share.
        broadcasts._SHARED = shared = Path(folder, "shared")
        shared.mkdir()
        ranks = [fork.Process(target=rank, args=(each, folder, counts)) for each in range(2)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(200)
            assert process.exitcode == 0, process.exitcode
        assert not list(shared.iterdir()), "nothing is left"
    some = sum(bool(requests_of(turn) or decided_in(turn)) for turn in range(TURNS))
    assert [counts.get(), counts.get()] == [some, some], "no empty list was broadcast"
    return f"{TURNS} turns, {some} with requests"


def main() -> None:
    assert Path(kernels.__file__).is_file()
    installed = contract.installed_sglang()
    assert installed is not None
    listed = contract.read_manifest(installed.release).hooked("seams")
    ours = hooks.served(frozenset(seams.ALL), listed)
    chance = random.Random(3)
    checks = {
        "commit": check_commit,
        "relay": check_stash,
        "metadata": check_metadata,
        "chain": check_chain,
        "slots": check_slots,
    }
    for name, check in checks.items():
        if name in ours:
            print(f"{name}: {check(chance)} batches", flush=True)
    print("requests:", check_requests(), flush=True)


if __name__ == "__main__":
    main()
