"""Soft prompts kept beside the vectors: any item decodes later without its text; what is not theirs is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foresay.backbone import Backbone
from foresay.encoder import Encoder
from foresay.errors import DataError, InputError
from foresay.model import Model
from foresay.reading.stored import SoftPrompts

from .commands import run
from .conftest import SENTENCES

Get = Callable[[str], Backbone]


def make(backbone: Backbone, **options: object) -> Encoder:
    """A small untrained encoder."""
    return Encoder(Model(backbone, thought=0, compression=3, dim=8, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("readout", ["tokens", "layers"])
def test_one_pass_gives_both(backbone: Get, readout: str) -> None:
    """Embeddings and soft prompts of one pass are those of a pass each."""
    encoder = make(backbone("qwen3"), readout=readout)
    prompts = np.empty((len(SENTENCES), 3, 32), np.float32)
    np.testing.assert_allclose(
        encoder.encode_query(SENTENCES, soft_prompts=prompts), encoder.encode_query(SENTENCES), atol=1e-5
    )
    np.testing.assert_allclose(prompts, encoder.soft_prompts(SENTENCES, prompt_name="query"), atol=1e-5)
    with pytest.raises(InputError, match=r"float32 \(5, 3, 32\); expected float32 \(6, 3, 32\)"):
        encoder.encode(SENTENCES, soft_prompts=prompts[:5])


def test_stored_items_decode_without_their_text(backbone: Get, tmp_path: Path) -> None:
    """encode --keep-soft-prompts, then decode from the file alone: the same words as from the texts."""
    from foresay.checkpoints.save import save

    checkpoint, vectors = tmp_path / "checkpoint", tmp_path / "vectors.npy"
    encoder = make(backbone("qwen3"))
    save(checkpoint, encoder)
    rows = [json.dumps({"id": f"t{n}", "text": text}) for n, text in enumerate(SENTENCES)]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows))
    here = ["--device", "cpu"]
    run("encode", checkpoint, tmp_path / "texts.jsonl", "-o", vectors, "--keep-soft-prompts", *here)
    np.testing.assert_allclose(np.load(vectors), encoder.encode_query(SENTENCES), atol=1e-5)
    (tmp_path / "texts.jsonl").unlink()
    file = tmp_path / "vectors.soft_prompts.npy"
    assert isinstance(SoftPrompts.open(file, encoder.model).array, np.memmap)
    files = sorted(path.name for path in tmp_path.glob("vectors.*"))
    how = ["--soft-prompts", file, "--max-new-tokens", 8, *here]
    expected = encoder.decode(SENTENCES, max_new_tokens=8)
    printed = [json.loads(line) for line in run("decode", checkpoint, *how, "--json").splitlines()]
    assert [line["text"] for line in printed] == expected
    assert [line["id"] for line in printed] == [f"t{n}" for n in range(6)]
    assert printed[0]["tokens"][0]["log_prob"] <= 0
    wrong = run("decode", checkpoint, "--soft-prompts", vectors, *here, code=1)
    assert f"{vectors} holds no soft prompts, but {file} beside it does; name that one" in wrong
    two = run("decode", checkpoint, *how, "--row", 3, "--row", 1, "--json").splitlines()
    assert [json.loads(line)["text"] for line in two] == [expected[3], expected[1]]
    assert run("decode", checkpoint, *how, "--row", 3).split() == expected[3].split()
    assert "has the rows 0 to 5, not 6" in run("decode", checkpoint, *how, "--row", 6, code=1)
    assert "not both" in run("decode", checkpoint, "--text", "x", *how, code=1)
    assert "add --soft-prompts FILE" in run("decode", checkpoint, "--text", "x", "--row", 1, code=1)
    assert "add -o FILE.npy" in run("encode", checkpoint, "--text", "x", "--keep-soft-prompts", code=1)
    too_long = ["encode", checkpoint, "--text", "long " * 2000, "-o", vectors, "--no-cut", *here]
    run(*too_long, code=1)
    run(*too_long, "--keep-soft-prompts", code=1)
    assert sorted(path.name for path in tmp_path.glob("vectors.*")) == files
    assert run("decode", checkpoint, *how, "--row", 3).split() == expected[3].split()  # a call that fails takes nothing
    run("encode", checkpoint, "--text", "x", "-o", vectors, *here)  # the soft prompts of other texts do not stay
    assert "there are no soft prompts" in run("decode", checkpoint, *how, code=1)


def test_files_that_are_not_theirs(backbone: Get, tmp_path: Path) -> None:
    """Another backbone, another number of tokens, unfinished, damaged: one line each."""
    path = tmp_path / "kept.npy"
    encoder = make(backbone("qwen3"))
    with pytest.raises(DataError, match="there are no soft prompts in"):
        SoftPrompts.open(path, encoder.model)
    with SoftPrompts.creating(path, encoder.model, ["a", "b"]) as kept:
        kept.array[:] = encoder.soft_prompts(SENTENCES[:2])
    with pytest.raises(KeyError), SoftPrompts.creating(path, encoder.model, ["c"]) as lost:
        raise KeyError(lost.manifest.ids[0])
    assert SoftPrompts.open(path, encoder.model).manifest.ids == ["a", "b"]  # an error takes nothing
    np.testing.assert_allclose(
        SoftPrompts.open(path, encoder.model).rows([1])[0], encoder.soft_prompts(SENTENCES[1]), atol=1e-5
    )
    with pytest.raises(InputError, match="soft prompts of .*qwen3.* this checkpoint is of .*llama.* weights differ"):
        SoftPrompts.open(path, make(backbone("llama")).model)
    wider = Model(backbone("qwen3"), thought=0, compression=5, dim=8)
    with pytest.raises(InputError, match="theirs are 3 × 32, its own 5 × 32"):
        SoftPrompts.open(path, wider)
    manifest = (tmp_path / "kept.json").read_text()
    (tmp_path / "kept.json").unlink()
    with pytest.raises(DataError, match="is unfinished; repeat foresay encode"):
        SoftPrompts.open(path, encoder.model)
    (tmp_path / "kept.json").write_text(manifest)
    np.save(path, np.zeros((2, 3, 32), np.int64))
    with pytest.raises(DataError, match=r"holds int64 \(2, 3, 32\), its manifest says float32"):
        SoftPrompts.open(path, encoder.model)
    path.write_bytes(b"torn")
    with pytest.raises(DataError, match="is damaged"):
        SoftPrompts.open(path, encoder.model)
    (tmp_path / "kept.json").write_text("{}")
    with pytest.raises(DataError, match="is damaged, or of another version"):
        SoftPrompts.open(path, encoder.model)
