#!/usr/bin/env bash
# The paper's second version (arXiv 2603.10913v2) from queries to scores, on one GPU: responses of the model itself, its
# published LLM2Vec teacher, 5,000 steps of the published recipe, and the evaluation beside teacher and HyDE.
# Run it again after a kill: every step resumes.
#
#   recipes/paper_v2.sh QUERIES OUTPUT [MODEL [TEACHER]]
#
# QUERIES: a file or a hub data set of queries (the paper takes 160,000). The default model and teacher are the paper's 4B.
set -euo pipefail
queries=$1 output=$2
model=${3:-Qwen/Qwen3-4B} teacher=${4:-McGill-NLP/LLM2Vec-Qwen3-4B-mntp-unsup-simcse}
mkdir -p "$output"

foresay respond "$queries" -m "$model" -o "$output/responses.jsonl" --max-new-tokens 500
foresay teach "$output/responses.jsonl" -t "$teacher" -m "$model" -o "$output/targets"
foresay train "$output/responses.jsonl" "$output/targets" -m "$model" -o "$output/checkpoint" --recipe paper-v2
foresay verify "$output/checkpoint"
foresay evaluate "$output/checkpoint" mteb-lite bright advbench-ir --against teacher --against hyde -o "$output/evaluation"
