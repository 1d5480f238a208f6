"""The latent lens: what an index keeps, exact search against brute force, kills, other backbones, conversion."""

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from foresay.backbone import Backbone
from foresay.config import LatentIndexConfig, LensConfig
from foresay.encoder import Encoder
from foresay.errors import DataError, InputError
from foresay.model import Model
from foresay.reading import latent_build
from foresay.reading.latent_build import build_index, plan_index
from foresay.reading.latent_convert import convert_latent_index
from foresay.reading.latent_index import LatentIndex, whole_word
from foresay.reading.lens import lens

from .commands import invoke, run
from .conftest import SENTENCES

Get = Callable[[str], Backbone]
CORPUS = [*SENTENCES, *(f"The {animal} met a fox in the city." for animal in ("crow", "hen", "goat", "crow"))]
ALL = LatentIndexConfig(layers="all", contexts=100)


def built(backbone: Backbone, folder: Path, config: LatentIndexConfig = ALL) -> LatentIndex:
    """An index of the little corpus."""
    build_index(backbone, plan_index(backbone, CORPUS, config), folder, config)
    return LatentIndex(folder, backbone)


def own_states(backbone: Backbone, text: str) -> list[np.ndarray]:
    """States of every token of one text at every layer, by the library's plain forward pass."""
    ids = [*backbone.leading_ids, *backbone.tokenize([text])[0]]
    with torch.no_grad():
        out = backbone.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    return [state[0].numpy() for state in out.hidden_states]


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3_text"])
def test_an_index_holds_the_backbones_own_states(backbone: Get, tmp_path: Path, family: str) -> None:
    """Every token whose beginning is new, but the first position of all; with its word and sentence."""
    base = backbone(family)
    index = built(base, tmp_path / "index")
    seen, expected = set(), []
    for number, text in enumerate(CORPUS):
        ids = [*base.leading_ids, *base.tokenize([text])[0]]
        for at in range(max(1, len(base.leading_ids)), len(ids)):
            if tuple(ids[: at + 1]) not in seen:
                seen.add(tuple(ids[: at + 1]))
                expected.append((number, at))
    assert len(index.tokens[1]) == len(expected)
    for layer in (0, 1, 2):
        states = {number: own_states(base, text)[layer] for number, text in enumerate(CORPUS)}
        own = np.stack([states[number][at] for number, at in expected])
        own /= np.linalg.norm(own, axis=1, keepdims=True)
        np.testing.assert_allclose(index.states[layer], own, atol=1e-3)
    for (number, at), (token, sentence, start, end) in zip(expected, index.tokens[1].tolist(), strict=True):
        ids = [*base.leading_ids, *base.tokenize([CORPUS[number]])[0]]
        assert (sentence, token) == (number, ids[at])
        assert base.tokenizer.decode([token]).strip("�") in CORPUS[number][start:end]


