#!/bin/sh
# The teacher that lies in foresay/packaged/nano_teacher: a LoRA adapter that makes the packaged backbone read in both directions.
#
#     recipes/nano_teacher.sh TEXTS OUTPUT [SEED]
#
# TEXTS is a .jsonl file with a text a line under the key "text". The packaged teacher has seed 0 and was made of
# random.Random(0).sample(texts, 30_000) in Python, in the order in which that draws them from the list of the 160,807
# plain texts that the backbone itself was trained on: English WordNet, The World Factbook, MedQuAD answers, children's
# stories (StoryWeaver, African Storybook, FairytaleQA), public-domain books, first articles of Wikipedia; the model
# card of the backbone lists them. 29,183 of them are different. Other texts of that kind make a teacher like it. About
# a quarter of an hour on one CPU core of its own. Run it again after a kill, and it goes on. In the end
# OUTPUT/packaged holds the files of the package.
set -eu
texts=$1 output=$2 seed=${3:-0}

foresay teacher "$texts" -m nano -o "$output" --device cpu --dtype float32 --save-every 50 \
    --mntp-steps 300 --mntp-batch-size 16 --mntp-max-tokens 64 --mntp-learning-rate 1e-3 \
    --simcse-steps 200 --simcse-batch-size 32 --simcse-max-tokens 32 --simcse-learning-rate 2e-4 --seed "$seed"

# what a package needs, and no path of this machine
mkdir -p "$output/packaged/adapter"
cp "$output/teacher.json" "$output/golden.safetensors" "$output/packaged"
cp "$output/adapter/adapter_model.safetensors" "$output/packaged/adapter"
sed 's|"base_model_name_or_path": ".*"|"base_model_name_or_path": "nano"|' "$output/adapter/adapter_config.json" \
    > "$output/packaged/adapter/adapter_config.json"
