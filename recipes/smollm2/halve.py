"""A checkpoint with weights of two bytes a number, half the size, for a package.

    python recipes/smollm2/halve.py CHECKPOINT OUTPUT

In: a checkpoint. Out: the same with its weights rounded to float16, in the file too, and golden vectors made with them.
It opens like any other: weights are float32 in memory.
"""

from pathlib import Path

import click
import torch
from safetensors.torch import load_file, save_file

from foresay.checkpoints.record import WEIGHTS, Record
from foresay.checkpoints.save import save
from foresay.checkpoints.verify import verify
from foresay.encoder import Encoder


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
def main(checkpoint: Path, output: Path) -> None:
    """Rounds, saves, and verifies."""
    encoder = Encoder.from_pretrained(checkpoint)
    with torch.no_grad():
        for weight in encoder.model.state_dict().values():
            weight.copy_(weight.half())
    save(output, encoder, Record.load(checkpoint).training)
    weights = {name: weight.half() for name, weight in load_file(output / WEIGHTS).items()}
    save_file(weights, output / WEIGHTS)
    verify(output)


if __name__ == "__main__":
    main()
