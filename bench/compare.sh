#!/usr/bin/env bash
# bench/compare.sh SPEC MODEL.gguf [ROUNDS]
#
# Measures Monomorph and llama.cpp by turns on one device and prints both with their ratio: decoding 128 tokens of one
# sequence, a prompt of 512, decoding 64 tokens behind DEPTH others, and decoding BATCHES sequences together.
# MODEL.gguf has the shapes and types of SPEC (its weights do not matter for speed).
#
#   MONOMORPH      the binary                                          [default: target/release/monomorph]
#   LLAMA_BENCH    how llama-bench is run, options included            [default: llama-bench -fa 1]
#   LLAMA_BATCHED  how llama-batched-bench is run, options included    [default: llama-batched-bench -fa on -ngl 99]
#   DEPTH          tokens in the cache before those that are measured; 0 leaves them out   [default: 16384]
#   BATCHES        sequences that are decoded together; empty leaves them out              [default: 8,32]
#
# llama.cpp is run as it comes and with GGML_CUDA_GRAPH_OPT=1; the better of the two counts. Needs python3 for the sums.
set -euo pipefail
spec=${1:?usage: bench/compare.sh SPEC MODEL.gguf [ROUNDS]}
model=${2:?usage: bench/compare.sh SPEC MODEL.gguf [ROUNDS]}
rounds=${3:-3}
monomorph=${MONOMORPH:-target/release/monomorph}
llama_bench=${LLAMA_BENCH:-llama-bench -fa 1}
llama_batched=${LLAMA_BATCHED:-llama-batched-bench -fa on -ngl 99}
depth=${DEPTH-16384}
batches=${BATCHES-8,32}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# llama.cpp's figures of a round, into files that begin with $1.
# shellcheck disable=SC2086 # options are words
theirs() {
  $llama_bench -m "$model" -p 512 -n 128 -r 1 -o json >"$1.json"
  if [ "$depth" -gt 0 ]; then
    $llama_bench -m "$model" -p 0 -n 64 -d "$depth" -r 1 -o json >"$1.depth.json"
  fi
  if [ -n "$batches" ]; then
    $llama_batched -m "$model" -c 16384 -npp 128 -ntg 64 -npl "$batches" --output-format jsonl >"$1.batches.jsonl" 2>/dev/null
  fi
}

for round in $(seq "$rounds"); do
  "$monomorph" bench --spec "$spec" -b 1 -p 512 -n 128 -r 1 --json >"$out/ours.$round.json"
  if [ "$depth" -gt 0 ]; then
    "$monomorph" bench --spec "$spec" -b 1 -p 8 -n 64 -r 1 --depth "$depth" --context $((depth + 1024)) --json \
      >"$out/ours.$round.depth.json"
  fi
  if [ -n "$batches" ]; then
    "$monomorph" bench --spec "$spec" -b "$batches" -p 8 -n 64 -r 1 --depth 128 --context 512 --json >"$out/ours.$round.batches.json"
  fi
  theirs "$out/theirs.$round"
  GGML_CUDA_GRAPH_OPT=1 theirs "$out/optimised.$round"
done

python3 - "$out" "$rounds" "$spec" <<'PY'
import glob, json, statistics, sys

out, rounds, spec = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def records(path):
    """The objects of a file: one list of them, the `tests` of one object, or one a line; other lines are the program's talk."""
    text = open(path).read()
    if path.endswith("jsonl"):
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    data = json.loads(text[min(i for i in (text.find("["), text.find("{")) if i >= 0):])
    return data if isinstance(data, list) else data["tests"]


def label_and_speed(record):
    if "avg_ts" in record:
        if record["n_prompt"]:
            return f"pp{record['n_prompt']}", record["avg_ts"]
        depth = record.get("n_depth", 0)
        return f"tg{record['n_gen']}" + (f" @ d{depth}" if depth else ""), record["avg_ts"]
    if "speed_tg" in record:
        return f"x{record['pl']}", record["speed_tg"]
    return record["test"], record["tok_s"]


def read(name):
    """Median tok/s by test, over the rounds."""
    found = {}
    for n in range(1, rounds + 1):
        for path in glob.glob(f"{out}/{name}.{n}.*json*"):
            for record in records(path):
                test, speed = label_and_speed(record)
                if ".batches." in path and not test.startswith("x"):
                    # Ours are called `tg64 ×8 @ d128`; its prompt is not compared.
                    if "×" not in test:
                        continue
                    test = "x" + test.split("×")[1].split(" ")[0]
                if ".depth." in path and "@" not in test:
                    continue
                found.setdefault(test, []).append(speed)
    return {test: statistics.median(values) for test, values in found.items()}


ours, theirs, optimised = read("ours"), read("theirs"), read("optimised")
print(f"{spec}, {rounds} rounds by turns, medians, tok/s (of all sequences together)")
print(f"{'test':14}{'monomorph':>12}{'llama.cpp':>12}{'ratio':>8}")
for test in ours:
    best = max(theirs.get(test, 0), optimised.get(test, 0))
    if best:
        print(f"{test:14}{ours[test]:12.1f}{best:12.1f}{ours[test] / best:7.2f}x")
PY