def test_search_is_exact_in_blocks(backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against brute force over all layers; each token of the corpus once, at its nearest layer."""
    base = backbone("qwen3")
    index = built(base, tmp_path / "index")
    queries = torch.randn(7, 32, generator=torch.Generator().manual_seed(1))
    unit = queries / queries.norm(dim=1, keepdim=True)
    cosines = torch.stack([unit @ torch.from_numpy(np.array(s)).float().T for s in index.states.values()])
    cosines /= torch.stack([torch.from_numpy(np.array(s)).float().norm(dim=1) for s in index.states.values()])[:, None]
    best = cosines.max(dim=0).values
    _, first, at = np.unique(index.tokens[0][:, 1:3], axis=0, return_index=True, return_inverse=True)
    by_place = torch.stack([best[:, torch.from_numpy(at.ravel() == n)].max(dim=1).values for n in range(len(first))], 1)
    for block in (1, 32 * 5, 1 << 24):
        monkeypatch.setattr("foresay.reading.latent_index._BLOCK_NUMBERS", block)
        found = index.search(queries, 4)
        scores = [[hit.score for hit in hits] for hits in found]
        np.testing.assert_allclose(scores, by_place.topk(4).values, atol=1e-5)
    for hits in found:
        assert all(hit.sentence[hit.start : hit.end] == hit.text for hit in hits)
        assert all(hit.layer in (0, 1, 2) for hit in hits)
    one = index.search(queries[:1], 3, [1])[0]
    np.testing.assert_allclose([hit.score for hit in one], cosines[1, 0].topk(3).values, atol=1e-5)
    assert {hit.layer for hit in one} == {1}


def test_int8_finds_what_float16_finds(backbone: Get, tmp_path: Path) -> None:
    """A token's own state is nearest to itself, and cosines agree to a hundredth; half the bytes."""
    base = backbone("llama")
    half = built(base, tmp_path / "half")
    small = built(base, tmp_path / "small", LatentIndexConfig(layers="all", contexts=100, storage="int8"))
    states = torch.from_numpy(np.array(half.states[2])).float()
    near, close = half.search(states, 3, [2]), small.search(states, 3, [2])
    assert [hits[0].text for hits in near] == [hits[0].text for hits in close]
    np.testing.assert_allclose([h.score for hs in near for h in hs], [h.score for hs in close for h in hs], atol=0.02)
    assert (tmp_path / "small/layer_01.npy").stat().st_size < 0.6 * (tmp_path / "half/layer_01.npy").stat().st_size


def test_frequent_tokens_are_spread_over_the_corpus(backbone: Get) -> None:
    """At most `contexts` of each, the first and the last among them; rare tokens all stay."""
    base = backbone("qwen3")
    texts = [f"fox {number}" for number in range(300, 400)]
    everything = plan_index(base, texts, LatentIndexConfig(contexts=1000))
    few = plan_index(base, texts, LatentIndexConfig(contexts=7))
    before, after = Counter(everything.tokens[:, 0].tolist()), Counter(few.tokens[:, 0].tolist())
    assert after == {token: min(count, 7) for token, count in before.items()}
    frequent = before.most_common(1)[0][0]
    places = [plan.tokens[plan.tokens[:, 0] == frequent][:, 1].tolist() for plan in (everything, few)]
    assert (places[0][0], places[0][-1]) == (places[1][0], places[1][-1])


def test_a_killed_build_goes_on(backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes as one run; an unfinished index is refused; other texts or options are not mixed in."""
    base = backbone("qwen3")
    monkeypatch.setattr(latent_build, "_BLOCK", 3)
    whole = built(base, tmp_path / "whole")
    plan = plan_index(base, CORPUS, ALL)

    def die(done: int, total: int | None, note: str) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(base, plan, tmp_path / "killed", ALL, die)
    with pytest.raises(DataError, match=f"holds 6 of {len(CORPUS)} sentences; repeat the command"):
        LatentIndex(tmp_path / "killed", base)
    done: list[int] = []
    build_index(base, plan, tmp_path / "killed", ALL, lambda at, total, note: done.append(at))
    assert done[0] == 9
    for layer, states in LatentIndex(tmp_path / "killed", base).states.items():
        np.testing.assert_array_equal(states, whole.states[layer])
    other = plan_index(base, CORPUS[:-1], ALL)
    with pytest.raises(DataError, match="holds another latent index: .*corpus_sha256"):
        build_index(base, other, tmp_path / "whole", ALL)


@pytest.mark.parametrize("name", ["tokens.npy", "layer_07.npy", "sentences.bin", "manifest.json"])
def test_files_of_others_stay(name: str, backbone: Get, tmp_path: Path) -> None:
    """A folder without a manifest of ours is nobody's index: a file with a name of ours is refused, in all ways."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("years of work")
    (tmp_path / "texts.txt").write_text("\n".join(CORPUS))
    base = backbone("llama")
    published(tmp_path / "published", base)
    told = f"{name} is there already, and foresay latent-index would replace it"
    with pytest.raises(InputError, match=told):
        build_index(base, plan_index(base, CORPUS, ALL), tmp_path / "mine", ALL)
    with pytest.raises(InputError, match=told):
        convert_latent_index(tmp_path / "published", base, tmp_path / "mine")
    words = ("latent-index", tmp_path / "texts.txt", "-m", tmp_path / "no-model", "-o", tmp_path / "mine")
    assert told in run(*words, code=1)  # before it looks for the model
    assert {path.name: path.read_text() for path in (tmp_path / "mine").iterdir()} == {name: "years of work"}


def test_a_build_killed_at_its_start_is_begun_anew(
    backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are there and its manifest is not; the folder is known for ours all the same."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    base = backbone("llama")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(latent_build, "write_sentences", killed)
        built(base, tmp_path / "index")
    assert (tmp_path / "index" / "tokens.npy").exists() and not (tmp_path / "index" / "manifest.json").exists()
    (tmp_path / "once").mkdir()  # an empty folder is fine
    again, once = built(base, tmp_path / "index"), built(base, tmp_path / "once")
    for layer, states in once.states.items():
        np.testing.assert_array_equal(again.states[layer], states)
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == sorted(
        path.name for path in (tmp_path / "once").iterdir()
    )


def test_the_announced_size_is_what_it_takes(backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the few kilobytes of the files' heads; more than the disk has is refused before anything is written."""
    base = backbone("qwen3")
    plan = plan_index(base, CORPUS, ALL)
    built(base, tmp_path / "index")
    taken = sum(path.stat().st_size for path in (tmp_path / "index").iterdir())
    assert 0 < taken - plan.bytes < 5000
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(InputError, match="takes [0-9.]+ kB and .* has room for 100 bytes"):
        build_index(base, plan, tmp_path / "full", ALL)
    assert not (tmp_path / "full").exists()


def test_an_index_of_another_backbone_is_refused(backbone: Get, tmp_path: Path) -> None:
    """Of another width, or of the same width and other weights; damaged files by name."""
    built(backbone("qwen3"), tmp_path / "index")
    encoder = Encoder(Model(backbone("llama"), thought=0, compression=2, dim=8))
    with pytest.raises(InputError, match="is an index of .*qwen3.*not of .*llama"):
        lens(encoder, "x", LensConfig(lens="latent", latent_index=str(tmp_path / "index")))
    with pytest.raises(DataError, match=r"no latent index in .*foresay latent-index TEXTS -m .*llama.* -o .*nowhere$"):
        lens(encoder, "x", LensConfig(lens="latent", latent_index=str(tmp_path / "nowhere")))
    index = LatentIndex(tmp_path / "index", backbone("qwen3"))
    with pytest.raises(InputError, match="holds the layers 0, 1, 2, not 5"):
        index.search(torch.zeros(1, 32), 1, [5])
    with pytest.raises(InputError, match=r"expected finite states \(any, 32\)"):
        index.search(torch.full((1, 32), float("nan")), 1)
    (tmp_path / "index/layer_01.npy").write_bytes(b"torn")
    with pytest.raises(DataError, match="layer_01.npy is missing or damaged"):
        LatentIndex(tmp_path / "index", backbone("qwen3"))


def test_the_lens_reads_special_tokens(backbone: Get, tmp_path: Path) -> None:
    """A special token that is a word of a sentence reads as that word, at every layer; merged over all tokens."""
    base = backbone("llama")
    built(base, tmp_path / "index")
    model = Model(base, thought=0, compression=2, dim=8)
    ids = [*base.leading_ids, *base.tokenize([CORPUS[6]])[0]]
    with torch.no_grad():
        model.special_tokens.copy_(base.embedding(torch.tensor(ids[-2:])))
    text = base.tokenizer.decode(ids[len(base.leading_ids) : -2])
    options = {"lens": "latent", "latent_index": str(tmp_path / "index"), "layers": "1,2", "top": 3}
    (reading,) = lens(Encoder(model), text, LensConfig(**options))  # type: ignore[arg-type]
    for tokens, merged in zip(reading.tokens, reading.merged, strict=True):
        for token, hits in enumerate(tokens):
            assert hits[0].score == pytest.approx(1, abs=1e-3)
            assert hits[0].sentence == CORPUS[6]
            assert hits[0].text.startswith(base.tokenizer.decode(ids[token - 2]).strip())
        best = max((hit for hits in tokens for hit in hits), key=lambda hit: hit.score)
        assert merged[0] == best
        assert len({(hit.sentence, hit.start) for hit in merged}) == len(merged) == 3
    (own,) = lens(Encoder(model), text, LensConfig(same_layer=True, **options))  # type: ignore[arg-type]
    assert [{hit.layer for hits in tokens for hit in hits} for tokens in own.tokens] == [{1}, {2}]


def test_words() -> None:
    """A piece of a word becomes the word; punctuation stays alone."""
    text = "An N'Djamena-born fox, €3"
    assert text[slice(*whole_word(text, 2, 5))] == "N'Djamena-born"
    assert text[slice(*whole_word(text, 18, 20))] == "fox"
    assert text[slice(*whole_word(text, 21, 22))] == ","
    assert whole_word(text, 0, 0) == (0, 0)


def published(folder: Path, base: Backbone, *, layers: tuple[int, ...] = (1, 2)) -> Path:
    """An index as the latentlens package saves it; the second layer keeps other tokens, as its older indices do."""
    for layer in layers:
        states, metadata = [], []
        for text in CORPUS[layer - 1 :]:
            ids = base.tokenizer(text).input_ids
            for at in range(2, len(ids)):
                word = base.tokenizer.decode([ids[at]])
                metadata.append({"token_str": word, "token_id": ids[at], "caption": text, "position": at})
                states.append(torch.from_numpy(own_states(base, text)[layer][at]))
        (folder / f"layer_{layer}").mkdir(parents=True)
        whole = {"embeddings": torch.stack(states).half(), "metadata": metadata}
        torch.save(whole, folder / f"layer_{layer}" / "embeddings_cache.pt")
    (folder / "metadata.json").write_text(json.dumps({"layers": list(layers), "hidden_dim": 32}))
    return folder


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_a_published_index_converts(backbone: Get, tmp_path: Path, storage: str) -> None:
    """Each token is found again by its own state, in its sentence and at its layer."""
    base = backbone("llama")
    source = published(tmp_path / "published", base)
    convert_latent_index(source, base, tmp_path / "index", storage)  # type: ignore[arg-type]
    index = LatentIndex(tmp_path / "index", base)
    for layer, text, at in ((1, CORPUS[1], 7), (2, CORPUS[8], 5), (1, CORPUS[0], 3)):
        state = torch.from_numpy(own_states(base, text)[layer][at])
        (hits,) = index.search(state[None], 2)
        assert hits[0].score == pytest.approx(1, abs=2e-3)
        assert (hits[0].sentence, hits[0].layer) == (text, layer)
        assert base.tokenizer.decode(base.tokenizer(text).input_ids[at]).strip() in hits[0].text
    with pytest.raises(InputError, match="holds an index already"):
        convert_latent_index(source, base, tmp_path / "index")


class Evil:
    """A pickle that runs code."""

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        """What opening it would call."""
        return Path.touch, (Path("ran"),)


def test_conversion_runs_no_code_and_takes_nothing_else(
    backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pickled code is refused unread; other shapes, backbones and folders in one line each."""
    monkeypatch.chdir(tmp_path)
    base = backbone("llama")
    file = published(tmp_path / "published", base, layers=(1,)) / "layer_1" / "embeddings_cache.pt"
    good = torch.load(file)
    torch.save(good | {"extra": Evil()}, file)
    with pytest.raises(DataError, match="could run code when opened; it is not read"):
        convert_latent_index(tmp_path / "published", base, tmp_path / "index")
    file.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(DataError, match="could run code|missing or damaged"):
        convert_latent_index(tmp_path / "published", base, tmp_path / "index")
    assert not Path("ran").exists()
    assert not (tmp_path / "index" / "manifest.json").exists()
    wrong: list[tuple[object, str]] = [
        ([1], "is no latentlens cache"),
        (good | {"metadata": good["metadata"][:-1]}, "entries of metadata; expected as many"),
        (good | {"metadata": [{}] * len(good["metadata"])}, "metadata 0 lacks 'token_id'"),
        (good | {"embeddings": good["embeddings"] * float("nan")}, "not finite"),
        (good | {"embeddings": good["embeddings"][:, :8]}, "holds states of width 8, .* has 32"),
        (good | {"metadata": [{**m, "token_id": m["token_id"] + 1} for m in good["metadata"]]}, "are others where"),
    ]
    for content, message in wrong:
        torch.save(content, file)
        with pytest.raises((DataError, InputError), match=message):
            convert_latent_index(tmp_path / "published", base, tmp_path / "index")
    with pytest.raises(DataError, match="holds no layer_N"):
        convert_latent_index(tmp_path / "published" / "layer_1", base, tmp_path / "index")
    with pytest.raises(DataError, match="there is no latentlens index 'nobody/nothing'"):
        convert_latent_index("nobody/nothing", base, tmp_path / "index")


def test_the_commands(backbone: Get, folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Size first, then the index; the lens shows sentences; conversion by the same command."""
    from foresay.checkpoints.save import save

    base = backbone("llama")
    (tmp_path / "corpus.txt").write_text("\n".join(CORPUS))
    here = ["-m", folder("llama"), "--device", "cpu"]
    said = invoke("latent-index", tmp_path / "corpus.txt", "-o", tmp_path / "index", "--layers", "1", *here).output
    assert "texts at the layers 1: " in said
    assert "sentences, float16" in said
    save(tmp_path / "checkpoint", Encoder(Model(base, thought=0, compression=2, dim=8)))
    how = ["--lens", "latent", "--latent-index", tmp_path / "index", "--top", 2, "--device", "cpu"]
    assert "reads as (cosine)" in run("lens", tmp_path / "checkpoint", "a fox", *how)
    published(tmp_path / "published", base)
    converted = run("latent-index", "--convert", tmp_path / "published", "-o", tmp_path / "theirs", *here)
    assert "states of" in converted
    assert "either a file of texts or --convert" in run("latent-index", "-o", tmp_path / "x", *here, code=1)
