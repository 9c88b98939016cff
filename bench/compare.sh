#!/usr/bin/env bash
# bench/compare.sh SPEC MODEL.gguf [ROUNDS]
#
# Measures Monomorph and llama.cpp by turns on one device and prints both with their ratio: decoding 128 tokens of one
# sequence, and a prompt of 512. MODEL.gguf has the shapes and types of SPEC (its weights do not matter for speed).
#
#   MONOMORPH    the binary                                 [default: target/release/monomorph]
#   LLAMA_BENCH  how llama-bench is run, options included   [default: llama-bench -fa 1]
#
# llama.cpp is run as it comes and with GGML_CUDA_GRAPH_OPT=1; the better of the two counts. Needs python3 for the sums.
set -euo pipefail
spec=${1:?usage: bench/compare.sh SPEC MODEL.gguf [ROUNDS]}
model=${2:?usage: bench/compare.sh SPEC MODEL.gguf [ROUNDS]}
rounds=${3:-3}
monomorph=${MONOMORPH:-target/release/monomorph}
llama_bench=${LLAMA_BENCH:-llama-bench -fa 1}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

for round in $(seq "$rounds"); do
  "$monomorph" bench --spec "$spec" -b 1 -p 512 -n 128 -r 1 --json >"$out/ours.$round.json"
  # shellcheck disable=SC2086 # options are words
  $llama_bench -m "$model" -p 512 -n 128 -r 1 -o json >"$out/theirs.$round.json"
  # shellcheck disable=SC2086
  GGML_CUDA_GRAPH_OPT=1 $llama_bench -m "$model" -p 512 -n 128 -r 1 -o json >"$out/optimised.$round.json"
done

python3 - "$out" "$rounds" "$spec" <<'PY'
import json, statistics, sys

out, rounds, spec = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def read(name):
    """Median tok/s by test, over the rounds."""
    found = {"pp512": [], "tg128": []}
    for n in range(1, rounds + 1):
        text = open(f"{out}/{name}.{n}.json").read()
        data = json.loads(text[min(i for i in (text.find("["), text.find("{")) if i >= 0):])
        tests = data if isinstance(data, list) else data["tests"]
        for test in tests:
            if "avg_ts" in test:
                label = "pp512" if test["n_prompt"] else "tg128"
                found[label].append(test["avg_ts"])
            else:
                found.setdefault(test["test"], []).append(test["tok_s"])
    return {test: statistics.median(values) for test, values in found.items()}


ours, theirs, optimised = read("ours"), read("theirs"), read("optimised")
print(f"{spec}, {rounds} rounds by turns, medians, tok/s")
print(f"{'test':8}{'monomorph':>12}{'llama.cpp':>12}{'ratio':>8}")
for test in ("tg128", "pp512"):
    best = max(theirs[test], optimised[test])
    print(f"{test:8}{ours[test]:12.1f}{best:12.1f}{ours[test] / best:7.2f}x")
PY
