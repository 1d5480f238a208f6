"""From the states of the special tokens to soft prompts and embeddings: everything that is linear.

In: states (batch, compression, hidden); where every layer is read, (batch, layers, compression, hidden). Out:

    soft_prompt (batch, compression, hidden)   reconstruct(state), by one map or by one for each token
    embedding   (batch, dim)                   align(soft_prompt), or align(state) where each token has a map of its own

What the embedding reads of them, a mean, every token or every layer, is its readout (readouts.py).
Careful: all that lies between states and embedding fuses into one map, which `embed` uses; training needs `outputs`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .readouts import find as find_readout
from .readouts import gather


@dataclass(frozen=True)
class MapShape:
    """Between which sizes the maps lead.

    Attributes:
        hidden: width of a state.
        compression: special tokens that are read.
        dim: width of the embedding.
        layers: of the backbone.
    """

    hidden: int
    compression: int
    dim: int
    layers: int


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


class Maps(nn.Module):
    """The reconstruction map and the alignment map.

    Attributes:
        compression: special tokens that are read.
        reconstruct: last state to soft prompt, Linear(hidden, hidden), float32; or `TokenMaps`, one for each token.
        by_token: whether it is one for each token; the alignment map then reads the states, not the soft prompt.
        align: to embedding space, float32, Linear(hidden, dim); of each token or layer, Linear(parts * hidden, dim).
        center, spread: (layers, hidden), mean and standard deviation of the states over texts; only where every
            layer is read. Layers differ by orders of magnitude, and Adam's steps are the same for every weight.
        rotation: (dim, dim), orthogonal: from the teacher's axes to the embedding's, most telling first; only where
            embeddings are to be shortened.
        readout: name of what the alignment map reads, see readouts.py.
        mixing: the weight of each compression token in each part that is read of a layer.
        parts: how many vectors of the hidden width the alignment map reads.
        every_layer: whether it reads the states of every layer; these are then (batch, layers, compression, hidden).
        width: numbers that the alignment map reads of a text.
    """

    def __init__(self, shape: MapShape, *, readout: str, reconstruct: str, rotated: bool) -> None:
        """Draws the initial weights from the global generator.

        Args:
            shape: sizes.
            readout: what the alignment map reads, by its name in readouts.py.
            reconstruct: `one` map from states to soft prompts, as published, or one for each of the `tokens`.
            rotated: whether the embedding has axes of its own, see `rotation`.
        """
        super().__init__()
        found = find_readout(readout)
        self.compression, self.readout = shape.compression, readout
        self.every_layer, self.mixing = found.every_layer, found.mixing(shape.compression)
        self.parts = (shape.layers if self.every_layer else 1) * len(self.mixing)
        self.width = self.parts * shape.hidden
        self.by_token = reconstruct == "tokens"
        self.reconstruct = (
            TokenMaps(shape.compression, shape.hidden) if self.by_token else nn.Linear(shape.hidden, shape.hidden)
        )
        self.align = nn.Linear(self.width, shape.dim)
        if self.every_layer:
            self.register_buffer("center", torch.zeros(self.parts, shape.hidden))
            self.register_buffer("spread", torch.ones(self.parts, shape.hidden))
        self.register_buffer("rotation", torch.eye(shape.dim) if rotated else None)
        self.center: Tensor
        self.spread: Tensor
        self.rotation: Tensor | None
        self._cached_map: tuple[list[tuple[int, int]], tuple[Tensor, Tensor]] | None = None

    @property
    def dim(self) -> int:
        """Width of the embedding."""
        return self.align.out_features

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
        """All that lies between states and embedding as one map: weight (dim, width) and bias (dim,).

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
