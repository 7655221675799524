#!/usr/bin/env bash
# What only four GPUs can show, step by step: benchmarks/four-gpus.sh OUT
#
#   refuse     FP8 at TP 8 is refused before anything is loaded (no GPU)
#   parallel   tests/gpu/test_tensor_parallel.py on the demo pair, TP 2 against TP 1
#   speed-bf16 the card's profiles, no speculation and MTP at TP 4: dummy weights, simulated acceptance
#   speed-fp8  no speculation and b1 at TP 4, likewise
#   router     two replicas at TP 2 behind SGLang's router under load, against one of them
#   card       the card's tables with real weights; needs TARGET and HEAD
#
# A step that is done is not done again, and `bench` goes on where it was stopped: the same command
# resumes. STEPS="refuse router" chooses; a chosen step that fails ends the script.
# TARGET, HEAD: real checkpoints (folder or hub name) for router and card; without them router serves
# the demo pair. DATA_DIR: the suites' files. LIMIT: prompts of a suite. DRY_RUN=1 prints the commands.
set -euo pipefail

OUT=${1:?usage: benchmarks/four-gpus.sh OUT}
PYTHON=${PYTHON:-python}
STEPS=${STEPS:-refuse parallel speed-bf16 speed-fp8 router card}
TARGET=${TARGET:-} HEAD=${HEAD:-} DATA_DIR=${DATA_DIR:-} LIMIT=${LIMIT:-} DRY_RUN=${DRY_RUN:-}
ROUTER_PYTHON=${ROUTER_PYTHON:-$PYTHON} # sglang-router is a package of its own: pip install sglang-router
POLICY=${POLICY:-round_robin}
PORTS=(31001 31002) ROUTER_PORT=31000
# The card's configuration does not use NVLink multicast, and on shared hosts it does harm.
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}
export TORCH_SYMM_MEM_DISABLE_MULTICAST=${TORCH_SYMM_MEM_DISABLE_MULTICAST:-1}
export NVSHMEM_DISABLE_NVLS=${NVSHMEM_DISABLE_NVLS:-1}
export SGLANG_ENABLE_JIT_DEEPGEMM=${SGLANG_ENABLE_JIT_DEEPGEMM:-0}

mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
cd "$(dirname "$0")/.."
VERB=("$PYTHON" -m sglang_qwen3next_eagle3)
limit=() data=()
[ -z "$LIMIT" ] || limit=(--limit "$LIMIT")
[ -z "$DATA_DIR" ] || data=(--data-dir "$DATA_DIR")

show() { printf '+'; printf ' %q' "$@"; printf '\n'; }
run() { show "$@"; [ -n "$DRY_RUN" ] || "$@"; }

# run_to LOG COMMAND...: its output to the terminal and to OUT/LOG.
run_to() {
  local log=$1
  shift
  show "$@"
  [ -n "$DRY_RUN" ] || "$@" 2>&1 | tee "$OUT/$log"
}

describe() {
  [ -z "$DRY_RUN" ] || return 0
  {
    date -u +%FT%TZ
    git rev-parse HEAD 2>/dev/null || true
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
    nvidia-smi topo -m
    "$PYTHON" -m pip list 2>/dev/null | grep -iE '^(sglang|torch|triton|flashinfer|transformers)'
    env | grep -E '^(NCCL|TORCH_SYMM|NVSHMEM|SGLANG)_' | sort
  } >"$OUT/environment.txt" 2>&1 || true
}

step_refuse() {
  run "$PYTHON" -c "import pathlib, sys
from sglang_qwen3next_eagle3.bench.trees import synthetic
synthetic.write_target(pathlib.Path(sys.argv[1]), 'fp8')" "$OUT/fp8-config"
  show "${VERB[@]}" launch --profile h200-fp8 --target "$OUT/fp8-config" --tp 8
  [ -z "$DRY_RUN" ] || return 0
  local status=0
  "${VERB[@]}" launch --profile h200-fp8 --target "$OUT/fp8-config" --tp 8 \
    >"$OUT/refuse.txt" 2>&1 || status=$?
  cat "$OUT/refuse.txt"
  [ "$status" = 2 ] && grep -q 'TP 8' "$OUT/refuse.txt"
}

step_parallel() { # The demo's GDN has two key heads: no TP 4.
  export TP=2
  run_to parallel.txt "$PYTHON" -m pytest -s -m gpu -p no:cacheprovider \
    tests/gpu/test_tensor_parallel.py
}

# Decode graphs for the two batches, no prefill graphs: `bench speed` restricts them itself.
speed() { # speed PRECISION CONFIG...
  local precision=$1 configs=()
  shift
  for name in "$@"; do configs+=(--config "$name"); done
  run "${VERB[@]}" bench speed --profile b1 --tp 4 --precision "$precision" "${configs[@]}" \
    --batch 1,32 --accept-lengths 1.0,1.6,2.46,3.0 --start-seconds 1800 --no-plots \
    --out "$OUT/speed-$precision"
}
step_speed-bf16() { speed bf16 none b1 b32 b32-wide mtp; }
step_speed-fp8() { speed fp8 none b1; }

started=()
stop() {
  for pid in "${started[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done
  for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
  started=()
}

