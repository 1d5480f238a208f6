#!/usr/bin/env bash
# A language model like the packaged one, from your own texts: a tokenizer, 8.5 M parameters, a chat template.
#
#   recipes/nano_backbone.sh TEXTS PAIRS OUTPUT [OPTIONS of nano_backbone.py]
#
# TEXTS: plain texts, any file that `foresay respond` reads. PAIRS: queries and responses, a file like those that it
# writes. The packaged model saw 13.5 M and 11.6 M tokens, about one pass, in 84 minutes on two cores with jemalloc
# preloaded; foresay/packaged/nano/README.md lists what they were. A few hundred texts show that it runs, no more.
# Run it again after a kill, and it resumes.
set -euo pipefail
texts=$1 pairs=$2 output=$3
shift 3

python "$(dirname "$0")/nano_backbone.py" "$texts" "$pairs" "$output" "$@"
printf 'What does frugal mean?\n' > "$output/question.txt"
foresay respond "$output/question.txt" -m "$output" -o "$output/answers.jsonl" --max-new-tokens 40
foresay look "$output/answers.jsonl"
