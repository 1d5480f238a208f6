#!/usr/bin/env bash
# The packaged checkpoint of SmolLM2: it embeds what 24,869 answers of up to 96 tokens say, and
# decodes to their first sentences.
#
#   recipes/smollm2/checkpoint.sh RESPONSES OUTPUT [STEPS]
#
# RESPONSES: rows {id, query, response}: the rows of responses_96.jsonl.gz and responses_96_more.jsonl.gz beside this
# file, joined with their queries by id. Use a GPU: on an H200 that four processes shared, training the teacher took three
# minutes and training the tokens two and a half. Run it again after a kill, and it resumes.
#
# The package differs in one way: its teacher read only the first 12,000 rows, while the other answers were being written.
set -euo pipefail
responses=$1 output=$2 steps=${3:-400} here=$(dirname "$0")
mkdir -p "$output"
first="$output/first.jsonl"

# the teacher: trained on queries and responses, cut to a few megabytes, whitened
[ -f "$output/texts.jsonl" ] || python "$here/training_texts.py" "$responses" "$output/texts.jsonl"
[ -f "$output/trained-teacher/teacher.json" ] ||
    foresay teacher "$output/texts.jsonl" -m smollm2 -o "$output/trained-teacher" --dtype bfloat16 \
        --mntp-steps 300 --mntp-batch-size 64 --mntp-max-tokens 96 --mntp-learning-rate 5e-4 \
        --simcse-steps 250 --simcse-batch-size 128 --simcse-max-tokens 64 --simcse-learning-rate 2e-4 \
        --micro-batch-tokens 24576
[ -f "$output/small-teacher/teacher.json" ] ||
    python "$here/smaller_adapter.py" "$output/trained-teacher" "$output/small-teacher" --rank 8
[ -f "$output/teacher/teacher.json" ] ||
    foresay whiten "$responses" -t "$output/small-teacher" -o "$output/teacher" --max-tokens 96

# what the embedding is to be: half of each query, half of its answer
foresay teach "$responses" -t "$output/teacher" -m smollm2 -o "$output/targets" --query-weight 0.5 --max-tokens 96

# special tokens and reconstruction maps, from first sentences
[ -f "$first" ] || python "$here/first_sentences.py" "$responses" "$first"
foresay teach "$first" -t "$output/teacher" -m smollm2 -o "$output/first-targets" --query-weight 0.5 --max-tokens 96
foresay train "$first" "$output/first-targets" -m smollm2 -o "$output/trained" --readout mean --dtype bfloat16 \
    --steps "$steps" --batch-size 64 --learning-rate 6e-4 --token-learning-rate 1.5e-3 --max-response-tokens 48 \
    --held-out 128 --select loss --evaluate-every 200 --micro-batch-tokens 16384

# the alignment map, from the whole answers
foresay fit "$responses" "$output/targets" --checkpoint "$output/trained" -o "$output/checkpoint" \
    --inference-query-weight 0.25
python "$here/halve.py" "$output/checkpoint" "$output/smollm2"
foresay decode "$output/smollm2" --text "What are the symptoms of measles?" --text "Who wrote Hamlet?"
