#!/usr/bin/env bash
# The packaged checkpoint of SmolLM2: it embeds what 12,000 answers of 96 tokens say, and decodes to their first sentences.
#
#   recipes/smollm2/checkpoint.sh RESPONSES OUTPUT [STEPS]
#
# RESPONSES: rows {id, query, response}, such as responses_96.jsonl.gz beside this file joined with its queries by id.
# A step of 16 rows takes about 2.6 s on one free thread in bfloat16. Run it again after a kill, and it resumes.
set -euo pipefail
responses=$1 output=$2 steps=${3:-1300} here=$(dirname "$0")
mkdir -p "$output"
first="$output/first.jsonl"

# the teacher, and what the embedding is to be: half of each query, half of its answer
[ -f "$output/teacher/teacher.json" ] ||
    foresay whiten "$responses" -t both-directions -m smollm2 -o "$output/teacher" --max-tokens 96
foresay teach "$responses" -t "$output/teacher" -m smollm2 -o "$output/targets" --query-weight 0.5 --max-tokens 96

# special tokens and reconstruction maps, from first sentences
[ -f "$first" ] || python "$here/first_sentences.py" "$responses" "$first"
foresay teach "$first" -t "$output/teacher" -m smollm2 -o "$output/first-targets" --query-weight 0.5
foresay train "$first" "$output/first-targets" -m smollm2 -o "$output/trained" --readout mean --dtype bfloat16 \
    --steps "$steps" --batch-size 16 --learning-rate 4e-4 --token-learning-rate 1e-3 --max-response-tokens 48 \
    --alignment relative --held-out 128 --select loss

# the alignment map, from the whole answers
foresay fit "$responses" "$output/targets" --checkpoint "$output/trained" -o "$output/checkpoint" \
    --inference-query-weight 0.25
python "$here/halve.py" "$output/checkpoint" "$output/smollm2"
foresay decode "$output/smollm2" --text "What are the symptoms of measles?" --text "Who wrote Hamlet?"
