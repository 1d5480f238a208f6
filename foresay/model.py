"""The method (arXiv 2603.10913, section 3): a frozen language model, special tokens, and two linear maps.

In: token ids of texts. Out: states of the special tokens → soft_prompt (batch, compression, hidden) and
embedding (batch, dim); and the loss of writing the response from a soft prompt. What the embedding reads of the
states, a mean, every token or every layer, is its readout (readouts.py).

Attention is causal, which two things here rest on:

* Padding stands on the right in a one-pass forward, so no real token sees it and no mask is needed.
* Nothing trained stands before the special tokens, so the text's states need no gradient. `hidden_split`
  runs the text once without one, keeps its key/value cache, and differentiates only the special tokens.

Be careful: `special_tokens` are rows of the embedding matrix, *before* the scale that Gemma multiplies its embeddings
by; `soft_prompt` is what the first layer receives, *after* that scale.
"""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache

from .backbone import Backbone
from .batching import Budget, Progress, Row, pad, run_by_length, shared_prefix
from .cross_entropy import chunked_cross_entropy
from .errors import BackboneError, InputError
from .readouts import find as find_readout
from .readouts import gather

if TYPE_CHECKING:
    from .adapter import Adapter


class Model(nn.Module):
    """A frozen backbone with trainable special tokens and two linear maps.

    Attributes:
        special_tokens: (thought + compression, hidden) float32; the thought tokens come first.
        reconstruct: last state to soft prompt, Linear(hidden, hidden), float32; or `TokenMaps`, one for each token.
        by_token: whether it is one for each token; the alignment map then reads the states, not the soft prompt.
        align: to embedding space, float32, Linear(hidden, dim); of each token or layer, Linear(parts * hidden, dim).
        center, spread: (layers, hidden), mean and standard deviation of the states over texts; only where every
            layer is read. Layers differ by orders of magnitude, and Adam's steps are the same for every weight.
        rotation: (dim, dim), orthogonal: from the teacher's axes to the embedding's, most telling first; only where
            embeddings are to be shortened.
        readout: name of what the alignment map reads, see readouts.py.
        parts: how many vectors of the hidden width that is.
        every_layer: whether it reads the states of every layer; these are then (batch, layers, compression, hidden).
        adapter: LoRA weights of the decoder that reads texts; None as published.
        backbone: the frozen model; not a submodule, so it is neither trained, saved nor moved with this one.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        thought: int,
        compression: int,
        dim: int,
        template: str = "none",
        readout: str = "mean",
        reconstruct: str = "one",
        rotated: bool = False,
        lora_rank: int = 0,
        seed: int = 0,
    ) -> None:
        """Draws the initial weights from `seed`, whatever the state of the global generator.

        Args:
            backbone: the frozen language model.
            thought: special tokens whose outputs are ignored.
            compression: special tokens whose outputs are read.
            dim: width of the teacher's vectors, and so of the embedding.
            template: what stands around a text, see `Backbone.frame`.
            readout: what the alignment map reads, by its name in readouts.py.
            reconstruct: `one` map from states to soft prompts, as published, or one for each of the `tokens`.
            rotated: whether the embedding has axes of its own, see `rotation`.
            lora_rank: of an adapter that reads the texts too; 0 for none, as published.
            seed: of the initial weights.
        """
        super().__init__()
        object.__setattr__(self, "backbone", backbone)
        self.backbone: Backbone
        self.thought, self.compression, self.template, self.readout = thought, compression, template, readout
        found = find_readout(readout)
        self.every_layer, self.mixing = found.every_layer, found.mixing(compression)
        layers = int(backbone.text_config.num_hidden_layers) if self.every_layer else 1
        self.parts = layers * len(self.mixing)
        self.prefix_ids, self.suffix_ids = backbone.frame(template)
        hidden = backbone.hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.special_tokens = nn.Parameter(_like_rows_of(backbone.embedding.weight, thought + compression))
            self.by_token = reconstruct == "tokens"
            self.reconstruct = TokenMaps(compression, hidden) if self.by_token else nn.Linear(hidden, hidden)
            self.align = nn.Linear(self.width, dim)
        if self.every_layer:
            self.register_buffer("center", torch.zeros(self.parts, hidden))
            self.register_buffer("spread", torch.ones(self.parts, hidden))
        self.register_buffer("rotation", torch.eye(dim) if rotated else None)
        self.center: Tensor
        self.spread: Tensor
        self.rotation: Tensor | None
        self._cached_map: tuple[list[tuple[int, int]], tuple[Tensor, Tensor]] | None = None
        self.adapter = _adapter(backbone, lora_rank, seed) if lora_rank else None
        self.to(backbone.device)

    @property
    def tokens(self) -> int:
        """Number of special tokens."""
        return self.thought + self.compression

    @property
    def width(self) -> int:
        """Numbers that the alignment map reads of a text."""
        return self.parts * self.backbone.hidden_size

    @property
    def reader(self) -> nn.Module:
        """The decoder that reads texts and special tokens; soft prompts are read by the backbone's own."""
        return self.backbone.decoder if self.adapter is None else self.adapter.decoder

    @property
    def dim(self) -> int:
        """Width of the embedding."""
        return self.align.out_features

    # -- text to token ids -------------------------------------------------------------------------------

    def rows(self, texts: Sequence[str], max_tokens: int) -> tuple[list[list[int]], list[bool]]:
        """Token ids of each text inside the template, cut so that every special token still fits.

        Args:
            texts: texts that `check_texts` has passed.
            max_tokens: longest input, template and special tokens included.

        Returns:
            the rows, and for each whether the text was cut.

        Raises:
            InputError: if not even an empty text fits.
        """
        return self.framed(self.backbone.tokenize(texts), max_tokens)

    def framed(self, ids: Sequence[Row], max_tokens: int) -> tuple[list[list[int]], list[bool]]:
        """`rows` for texts that are token ids already."""
        fixed = len(self.prefix_ids) + len(self.suffix_ids) + self.tokens
        room = max_tokens - fixed
        if room < 1:
            raise InputError(
                f"the limit is {max_tokens} tokens; the template and the special tokens alone take {fixed}"
            )
        rows = [[*self.prefix_ids, *row[:room], *self.suffix_ids] for row in ids]
        return rows, [len(row) > room for row in ids]

    # -- texts to states ---------------------------------------------------------------------------------

    def hidden(self, rows: Sequence[Sequence[int]], prefix: DynamicCache | None = None) -> Tensor:
        """States of the compression tokens in one pass.

        Args:
            rows: token ids, without special tokens; without the shared prefix, if one is given.
            prefix: what `prefill` returned for the tokens that all rows begin with.

        Returns:
            (batch, compression, hidden), after the final norm, in the backbone's dtype; where every layer is
            read, (batch, layers, compression, hidden), of which the last is after the final norm.
        """
        return self._read(self._one_pass(rows, prefix, layers=self.every_layer))

    def hidden_layers(self, rows: Sequence[Sequence[int]], prefix: DynamicCache | None = None) -> Tensor:
        """States of the compression tokens at every layer; see `hidden` for the arguments.

        Returns:
            (batch, layers + 1, compression, hidden): the input embedding first, the last after the final norm.
        """
        return torch.stack(self._one_pass(rows, prefix, layers=True), dim=1)

    def _one_pass(
        self, rows: Sequence[Sequence[int]], prefix: DynamicCache | None, *, layers: bool
    ) -> tuple[Tensor, ...]:
        backbone = self.backbone
        ids, lengths = pad(rows, backbone.pad_id, left=False, device=backbone.device)
        row = torch.arange(len(rows), device=ids.device)[:, None]
        at = lengths[:, None] + torch.arange(self.tokens, device=ids.device)
        inputs = functional.pad(backbone.embedding(ids), (0, 0, 0, self.tokens))
        inputs = inputs.index_put((row, at), self._specials(len(rows)))
        cached = {} if prefix is None else {"past_key_values": _expand(prefix, len(rows))}
        out = self.reader(inputs_embeds=inputs, use_cache=bool(cached), output_hidden_states=layers, **cached)
        states = out.hidden_states if layers else (out.last_hidden_state,)
        return tuple(state[row, at[:, self.thought :]] for state in states)

    @torch.no_grad()
    def run(
        self,
        rows: Sequence[Row],
        take: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
        out: Sequence[Tensor],
        batch_tokens: int = 8192,
        progress: Progress | None = None,
        batch_rows: int | None = None,
    ) -> None:
        """Runs any number of rows without gradient; what all of them begin with, a prompt or a template, only once.

        Args:
            rows: token ids, without special tokens.
            take: what is wanted of the states of a batch, which `hidden` returns.
            out: what to fill, a tensor (rows, …) for each that `take` returns; see `run_by_length`.
            batch_tokens: most padded tokens in one forward pass.
            progress: told how many rows each finished batch held.
            batch_rows: most rows in one forward pass.
        """
        shared = shared_prefix(rows) if self.backbone.splits else 0
        prefix = self.prefill(rows[0][:shared]) if shared else None
        budget = Budget(batch_tokens, self.backbone.least_tokens, batch_rows, extra=self.tokens + shared)
        rest = [row[shared:] for row in rows]
        run_by_length(rest, lambda batch: take(self.hidden(batch, prefix)), out, budget, progress)

    @torch.no_grad()
    def prefill(self, ids: Sequence[int]) -> DynamicCache:
        """Key/value cache of tokens that many rows begin with; `hidden` copies it to each row."""
        cache = DynamicCache()
        tokens = torch.tensor([list(ids)], device=self.backbone.device)
        self.reader(input_ids=tokens, past_key_values=cache, use_cache=True)
        return cache

    def hidden_split(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """The same states as `hidden` with the same gradient, at about a third of its cost.

        The text runs once without gradient; only the special tokens are differentiated, against its cache.
        Here padding stands on the left, so that the special tokens stand right behind each text, as the
        sliding windows of Gemma and Mistral, which count places and not positions, need it.

        Returns:
            what `hidden` returns.
        """
        if self.adapter is not None or not self.backbone.splits:
            return self.hidden(rows)  # the text's states depend on the adapter, or are no key/value cache
        backbone = self.backbone
        ids, lengths = pad(rows, backbone.pad_id, left=True, device=backbone.device)
        longest = ids.shape[1]
        special_positions = lengths[:, None] + torch.arange(self.tokens, device=ids.device)
        cache, mask = None, None
        if longest:
            cache = DynamicCache()
            place = torch.arange(longest + self.tokens, device=ids.device)[None]
            if int(lengths.min()) < longest:
                mask = (place >= (longest - lengths)[:, None]).long()
            positions = (place[:, :longest] - (longest - lengths)[:, None]).clamp(min=0)
            with torch.no_grad():
                self.reader(
                    input_ids=ids,
                    attention_mask=None if mask is None else mask[:, :longest],
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                )
        out = self.reader(
            inputs_embeds=self._specials(len(rows)),
            attention_mask=mask,
            position_ids=special_positions,
            past_key_values=cache,
            use_cache=cache is not None,
            output_hidden_states=self.every_layer,
        )
        states = out.hidden_states if self.every_layer else (out.last_hidden_state,)
        return self._read(tuple(state[:, self.thought :] for state in states))

    def _read(self, states: tuple[Tensor, ...]) -> Tensor:
        """The layers that are read, of all that were returned; never the first, which is the input itself."""
        return torch.stack(states[1:], dim=1) if self.every_layer else states[0]

    def _specials(self, batch: int) -> Tensor:
        """The special tokens as the first layer receives them: (batch, tokens, hidden)."""
        scaled = self.special_tokens.to(self.backbone.dtype) * self.backbone.embed_scale
        return scaled.to(self.backbone.dtype).expand(batch, -1, -1)

    # -- states to vectors -------------------------------------------------------------------------------

    def soft_prompt(self, hidden: Tensor) -> Tensor:
        """States to soft prompts (batch, compression, hidden), float32; of several layers, the last counts."""
        prompts: Tensor = self.reconstruct(self.last(hidden).float())
        return prompts

    def last(self, hidden: Tensor) -> Tensor:
        """States of the last layer (batch, compression, hidden), whether every layer was read or not."""
        return hidden[:, -1] if self.every_layer else hidden

    def outputs(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """States to soft prompts (batch, compression, hidden) and embeddings (batch, dim), both float32."""
        soft_prompt = self.soft_prompt(hidden)
        if self.every_layer:
            return soft_prompt, self.align(self._standardised(hidden))
        read = self.features(hidden) if self.by_token else gather(soft_prompt, self.mixing)
        return soft_prompt, self.align(read)

    @torch.no_grad()
    def embed(self, hidden: Tensor) -> Tensor:
        """States to embeddings (batch, dim), float32, by the fused map: what one uses when nothing is to be trained.

        States of every layer are not fused but standardised first: a few of their numbers are thousands of times
        their own spread, and the sum over them would lose digits.
        """
        if self.every_layer:
            return self.align(self._standardised(hidden))  # type: ignore[no-any-return]
        return functional.linear(self.features(hidden), *self._fused())

    def _fused(self) -> tuple[Tensor, Tensor]:
        """`fused_map`, computed once for as long as the maps stay as they are."""
        maps = (*self.align.parameters(), *self.reconstruct.parameters())
        state = [(weight.data_ptr(), weight._version) for weight in maps]
        if self._cached_map is None or self._cached_map[0] != state:
            self._cached_map = (state, self.fused_map())
        return self._cached_map[1]

    def _standardised(self, hidden: Tensor) -> Tensor:
        return (self.features(hidden) - self.center.flatten()) / self.spread.flatten()

    def features(self, hidden: Tensor) -> Tensor:
        """What the embedding is a linear map of: (batch, width), float32."""
        return gather(hidden.to(self.align.weight.dtype), self.mixing)

    def fused_map(self) -> tuple[Tensor, Tensor]:
        """All that stands between states and embedding as one map: weight (dim, width) and bias (dim,).

        Every step of it is linear and every part a mean, so embedding = features(hidden) @ weight.T + bias.
        """
        weight, bias = self.align.weight, self.align.bias
        if self.every_layer:
            weight = weight / self.spread.flatten()
            return weight, bias - weight @ self.center.flatten()
        if self.by_token:
            return weight, bias
        by_part = weight.view(self.dim, self.parts, -1)
        return (by_part @ self.reconstruct.weight).flatten(1), by_part.sum(dim=1) @ self.reconstruct.bias + bias

    def to_own_axes(self, vectors: Tensor) -> Tensor:
        """The teacher's vectors (batch, dim) as the embedding spells them; cosines and distances stay."""
        return vectors if self.rotation is None else vectors @ self.rotation

    # -- the loss of decoding ----------------------------------------------------------------------------

    def reconstruction_loss(self, soft_prompt: Tensor, responses: Sequence[Sequence[int]]) -> Tensor:
        """Next-token cross-entropy of the responses with the soft prompt as their only prefix.

        Args:
            soft_prompt: (batch, compression, hidden).
            responses: token ids of each response, its end token included.

        Returns:
            nats, *summed* over all response tokens of the batch.
        """
        backbone = self.backbone
        ids, lengths = pad(responses, backbone.pad_id, left=False, device=backbone.device)
        inputs = torch.cat([soft_prompt.to(backbone.dtype), backbone.embedding(ids[:, :-1])], dim=1)
        states = backbone.decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state
        states = states[:, soft_prompt.shape[1] - 1 :]
        labelled = torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]
        return chunked_cross_entropy(states[labelled], ids[labelled], backbone.logits, backbone.text_config.vocab_size)

    # -- decoding ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(self, soft_prompts: Tensor, max_new_tokens: int, **options: Any) -> Tensor:  # noqa: ANN401
        """Continues soft prompts (batch, compression, hidden) by the library's own `generate`.

        Args:
            soft_prompts: what `soft_prompt` returned.
            max_new_tokens: longest continuation.
            **options: handed to `generate`, for instance `streamer`.

        Returns:
            token ids (batch, at most max_new_tokens), padded behind each row's stop token.

        Raises:
            BackboneError: if the library cannot make this model write from embeddings.
        """
        backbone = self.backbone
        inputs = soft_prompts.to(backbone.device, backbone.dtype)
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "repetition_penalty": 1.0}
        if "inputs_embeds" not in signature(backbone.model.prepare_inputs_for_generation).parameters:
            raise BackboneError(
                f"{backbone.name} ({type(backbone.model).__name__}) embeds, but transformers cannot make it write from "
                "soft prompts; decoding needs another backbone"
            )
        ids: Tensor = backbone.model.generate(
            inputs_embeds=inputs,
            attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long, device=inputs.device),
            max_new_tokens=max_new_tokens,
            eos_token_id=backbone.stop_ids or [backbone.end_id],
            pad_token_id=backbone.pad_id,
            **{**greedy, **options},
        )
        return ids


