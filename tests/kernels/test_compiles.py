"""The dense kernels compile for sm_90, which needs no GPU; the interpreter accepts more than that.

In a process of its own, since the others of this folder have Triton interpret.
"""

import os
import subprocess
import sys

PROGRAM = """
from triton import compile
from triton import language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sglang_qwen3next_eagle3.overlay.fast.kernels import (
    lm_head, norm_quantize, skinny_gemm, wide_gemm,
)

def compiled(kernel, pointers, warps, scalars=(), **constants):
    types = {name: "constexpr" for name in constants}
    types |= {name: dtype for dtype, names in pointers.items() for name in names.split()}
    types |= dict(scalars)
    order = kernel.arg_names
    whole = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(order) if types[n][0] == "*"}
    source = ASTSource(
        fn=kernel,
        signature={name: types[name] for name in order},
        constexprs={(order.index(name),): value for name, value in constants.items()},
        attrs=whole,
    )
    return compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps}).asm

def product(kernel, fp8, extra_n, **constants):
    bf16 = "out extra_x extra_weight extra_out"
    operands = {"*fp8e4nv": "x weight", "*bf16": bf16} if fp8 else {"*bf16": "x weight " + bf16}
    operands |= {"*fp32": "x_scales weight_scales"}
    return compiled(
        kernel, operands, 2, {"T": "i32", "N": "i32"},
        EXTRA_N=extra_n, K=256, FP8=fp8, PDL=True, **constants,
    )

def skinny(fp8, tiles, extra_n):
    return product(
        skinny_gemm._skinny_gemm, fp8, extra_n, ROWS=16, SHARES=2, SHARE=128, TILES=tiles,
        MASKED=False, EXTRA_PASSES=1, TIMES=1,
    )

def wide(extra_n):
    return product(
        wide_gemm._wide_gemm, True, extra_n, EXTRA_TILE=16, TILE=32, TOKENS=64, BLOCK=128,
        STAGES=2, TIMES=2, DOT=tl.bfloat16,
    )

def loads_bf16(asm):
    return any("tt.load" in line and "bf16" in line for line in asm["ttir"].splitlines())

for fp8, tiles in ((True, 1), (True, 2), (False, 1)):
    asm = skinny(fp8, tiles, 0)
    loads, waiting = asm["ptx"].index("ld.global"), asm["ptx"].index("griddepcontrol.wait")
    assert loads < waiting, "weights are asked for before the kernel waits"
    before = asm["ptx"][loads : asm["ptx"].rindex("mma.sync")]
    for word in ("shfl", "st.shared", "ld.shared"):
        assert word not in before, "operands are not in the threads that multiply them"
    # The compiler sees no programs of a second weight, which is bf16, where there is none: with
    # fp8 weights most of its time went into them.
    assert loads_bf16(asm) is not fp8
assert loads_bf16(skinny(True, 1, 16))
assert [loads_bf16(wide(extra_n)) for extra_n in (0, 16)] == [False, True]

compiled(
    norm_quantize._add_norm_quantize,
    {"*bf16": "hidden residual weight residual_out normed_out gate gated_out",
     "*fp8e4nv": "codes_out", "*fp32": "scales_out"},
    4, {"eps": "fp32"}, D=256, GROUPS=2, ADD=True, QUANTIZE=True, GATE=True, PDL=True,
)
compiled(
    lm_head._largest_of_part,
    {"*bf16": "logits", "*fp32": "values", "*i32": "indices"},
    4, {"V": "i32", "PART": "i32"}, BLOCK=1024, PDL=True,
)
compiled(
    lm_head._largest_of_parts,
    {"*fp32": "values", "*i32": "indices", "*i64": "out"}, 1, SPLITS=32, PDL=True,
)
"""


def test_operands_of_the_tensor_cores_are_loaded_as_they_are() -> None:
    """No weight changes its layout on the way: that is what the kernel is fast by. And nothing is
    compiled that nobody calls."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
