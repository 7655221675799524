#!/usr/bin/env bash
# The demo's heads: the target answers, its states are captured, SpecForge trains a head a selection.
#
#   heads.sh TARGET QUESTIONS.jsonl OUT   (one GPU; SAMPLES, STEPS, SELECTIONS as environment)
#
# Everything but the answers' server is a verb of this package. Leaves in OUT: prepared/,
# features-*/, run-*/, head-*/ and evaluation-*.json.
set -euo pipefail
target=$1 questions=$2 out=$3
samples=${SAMPLES:-12000} steps=${STEPS:-1500} port=${PORT:-30100} device=${DEVICE:-cuda}
selections=${SELECTIONS:-card fork sglang input:0,output:5,output:9}
verb="python3 -m sglang_qwen3next_eagle3"
mkdir -p "$out"
since() { echo "== $(($(date +%s) - began)) s: $*"; }
began=$(date +%s)

if [ ! -f "$out/prepared/prepare.json" ]; then
  python3 -m sglang.launch_server --model-path "$target" --port "$port" --served-model-name demo \
    ${SERVER_FLAGS:---attention-backend triton --dtype bfloat16 --mem-fraction-static 0.4 \
    --max-running-requests 256 --cuda-graph-bs-decode 64 128 256 --disable-prefill-cuda-graph} \
    > "$out/server.log" 2>&1 &
  server=$!
  trap 'kill $server 2>/dev/null || true' EXIT
  until curl -sf "http://127.0.0.1:$port/health" > /dev/null; do
    kill -0 $server || { tail -20 "$out/server.log"; exit 1; }
    sleep 1
  done
  since server ready
  $verb train prepare --source "$questions" --samples "$samples" --eval-samples "${EVAL:-300}" \
    ${EXCLUDE:+--exclude "$EXCLUDE"} --out "$out/prepared" --regenerate \
    --base-url "http://127.0.0.1:$port/v1" --model demo --concurrency "${CONCURRENCY:-256}" \
    --max-tokens "${MAX_TOKENS:-256}" --temperature 0 2> "$out/prepare.log"
  kill $server
  wait $server 2> /dev/null || true
  since answers
fi

capture() { # selection, name
  local flags=(--target "$target" --aux-layers "$1" --allow-gdn-aux --device "$device")
  flags+=(--max-length 512 -- ${CAPTURE_FLAGS:-})
  $verb train capture --data "$out/prepared/eval.jsonl" --out "$out/features-$2-eval" "${flags[@]}" &&
    $verb train capture --data "$out/prepared/train.jsonl" --out "$out/features-$2" "${flags[@]}"
}
train() { # selection, name
  $verb train run --recipe demo --target "$target" --aux-layers "$1" --allow-gdn-aux \
    --device "$device" --features "$out/features-$2" --eval-features "$out/features-$2-eval" \
    --vocab "$out/vocab/vocab.pt" --out "$out/run-$2" --set "training.max_steps=$steps" ${SETTINGS:-} \
    > "$out/run-$2.txt" 2>&1 || { tail -20 "$out/run-$2.txt"; return 1; }
  since "trained $2"
  rm -rf "$out/head-$2"
  $verb train export --run "$out/run-$2" --target "$target" --out "$out/head-$2"
  $verb train evaluate --head "$out/head-$2" --target "$target" --features "$out/features-$2-eval" \
    --device "$device" --json > "$out/evaluation-$2.json"
  since "evaluated $2"
}
$verb train vocab --data "$out/prepared/train.jsonl" --target "$target" --out "$out/vocab" \
  --size "${VOCAB:-2560}" --max-length 512
named() { echo "$1" | tr -c 'a-z0-9\n' '-'; }
# Captures side by side, since each waits for its own start; trainings one after the other, since
# side by side on one GPU each takes as many times as long.
pids=()
for selection in $selections; do
  name=$(named "$selection")
  capture "$selection" "$name" > "$out/capture-$name.log" 2>&1 &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || { tail -n 5 "$out"/capture-*.log; exit 1; }; done
since captured
for selection in $selections; do
  train "$selection" "$(named "$selection")"
done
since "all heads"