class TokenMaps(nn.Module):
    """A linear map for each token: (batch, tokens, hidden) to the same shape.

    Attributes:
        weight: (tokens, out, in) float32.
        bias: (tokens, out) float32.
    """

    def __init__(self, tokens: int, hidden: int) -> None:
        """Draws the weights as `nn.Linear` does."""
        super().__init__()
        maps = [nn.Linear(hidden, hidden) for _ in range(tokens)]
        self.weight = nn.Parameter(torch.stack([one.weight.detach() for one in maps]))
        self.bias = nn.Parameter(torch.stack([one.bias.detach() for one in maps]))

    def forward(self, states: Tensor) -> Tensor:
        """Each token's state through its own map."""
        return torch.einsum("bth,tdh->btd", states, self.weight) + self.bias


def _like_rows_of(matrix: Tensor, rows: int) -> Tensor:
    """Random rows with the mean and spread of the embedding matrix: a start the frozen layers are used to."""
    sample = matrix.detach()[: 1 << 16].float().cpu()
    return sample.mean(0) + sample.std(0) * torch.randn(rows, sample.shape[1])


def _adapter(backbone: Backbone, rank: int, seed: int) -> "Adapter":
    from .adapter import Adapter  # brings in PEFT, which the method itself does without

    return Adapter(backbone, rank, seed)


def _expand(cache: DynamicCache, batch: int) -> DynamicCache:
    """A one-row cache seen as `batch` rows; the first update copies it, so the original stays as it was."""
    layers = [(layer.keys.expand(batch, -1, -1, -1), layer.values.expand(batch, -1, -1, -1)) for layer in cache.layers]
    return DynamicCache(layers)
