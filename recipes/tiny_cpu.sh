#!/usr/bin/env bash
# The whole method on a CPU in about ten minutes, offline: the packaged backbone and teacher, your queries.
#
#   recipes/tiny_cpu.sh QUERIES OUTPUT
#
# QUERIES: any file that `foresay respond` reads, such as foresay/packaged/example/queries.jsonl.
set -euo pipefail
queries=$1 output=$2
mkdir -p "$output"

foresay respond "$queries" -m nano -o "$output/responses.jsonl" --max-new-tokens 64
foresay teach "$output/responses.jsonl" -t nano-teacher -m nano -o "$output/targets" --query-weight 0.5
foresay train "$output/responses.jsonl" "$output/targets" -m nano -o "$output/checkpoint" --dtype float32 \
    --steps 300 --warmup-steps 30 --learning-rate 1e-3
foresay verify "$output/checkpoint"
foresay evaluate "$output/checkpoint" quick --against teacher --against hyde --max-new-tokens 64 -o "$output/evaluation"
