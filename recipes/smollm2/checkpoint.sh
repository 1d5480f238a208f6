#!/usr/bin/env bash
# A checkpoint of SmolLM2 that embeds and decodes: special tokens, a reconstruction map for each, one alignment map.
#
#   recipes/smollm2/checkpoint.sh BACKBONE RESPONSES TEACHER OUTPUT [STEPS]
#
# RESPONSES: what SmolLM2 answered, such as responses_96.jsonl.gz beside this file joined with its queries by id.
# Only the first 32 tokens of a response are reconstructed: short texts need far fewer steps to read like answers.
# A step takes about 3 s on one free thread in bfloat16; run it again after a kill, and it resumes.
set -euo pipefail
backbone=$1 responses=$2 teacher=$3 output=$4 steps=${5:-3000}
mkdir -p "$output"

foresay teach "$responses" -t "$teacher" -m "$backbone" -o "$output/targets" --query-weight 0.5
foresay fit "$responses" "$output/targets" -m "$backbone" -o "$output/fitted" --readout mean
foresay train "$responses" "$output/targets" -m "$backbone" -o "$output/checkpoint" --readout mean \
    --steps "$steps" --batch-size 16 --learning-rate 1e-3 --token-learning-rate 2e-3 --max-response-tokens 32
foresay verify "$output/checkpoint"
foresay decode "$output/checkpoint" -t "What are the symptoms of measles?" -t "Who wrote Hamlet?"
