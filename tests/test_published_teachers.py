"""Published LLM2Vec models: adapters on top of each other, prompts, pooling."""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch import Tensor

from foresay.backbone import Backbone
from foresay.checkpoints.verify import verify
from foresay.config import TeachConfig
from foresay.encoder import Encoder
from foresay.errors import InputError
from foresay.model import Model
from foresay.teachers.llm2vec import LLM2VecTeacher
from foresay.teachers.load import load_teacher

from .conftest import SENTENCES, save_and_export
from .llm2vec_made import Get, full_attention


@pytest.fixture
def published(folder: Callable[[str], Path], tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A published pair of folders: `X-mntp`, and `X-mntp-unsup-simcse`, whose adapter names the backbone too."""

    def make(family: str, base: Path | None = None) -> Path:
        base = base or folder(family)
        for seed, name in enumerate(("X-mntp", "X-mntp-unsup-simcse")):
            inner = Backbone.load(str(base), device="cpu").decoder
            torch.manual_seed(seed)
            config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.05, target_modules="all-linear")
            config.init_lora_weights = False  # random: a new adapter would change nothing
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # peft asks the library for an old name
                model = get_peft_model(inner, config)
            model.peft_config["default"].base_model_name_or_path = str(base)
            model.save_pretrained(str(tmp_path / name))
            (tmp_path / name / "llm2vec_config.json").write_text('{"pooling_mode": "mean", "max_length": 512}')
        return tmp_path / "X-mntp-unsup-simcse"

    yield make


def by_hand(base: Backbone, adapters: list[Path], text: str, before: str = "", behind: str = "") -> Tensor:
    """The vector of a text: both adapters multiplied out and added into the weights, full attention, the mean.

    What comes before the text is left out of the mean, what comes after it is not.
    """
    for adapter in adapters:
        tensors = load_file(adapter / "adapter_model.safetensors")
        for name in (name for name in tensors if "lora_A" in name):
            place = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            weight = base.decoder.get_parameter(f"{place}.weight")
            weight.data += 2.0 * tensors[name.replace("lora_A", "lora_B")] @ tensors[name]  # alpha 8, rank 4
    start, own, end = (base.tokenizer(part, add_special_tokens=False).input_ids for part in (before, text, behind))
    lead = [*base.leading_ids, *start]
    return full_attention(base.decoder, [*lead, *own, *end])[len(lead) :].mean(dim=0)


def test_a_published_model_embeds_documents(
    published: Callable[..., Path], backbone: Get, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two adapters go into a bundle, multiplied out; by name they do not, which is told."""
    base = backbone("qwen3")
    teacher = load_teacher(str(published("qwen3")), base)
    model = Model(base, thought=0, compression=2, dim=32, readout="tokens")
    encoder = Encoder(model).with_document_teacher(teacher)
    save_and_export(tmp_path / "b", encoder, whole=True)
    plain = SentenceTransformer(str(tmp_path / "b"), device="cpu")
    np.testing.assert_allclose(plain.encode_document(SENTENCES), teacher.embed(SENTENCES), atol=1e-5)
    np.testing.assert_allclose(plain.encode_query(SENTENCES), encoder.encode_query(SENTENCES), atol=1e-5)
    assert "queries alone" not in caplog.text
    save_and_export(tmp_path / "c", encoder)
    assert "embeds queries alone" in caplog.text
    assert verify(tmp_path / "c", device="cpu")


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama", "mistral"])
def test_published_models(published: Callable[..., Path], backbone: Get, family: str) -> None:
    """The first adapter below the second, then the mean: as computed by hand; alone, the first is a teacher too."""
    simcse = published(family)
    mntp = simcse.with_name("X-mntp")
    teacher = load_teacher(str(simcse), device="cpu")
    shared = load_teacher(str(simcse), backbone(family))
    assert isinstance(teacher, LLM2VecTeacher) and isinstance(shared, LLM2VecTeacher)
    text = SENTENCES[0]
    expected = by_hand(Backbone.load(backbone(family).name, device="cpu"), [mntp, simcse], text).numpy()
    np.testing.assert_allclose(teacher.embed([text])[0], expected, atol=1e-4)
    np.testing.assert_allclose(shared.embed(SENTENCES)[0], expected, atol=1e-4)
    expected = by_hand(Backbone.load(backbone(family).name, device="cpu"), [mntp], text).numpy()
    first = load_teacher(str(mntp), device="cpu")
    np.testing.assert_allclose(first.embed([text])[0], expected, atol=1e-4)
    assert first.revision != teacher.revision == shared.revision


@pytest.mark.parametrize(
    ("family", "name", "frame"),
    [
        ("llama", "Meta-Llama-3-8B-Instruct", ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>")),
        ("smollm", "Llama-2-7b-chat-hf", ("[INST]", "[/INST]")),
    ],
)
def test_published_models_of_chat_models(
    published: Callable[..., Path],
    folder: Callable[[str], Path],
    tmp_path: Path,
    family: str,
    name: str,
    frame: tuple[str, str],
) -> None:
    """The authors' encoder puts the template of three backbones, known by name, around each text."""
    base = shutil.copytree(folder(family), tmp_path / name)
    simcse = published(family, base)
    teacher = load_teacher(str(simcse), device="cpu", config=TeachConfig(max_tokens=512))
    assert isinstance(teacher, LLM2VecTeacher)
    chain = [simcse.with_name("X-mntp"), simcse]
    expected = by_hand(Backbone.load(str(base), device="cpu"), chain, SENTENCES[1], *frame).numpy()
    np.testing.assert_allclose(teacher.embed(SENTENCES)[1], expected, atol=1e-4)
    assert np.isfinite(teacher.embed(["word " * 600])).all() and teacher.max_tokens < 512  # of 512 positions


def test_an_adapter_may_name_the_one_below(published: Callable[..., Path], tmp_path: Path) -> None:
    """A chain by `base_model_name_or_path`, whatever the folders are called."""
    simcse = published("qwen3")
    expected = load_teacher(str(simcse), device="cpu").embed(SENTENCES)
    simcse.rename(tmp_path / "mine")
    path = tmp_path / "mine" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(tmp_path / "X-mntp")}))
    np.testing.assert_array_equal(load_teacher(str(tmp_path / "mine"), device="cpu").embed(SENTENCES), expected)


def test_published_models_that_are_not_whole(published: Callable[..., Path], tmp_path: Path) -> None:
    """Each is told in a line; a pickle is never opened."""
    simcse = published("qwen3")
    mntp = simcse.with_name("X-mntp")
    config = json.loads((mntp / "adapter_config.json").read_text())
    (mntp / "adapter_model.safetensors").rename(mntp / "adapter_model.bin")
    with pytest.raises(InputError, match=r"not a PEFT adapter: .*expected adapter_config.json and adapter_model.safe"):
        load_teacher(str(mntp), device="cpu")
    (mntp / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(InputError, match="names no base_model_name_or_path"):
        load_teacher(str(mntp), device="cpu")
    ia3 = {
        "peft_type": "IA3",
        "base_model_name_or_path": config["base_model_name_or_path"],
        "target_modules": ["q_proj"],
    }
    shutil.copy(simcse / "adapter_model.safetensors", mntp)
    (mntp / "adapter_config.json").write_text(json.dumps(ia3 | {"feedforward_modules": []}))
    with pytest.raises(InputError, match="kind .*IA3; expected LORA"):
        load_teacher(str(mntp), device="cpu")
    shutil.rmtree(mntp)
    with pytest.raises(InputError, match="builds on the adapter .*X-mntp, which is not there"):
        load_teacher(str(simcse), device="cpu")
