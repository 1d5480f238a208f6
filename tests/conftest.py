"""Tiny random models of many families, and a tokenizer made in memory: no network, no GPU, seconds."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from foresay.backbone import Backbone
from foresay.checkpoints.record import Training
from foresay.checkpoints.save import save
from foresay.encoder import Encoder

torch.set_num_threads(1)  # tiny matrices: threads only wait for each other, above all beside another process
SHARED = Path(__file__).parents[2] / "shared"
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think></think>{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SENTENCES = [
    "What does frugal mean?",
    "The capital of Chad is N'Djamena, a city on the Chari river.",
    "Measles begins with fever, a cough and red eyes; a rash follows.",
    "Once upon a time a fox met a crow who held a piece of cheese.",
    "x",
    "Ça coûte 3 €, n'est-ce pas? 日本語 🙂",
]

FAMILIES: dict[str, dict[str, object]] = {
    "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "qwen2": {},
    "llama": {"bos": True},
    "gemma3_text": {"head_dim": 16, "sliding_window": 8, "bos": True, "query_pre_attn_scalar": 16},
    "mistral": {"sliding_window": 8, "bos": True},
    "smollm": {"model_type": "llama", "tie_word_embeddings": True, "full": True},
    "gpt_neox": {},
}


def make_tokenizer(*, bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on a handful of sentences; `<think>` is added but not special."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet)
    bpe.train_from_iterator(SENTENCES * 4, trainer)
    bpe.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    if bos:
        bpe.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"} | ({"bos_token": "<|endoftext|>"} if bos else {})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **names)
    tokenizer.chat_template = CHAT
    return tokenizer


def make_folder(family: str, path: Path, **changes: object) -> Path:
    """A tiny random model of the family, saved with its tokenizer as a hub model would be."""
    settings = {**FAMILIES[family], **changes}
    tokenizer = make_tokenizer(bos=bool(settings.pop("bos", False)))
    spare = 0 if settings.pop("full", False) else 48
    config = AutoConfig.for_model(
        str(settings.pop("model_type", family)),
        **{
            "vocab_size": len(tokenizer) + spare,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "initializer_range": 0.2,
            **settings,
        },
    )
    torch.manual_seed(sum(map(ord, family)))
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def save_and_export(folder: Path, encoder: Encoder, training: Training | None = None, *, whole: bool = False) -> None:
    """A checkpoint as `train` leaves it."""
    from foresay.checkpoints.export.sentence_transformers import export  # the environment of vLLM has no such library

    save(folder, encoder, training)
    export(folder, encoder, whole=whole)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny model, made once a session."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = make_folder(family, tmp_path_factory.mktemp("backbones") / family)
        return made[family]

    return get


@pytest.fixture(scope="session")
def backbone(folder: Callable[[str], Path]) -> Callable[[str], Backbone]:
    """A loaded tiny backbone of a family, shared: it is frozen, so no test can change it."""
    loaded: dict[str, Backbone] = {}

    def get(family: str) -> Backbone:
        if family not in loaded:
            loaded[family] = Backbone.load(str(folder(family)), device="cpu")
        return loaded[family]

    return get


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Matplotlib's figures, as they are saved: what is in a picture is asked of them, since pixels tell little."""
    from matplotlib.figure import Figure  # the environment of vLLM has no such library

    found: list[Any] = []
    savefig = Figure.savefig

    def saving(figure: Figure, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        savefig(figure, *args, **kwargs)
        found.append(figure)

    monkeypatch.setattr(Figure, "savefig", saving)
    return found


@pytest.fixture(params=["256k"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, small."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(mounted)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs Linux and root")
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)
