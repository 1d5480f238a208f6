#!/usr/bin/env bash
# The packaged checkpoint of SmolLM2: it embeds what 12,000 answers of 96 tokens say, and decodes to their first sentences.
#
#   recipes/smollm2/checkpoint.sh RESPONSES OUTPUT [STEPS]
#
# RESPONSES: rows {id, query, response}, such as responses_96.jsonl.gz beside this file joined with its queries by id.
# On one free thread in bfloat16 the teacher takes about a quarter of an hour to train, and a step of 16 rows 2.6 s.
# Run it again after a kill, and it resumes.
#
# The package differs in two ways. Its teacher's learning rates were to fall over 150 and 50 steps, and the training was
# stopped at these 65 and 34, which made a better teacher (docs/teacher.md). Its special tokens and reconstruction maps
# are older: they were trained on the targets of the untrained, whitened teacher (whiten -t both-directions, train
# --alignment relative).
set -euo pipefail
responses=$1 output=$2 steps=${3:-1300} here=$(dirname "$0")
mkdir -p "$output"
first="$output/first.jsonl"

# the teacher: trained on queries and responses, cut to a few megabytes, whitened
[ -f "$output/texts.jsonl" ] || python "$here/training_texts.py" "$responses" "$output/texts.jsonl"
[ -f "$output/trained-teacher/teacher.json" ] ||
    foresay teacher "$output/texts.jsonl" -m smollm2 -o "$output/trained-teacher" --dtype bfloat16 \
        --mntp-steps 65 --mntp-batch-size 16 --mntp-max-tokens 64 --mntp-learning-rate 5e-4 \
        --simcse-steps 34 --simcse-batch-size 32 --simcse-max-tokens 32 --simcse-learning-rate 2e-4
[ -f "$output/small-teacher/teacher.json" ] ||
    python "$here/smaller_adapter.py" "$output/trained-teacher" "$output/small-teacher" --rank 8
[ -f "$output/teacher/teacher.json" ] ||
    foresay whiten "$responses" -t "$output/small-teacher" -o "$output/teacher" --max-tokens 96

# what the embedding is to be: half of each query, half of its answer
foresay teach "$responses" -t "$output/teacher" -m smollm2 -o "$output/targets" --query-weight 0.5 --max-tokens 96

# special tokens and reconstruction maps, from first sentences
[ -f "$first" ] || python "$here/first_sentences.py" "$responses" "$first"
foresay teach "$first" -t "$output/teacher" -m smollm2 -o "$output/first-targets" --query-weight 0.5
foresay train "$first" "$output/first-targets" -m smollm2 -o "$output/trained" --readout mean --dtype bfloat16 \
    --steps "$steps" --batch-size 16 --learning-rate 4e-4 --token-learning-rate 1e-3 --max-response-tokens 48 \
    --held-out 128 --select loss

# the alignment map, from the whole answers
foresay fit "$responses" "$output/targets" --checkpoint "$output/trained" -o "$output/checkpoint" \
    --inference-query-weight 0.25
python "$here/halve.py" "$output/checkpoint" "$output/smollm2"
foresay decode "$output/smollm2" --text "What are the symptoms of measles?" --text "Who wrote Hamlet?"
