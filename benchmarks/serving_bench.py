"""A server of the packaged backbone in a process of its own, for the measurements beside this file.

In: nothing, or options of `foresay serve`. Out: its address, for as long as the block runs.
Be careful: the checkpoint has random weights; its vectors mean nothing, and cost what trained ones cost.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foresay import Backbone, Encoder, Model
from foresay.checkpoints.save import save


def make_checkpoint(folder: Path) -> Encoder:
    """A checkpoint of the packaged backbone in fp32, with the default readout."""
    backbone = Backbone.load("nano", device="cpu", dtype="float32")
    model = Model(backbone, thought=0, compression=10, dim=256, template="chat", readout="tokens")
    encoder = Encoder(model, max_tokens=512)
    save(folder, encoder)
    return encoder


@contextmanager
def server(*options: str, checkpoint: Path | None = None) -> Iterator[str]:
    """Serves a checkpoint on a free port of the loopback interface."""
    with tempfile.TemporaryDirectory() as home:
        if checkpoint is None:
            checkpoint = Path(home) / "nano-random"
            make_checkpoint(checkpoint)
        log = Path(home) / "log"
        command = [sys.executable, "-m", "foresay", "serve", str(checkpoint), "--port", "0", *options]
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        try:
            yield f"http://127.0.0.1:{_port(process, log)}"
        finally:
            process.terminate()
            process.wait(60)


def _port(process: "subprocess.Popen[bytes]", log: Path) -> int:
    while True:
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        for line in lines:
            if line["message"] == "listening":
                return int(line["address"][1])
        if process.poll() is not None:
            raise RuntimeError(log.read_text()[-2000:])
        time.sleep(0.2)
