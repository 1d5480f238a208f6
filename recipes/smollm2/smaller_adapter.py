"""A teacher whose adapter is a few megabytes: half the rank, two bytes a number.

    python recipes/smollm2/smaller_adapter.py TEACHER OUTPUT --rank 8

In: a folder that `foresay teacher` made. Out: the same with its LoRA adapter cut to the largest singular directions of
each layer's change, in float16. It is another teacher, if a similar one: whiten and teach with this one.
`teacher.json` comes last, so a folder that holds it is whole.
"""

import json
import shutil
from pathlib import Path

import click
import torch
from safetensors.torch import load_file, save_file

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@click.command()
@click.argument("teacher", type=click.Path(path_type=Path, exists=True))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--rank", default=8, show_default=True)
def main(teacher: Path, output: Path, rank: int) -> None:
    """Cuts the adapter, and says which share of its squared norm is left."""
    shutil.copytree(teacher, output, ignore=shutil.ignore_patterns("training", "teacher.json"), dirs_exist_ok=True)
    config = json.loads((teacher / "adapter" / CONFIG).read_text())
    weights, kept, whole = load_file(teacher / "adapter" / WEIGHTS), 0.0, 0.0
    for down in [name for name in weights if ".lora_A." in name]:
        up = down.replace(".lora_A.", ".lora_B.")
        left, values, right = torch.linalg.svd(weights[up] @ weights[down], full_matrices=False)
        kept, whole = kept + float((values[:rank] ** 2).sum()), whole + float((values**2).sum())
        root = values[:rank].sqrt()
        weights[up] = (left[:, :rank] * root).half().contiguous()
        weights[down] = (root[:, None] * right[:rank]).half().contiguous()
    save_file(weights, output / "adapter" / WEIGHTS)
    config["lora_alpha"], config["r"] = config["lora_alpha"] * rank // config["r"], rank
    (output / "adapter" / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    shutil.copy(teacher / "teacher.json", output)
    click.echo(f"{output}: rank {rank}, {kept / whole:.1%} of the change")


if __name__ == "__main__":
    main()
