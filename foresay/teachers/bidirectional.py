"""A causal model read in both directions: full attention and LoRA adapters over the weights of a `Backbone`.

In: a backbone, and PEFT adapters. Out: states to which every token of a text has contributed, and their mean.
The model here is a twin: the same classes over the *same tensors*, so the backbone stays causal and as it was, and a
teacher costs no second copy of the weights. Attention is the library's own switch, `is_causal` in the twin's config
(transformers 5.2 and later), which eager, sdpa and flash attention follow, and sliding windows too.
A model that ignores the switch does not fail, it only embeds badly. So `Bidirectional` checks, each time it is made,
what a change of the last token does to the first state.
"""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, LoraModel, PeftConfig
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from ..backbone import Backbone
from ..batching import pad
from ..errors import BackboneError, InputError

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_REACTION = 1e-4
"""Least relative change of the first state when the last token changes; a causal model shows exactly none."""
_WORDS = "cat dog sun moon red blue one two up down north south"
"""What the check reads: words, since rows of a matrix that no text ever trained can be as good as equal."""
_PADS = {torch.float32: 1e-3}
"""Largest relative change of a state by padding, which other kernels than those of one text may add up to."""
_PADS_HALF = 5e-2


class Bidirectional:
    """A twin of the backbone that reads in both directions.

    Attributes:
        backbone: whose weights are read; never changed, unless `merge` is called.
        model: the twin, with adapters inside its linear layers.
        before: token ids that each text is read behind, and that its mean leaves out.
        behind: token ids that each text is read with, and that its mean takes in.
    """

    def __init__(self, backbone: Backbone, before: Sequence[int] | None = None, behind: Sequence[int] = ()) -> None:
        """Makes the twin, and checks that it does read in both directions.

        Args:
            backbone: whose weights to read.
            before: token ids before each text; as the tokenizer has them if left out.
            behind: token ids after each text.

        Raises:
            BackboneError: if attention is still causal, or padding has an influence.
        """
        self.backbone = backbone
        self.before = list(backbone.leading_ids if before is None else before)
        self.behind = list(behind)
        inner = backbone.model.base_model
        shared = {id(tensor): tensor for tensor in (*inner.parameters(), *inner.buffers())}
        self.model: Any = copy.deepcopy(inner, shared)
        for config in (self.model.config, self.model.config.get_text_config()):
            config.is_causal = False
        self._tuner: LoraModel | None = None
        self._adapters: list[str] = []
        self._sample: Tensor | None = None
        self.check()

    # -- adapters ----------------------------------------------------------------------------------------

    def new_adapter(self, rank: int, seed: int) -> None:
        """Adds a trainable adapter on every linear layer; it changes nothing before it is trained."""
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", bias="none")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not those of GPUs, which nothing here draws from
            self._inject(config)
        for weight in self.trained().values():
            weight.requires_grad_(True)

    def load_adapter(self, folder: Path) -> None:
        """Adds a trained adapter on top of those that are there: their changes add up, as merging them would.

        Raises:
            InputError: if the folder holds no LoRA adapter, or one of another model.
        """
        try:
            config = PeftConfig.from_pretrained(str(folder))
            tensors = load_file(folder / ADAPTER_WEIGHTS)
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"{folder} is not a PEFT adapter: {reason} (expected {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS})"
            ) from error
        if not isinstance(config, LoraConfig):
            raise InputError(f"{folder} is a PEFT adapter of the kind {config.peft_type}; expected LORA")
        config.inference_mode = True
        try:
            self._inject(config)
            self._fill(tensors)
        except ValueError as error:  # PEFT's own where no module matches, and ours
            raise InputError(
                f"the adapter {folder} does not fit {self.backbone.name}: {error}; name the model it was trained on"
            ) from error

    def save_adapter(self, folder: Path, base: str, revision: str | None) -> None:
        """Writes the last adapter in PEFT's format."""
        folder.mkdir(parents=True, exist_ok=True)
        config = copy.deepcopy(self.model.peft_config[self._adapters[-1]])
        config.base_model_name_or_path, config.revision, config.inference_mode = base, revision, True
        config.target_modules = sorted(config.target_modules)  # a set: else its order changes from run to run
        config.save_pretrained(str(folder))
        tensors = {name: weight.detach().cpu().contiguous() for name, weight in self.trained().items()}
        save_file(tensors, folder / ADAPTER_WEIGHTS)

    def trained(self) -> dict[str, nn.Parameter]:
        """The weights of the last adapter, float32 before `narrow`, under the names they have in PEFT's files."""
        mark = f".{self._adapters[-1]}."
        own = [(name, weight) for name, weight in self.model.named_parameters() if "lora_" in name and mark in name]
        return {f"base_model.model.{name.replace(mark, '.')}": weight for name, weight in own}

    def merge(self) -> None:
        """Adds the adapters into the weights, in place: as fast as the causal model, which is then gone."""
        self._sample = self.sample()
        for layer in self._layers():
            layer.merge(adapter_names=list(self._adapters))

    def sample(self) -> Tensor:
        """A sample of the backbone's weights, as they were before any merging."""
        return self.backbone.sample() if self._sample is None else self._sample

    def bare(self) -> Any:  # noqa: ANN401 - whatever class the model is of
        """The merged model without what held its adapters, to be saved; this object is then of no more use."""
        return self._tuner.unload() if self._tuner else self.model

    def narrow(self) -> None:
        """Brings trained adapters to the backbone's dtype, and makes their products short, for use beside it.

        In float32, their products and casts took 0.75 of the causal model's time in bfloat16.
        """
        for layer in self._layers():
            for weight in (*layer.lora_A.parameters(), *layer.lora_B.parameters()):
                weight.data = weight.data.to(self.backbone.dtype)
            if _is_plain(layer):
                layer.forward = _ShortProduct(layer)

    def _inject(self, config: LoraConfig) -> None:
        name = f"adapter{len(self._adapters)}"
        if self._tuner is None:
            self._tuner = LoraModel(self.model, {name: config}, name)
        else:
            self._tuner.peft_config[name] = config
            self._tuner.inject_adapter(self.model, name)
        self._adapters.append(name)
        for layer in self._layers():
            layer.set_adapter([one for one in self._adapters if one in layer.lora_A])
        for weight in self.trained().values():
            weight.requires_grad_(False)
            weight.data = weight.data.float()

    def _fill(self, tensors: dict[str, Tensor]) -> None:
        weights = self.trained()
        expected = {name: tuple(weight.shape) for name, weight in weights.items()}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if expected != found:
            name, _ = sorted(set(expected.items()) ^ set(found.items()))[0]
            raise ValueError(
                f"{name} is {found.get(name, 'not there')}, expected {expected.get(name, 'no such tensor')}"
            )
        for name, weight in weights.items():
            weight.data.copy_(tensors[name])

    def _layers(self) -> Iterable[LoraLayer]:
        return (module for module in self.model.modules() if isinstance(module, LoraLayer))

    def set_attention_dropout(self, share: float) -> None:
        """How many attention weights are dropped in training mode."""
        self.model.config.get_text_config().attention_dropout = share
        for name, module in self.model.named_modules():
            if isinstance(getattr(module, "attention_dropout", None), float | int):
                module.attention_dropout = share
            elif isinstance(module, nn.Dropout) and name.endswith(("attn_dropout", "attention_dropout")):
                module.p = share

    # -- texts to states ---------------------------------------------------------------------------------

    def states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """States of token ids, padded on the right: (rows, longest, hidden), after the final norm."""
        ids, lengths = pad(rows, self.backbone.pad_id, left=False, device=self.backbone.device, least=1)
        real = torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]
        states: Tensor = self.model(input_ids=ids, attention_mask=real.long(), use_cache=False).last_hidden_state
        return states

    def mean(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Mean state of each text, (rows, hidden) float32; rows are token ids of texts alone.

        What comes before a text, such as the tokenizer's leading token, is seen but left out of the mean, as
        LLM2Vec does.
        """
        states = self.states([[*self.before, *row, *self.behind] for row in rows])[:, len(self.before) :].float()
        lengths = torch.tensor([[len(row) + len(self.behind)] for row in rows], device=states.device)
        real = torch.arange(states.shape[1], device=states.device)[None] < lengths
        mean: Tensor = (states * real[..., None]).sum(dim=1) / lengths.clamp(min=1)
        return mean

    # -- the check ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def check(self) -> None:
        """Fails if the first state does not see the last token, or sees padding; alone and in a batch.

        Texts of four tokens, which the narrowest sliding window spans.
        """
        a, b, c, d, e, *_ = dict.fromkeys(self.backbone.tokenize([_WORDS])[0])
        text, other, longer = [a, b, c, d], [a, b, c, e], [e, d, c, b, a, b, c]
        alone = self.states([text])[0]
        batch = self.states([text, longer])[0, : len(text)]
        changed = {
            "alone": _reaction(self.states([other])[0, 0], alone[0]),
            "in a batch": _reaction(self.states([other, longer])[0, 0], batch[0]),
        }
        kind = f"{self.backbone.name} ({type(self.model).__name__}, {self.model.config._attn_implementation})"
        for where, distance in changed.items():
            if not distance > _REACTION:
                raise BackboneError(
                    f"{kind} keeps causal attention for a text {where}: its first state does not see its last token; "
                    "a teacher needs a model whose attention transformers can turn to both directions"
                )
        if not _distance(batch, alone) < _PADS.get(self.backbone.dtype, _PADS_HALF):
            raise BackboneError(f"{kind} lets padding into its states, so it cannot be a teacher; report this model")


def _is_plain(layer: Any) -> bool:  # noqa: ANN401 - PEFT's layers have no attributes that a type checker knows
    """Whether the layer computes W x + B A x for each of its adapters, and nothing besides."""
    biased = any(up.bias is not None for up in layer.lora_B.values())
    return isinstance(layer.base_layer, nn.Linear) and not layer.lora_variant and not biased


class _ShortProduct:
    """A layer's forward, which adds each adapter's product to the output in place, with one kernel.

    PEFT uses three: for the product, its scaling and the sum. On SmolLM2 in bfloat16, with rank 8 and 300 tokens, these
    add 0.4 to the model's time, and PEFT's add 0.7. No closure, so that a teacher can be copied and pickled.
    """

    def __init__(self, layer: Any) -> None:  # noqa: ANN401
        self.base = layer.base_layer
        self.parts = [
            (layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])
            for name in layer.active_adapters
        ]

    def __call__(self, states: Tensor) -> Tensor:
        out: Tensor = self.base(states)
        rows = out.reshape(-1, out.shape[-1])
        for down, up, scaling in self.parts:
            inner = functional.linear(states.to(down.dtype), down).reshape(-1, len(down))
            rows = rows.addmm_(inner.to(rows.dtype), up.t().to(rows.dtype), alpha=scaling)
        return rows.view_as(out)


def _reaction(found: Tensor, before: Tensor) -> float:
    """Relative change of the median number of a state (hidden,).

    Not of its length: in large models a few numbers of the first state are thousands of times the others, whatever
    the text is (arXiv 2402.17762), and would hide that the others react.
    """
    found, before = found.float(), before.float()
    return float(((found - before).abs() / (found.abs() + before.abs()).clamp(min=1e-30)).median())


def _distance(found: Tensor, expected: Tensor) -> float:
    found, expected = found.float(), expected.float()
    return float((found - expected).norm() / expected.norm())