# background LOG COMMAND...: in a process group of its own, until `stop`.
background() {
  local log=$1
  shift
  show "$@"
  [ -z "$DRY_RUN" ] || return 0
  set -m
  "$@" >"$OUT/$log" 2>&1 &
  set +m
  started+=($!)
}

healthy() { # healthy URL SECONDS: polls, and gives up as soon as something that we started has ended
  [ -z "$DRY_RUN" ] || return 0
  local end=$((SECONDS + $2))
  until curl -sf -m 5 -o /dev/null "$1"; do
    for pid in "${started[@]}"; do
      kill -0 "$pid" 2>/dev/null || { echo "process $pid ended: see the logs in $OUT/router"; return 1; }
    done
    [ "$SECONDS" -lt "$end" ] || { echo "$1 does not answer"; return 1; }
    sleep 1
  done
}

answered() { grep -c 'POST /generate HTTP/1.1" 200' "$OUT/router/replica-$1.log" || true; }

load() { # load FOLDER NAME PORT
  run "${VERB[@]}" bench run --base-url "http://127.0.0.1:$3" --name "$2" --tokenizer "$tokenizer" \
    "${suites[@]}" "${data[@]}" "${limit[@]}" --repeats 2 --no-plots \
    --out "$OUT/router/$1"
}

step_router() {
  mkdir -p "$OUT/router"
  local tokenizer=$TARGET suites=(--suite mt-bench --batch 8,32,64) pair=() flags=()
  if [ -n "$TARGET" ]; then
    pair=(--target "$TARGET" --head "${HEAD:?HEAD goes with TARGET}")
    flags=(--cuda-graph-bs-decode 1 8 16 32)
  else
    pair=(--target demo --head demo)
    flags=(--dtype bfloat16 --mem-fraction-static 0.3 --cuda-graph-bs-decode 1 8 16 32)
    flags+=(--max-total-tokens 131072)
    suites=(--suite smoke --batch 4,8)
    [ -z "$DATA_DIR" ] || suites=(--suite humaneval --batch 8,32,64)
    suites+=(--max-tokens 128 --ignore-eos)
    tokenizer=demo
  fi
  local gpus=(0,1 2,3)
  for i in 0 1; do
    background "router/replica-$i.log" env "CUDA_VISIBLE_DEVICES=${gpus[i]}" "${VERB[@]}" launch \
      --profile b32-wide --tp 2 --port "${PORTS[i]}" "${pair[@]}" -- "${flags[@]}"
  done
  for i in 0 1; do healthy "http://127.0.0.1:${PORTS[i]}/health" 1800; done
  background router/router.log "$ROUTER_PYTHON" -m sglang_router.launch_router \
    --worker-urls "http://127.0.0.1:${PORTS[0]}" "http://127.0.0.1:${PORTS[1]}" \
    --policy "$POLICY" --host 127.0.0.1 --port "$ROUTER_PORT" \
    --prometheus-host 127.0.0.1 --prometheus-port 31009
  healthy "http://127.0.0.1:$ROUTER_PORT/health" 120
  load one one-replica "${PORTS[0]}"
  local before=()
  [ -n "$DRY_RUN" ] || before=("$(answered 0)" "$(answered 1)")
  load two two-replicas "$ROUTER_PORT"
  if [ -z "$DRY_RUN" ]; then
    local shares=$(($(answered 0) - before[0])) others=$(($(answered 1) - before[1]))
    echo "through the router: $shares requests to one replica, $others to the other" |
      tee "$OUT/router/shares.txt"
    # Nothing is asked again where an earlier run had finished.
    [ "$shares" = "$others" ] || { [ "$shares" -gt 0 ] && [ "$others" -gt 0 ]; }
  fi
  stop
}

step_card() {
  if [ -z "$TARGET" ] || [ -z "$HEAD" ]; then
    echo "card: TARGET and HEAD are not set, nothing is run"
    return 3
  fi
  local suites=()
  for name in swe-bench-verified humaneval terminal-bench mt-bench; do suites+=(--suite "$name"); done
  local common=(--profile b1 --tp 4 --target "$TARGET" --head "$HEAD" "${suites[@]}" "${data[@]}"
    "${limit[@]}" --start-seconds 1800)
  run "${VERB[@]}" bench run "${common[@]}" --config none --config b1 --batch 1 --out "$OUT/card-b1"
  run "${VERB[@]}" bench run "${common[@]}" --config none --config b32-wide --config b32 --batch 32 \
    --out "$OUT/card-b32"
}

describe
for step in $STEPS; do
  declare -F "step_$step" >/dev/null || { echo "no step $step; see the head of $0" >&2; exit 2; }
  if [ -z "$DRY_RUN" ] && [ -e "$OUT/$step.done" ]; then
    echo "== $step: done before"
    continue
  fi
  echo "== $step"
  status=0
  # Not `step || status=$?`: that would switch `set -e` off inside.
  set +e
  (set -e; trap stop EXIT; trap 'exit 130' INT TERM; "step_$step")
  status=$?
  set -e
  case $status in
    0) [ -n "$DRY_RUN" ] || date -u +%FT%TZ >"$OUT/$step.done" ;;
    3) echo "== $step: left out" ;;
    *) echo "== $step: failed with status $status" >&2; exit "$status" ;;
  esac
done
