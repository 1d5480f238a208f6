"""The method (arXiv 2603.10913, section 3): a frozen language model, special tokens, and two linear maps.

In: token ids of texts. Out: states of the special tokens, which the maps (maps.py) lead to soft_prompt (batch,
compression, hidden) and embedding (batch, dim). What the frozen model makes of a soft prompt is in reconstruction.py.

Attention is causal, which two things here rest on:

* Padding is on the right in a one-pass forward, so no real token sees it and no mask is needed.
* Nothing trained comes before the special tokens, so the text's states need no gradient. `hidden_split`
  runs the text once without one, keeps its key/value cache, and differentiates only the special tokens.

Be careful: `special_tokens` are rows of the embedding matrix, *before* the scale that Gemma multiplies its embeddings
by; `soft_prompt` is what the first layer receives, *after* that scale.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache

from .backbone import Backbone
from .batching import SHORTEST_SHARED_PREFIX, Budget, Progress, Row, pad, run_by_length, shared_prefix
from .errors import InputError
from .maps import Maps, MapShape

if TYPE_CHECKING:
    from .adapter import Adapter


class Model(Maps):
    """A frozen backbone with trainable special tokens and two linear maps, whose attributes are in `Maps`.

    Attributes:
        special_tokens: (thought + compression, hidden) float32; the thought tokens come first.
        thought: how many tokens come first, whose outputs are ignored.
        template: what goes around a text; `prefix_ids` and `suffix_ids` are its token ids.
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
            template: what goes around a text, see `Backbone.frame`.
            readout: what the alignment map reads, by its name in readouts.py.
            reconstruct: `one` map from states to soft prompts, as published, or one for each of the `tokens`.
            rotated: whether the embedding has axes of its own, see `rotation`.
            lora_rank: of an adapter that reads the texts too; 0 for none, as published.
            seed: of the initial weights.
        """
        layers = int(backbone.text_config.num_hidden_layers)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not those of GPUs, which nothing here draws from
            special_tokens = _like_rows_of(backbone.embedding.weight, thought + compression)
            super().__init__(
                MapShape(backbone.hidden_size, compression, dim, layers),
                readout=readout,
                reconstruct=reconstruct,
                rotated=rotated,
            )
        object.__setattr__(self, "backbone", backbone)
        self.backbone: Backbone
        self.thought, self.template = thought, template
        self.prefix_ids, self.suffix_ids = backbone.frame(template)
        self.special_tokens = nn.Parameter(special_tokens)
        self.adapter = _adapter(backbone, lora_rank, seed) if lora_rank else None
        self._kept: tuple[tuple[int, ...], DynamicCache | None] = ((), None)
        self.to(backbone.device)

    @property
    def tokens(self) -> int:
        """Number of special tokens."""
        return self.thought + self.compression

    @property
    def reader(self) -> nn.Module:
        """The decoder that reads texts and special tokens; soft prompts are read by the backbone's own."""
        return self.backbone.decoder if self.adapter is None else self.adapter.decoder

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
        cached = backbone.cached(None if prefix is None else _expand(prefix, len(rows)))
        out = self.reader(inputs_embeds=inputs, output_hidden_states=layers, **cached)
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
        shared, prefix = self.shared(rows)
        budget = Budget(batch_tokens, self.backbone.least_tokens, batch_rows, extra=self.tokens + shared)
        rest = [row[shared:] for row in rows]
        run_by_length(rest, lambda batch: take(self.hidden(batch, prefix)), out, budget, progress)

    def shared(self, rows: Sequence[Row]) -> tuple[int, DynamicCache | None]:
        """How many tokens all rows begin with, and their cache, for `hidden`; 0 and None where that does not pay.

        If the rows share little beyond the template, only the template counts, so that small batches, one after the
        other, can use the same cache. The last cache is kept, except with an adapter, which may be in training. The
        number depends on the rows alone, and so do their states.
        """
        length, template = shared_prefix(rows) if self.backbone.splits else 0, len(self.prefix_ids)
        if not length:
            return 0, None
        if SHORTEST_SHARED_PREFIX <= template <= length < template + SHORTEST_SHARED_PREFIX:
            length = template
        begin, (kept, cache) = tuple(rows[0][:length]), self._kept
        if cache is None or kept != begin:
            cache = self.prefill(begin)
            if self.adapter is None:
                self._kept = (begin, cache)
        return length, cache

    @torch.no_grad()
    def prefill(self, ids: Sequence[int]) -> DynamicCache:
        """Key/value cache of tokens that many rows begin with; `hidden` copies it to each row."""
        cache = DynamicCache()
        tokens = torch.tensor([list(ids)], device=self.backbone.device)
        self.reader(input_ids=tokens, **self.backbone.cached(cache))
        return cache

    def hidden_split(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """The same states as `hidden` with the same gradient, at about a third of its cost.

        The text runs once without gradient; only the special tokens are differentiated, against its cache.
        Here padding is on the left, so that the special tokens come right after each text, as the
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
                    **backbone.cached(cache),
                )
        out = self.reader(
            inputs_embeds=self._specials(len(rows)),
            attention_mask=mask,
            position_ids=special_positions,
            output_hidden_states=self.every_layer,
            **backbone.cached(cache),
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
