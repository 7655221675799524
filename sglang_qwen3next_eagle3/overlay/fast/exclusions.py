"""The flags of SGLang with which the fast path does not serve, as data: a launch asks of a command
line, a server of its arguments. Importing this loads neither torch nor sglang.

Names are those of `ServerArgs`.
"""

from typing import Final

SINGLE: Final = ("pp_size", "dp_size", "ep_size", "dcp_size", "attn_cp_size", "moe_dp_size")
"""More than one of them is another parallelism than that of tensors."""
SWITCHES: Final = (
    "enable_dp_attention", "enable_lora", "enable_deterministic_inference",
    "enable_two_batch_overlap", "enable_single_batch_overlap", "enable_pdmux",
    "enable_page_major_kv_layout", "enable_unified_memory", "enable_eplb", "enable_hisparse",
    "enable_return_routed_experts", "enable_torch_compile", "debug_cuda_graph",
    "enable_linear_replayssm", "enable_linear_replayssm_spec", "rl_on_policy_target",
    "expert_distribution_recorder_mode", "disable_shared_experts_fusion",
    "ep_num_redundant_experts", "enable_attn_tp_input_scattered", "enable_quant_communications",
    "enable_symm_mem", "enable_memory_saver",
)  # fmt: skip
"""What is set of them excludes it."""
NEWER: Final = ("enable_paged_experts", "enable_nvidia_megakernel", "enable_layernorm_sp")
"""The same of flags that 0.5.17 does not have."""


def flag(name: str) -> str:
    """As a command line has it."""
    return "--" + name.replace("_", "-")
