"""The frozen language model and its tokenizer: loading, freezing, and turning text into token ids.

In: a name on the hub, a folder, the word `nano`, or a model that is already loaded. Out: a `Backbone`.
What a reader would get wrong: a user's text is never parsed for control tokens. `<|im_end|>` in a query is
nine characters of text, so a query cannot end its own turn, and a passage cannot fake a special token.
"""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .devices import QUANTIZED, devices, keep_differentiable, keep_together, pick_device, quantization
from .errors import BackboneError, InputError

logger = logging.getLogger(__name__)

NANO = "nano"
NANO_FOLDER = Path(__file__).parent / "packaged" / "nano"
OWN_TOKENIZER = "backbone_tokenizer"
"""Folder inside a checkpoint's copy of its backbone: there the tokenizer beside the weights appends special tokens."""
RESERVED = re.compile(r"[<\[].*(reserved|unused)")
"""Names of tokens that their makers left for others to use, such as `<|reserved_special_token_7|>` or `<unused7>`."""
_SENTINEL = "FORESAYTEXT"


def check_texts(texts: str | Sequence[str], what: str = "text") -> list[str]:
    """A list of texts that a tokenizer can take.

    Raises:
        InputError: for anything that is not a string, and for lone surrogates, with the position.
    """
    if isinstance(texts, str):
        texts = [texts]
    if not hasattr(texts, "__iter__"):
        raise InputError(f"expected a string or a list of strings, found {type(texts).__name__}")
    checked = list(texts)
    for i, text in enumerate(checked):
        if not isinstance(text, str):
            raise InputError(f"{what} {i} is {text!r} ({type(text).__name__}); expected a string")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"{what} {i} holds a lone surrogate at position {error.start}; "
                    "repair it with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
                ) from None
    return checked


@dataclass(eq=False)
class Backbone:
    """A frozen causal language model with its tokenizer. One copy serves encoding, training and decoding.

    Attributes:
        model: any model `AutoModelForCausalLM` loads; its weights are frozen and it is in eval mode.
        tokenizer: its fast tokenizer.
        name: hub id, folder, or `nano`; what a checkpoint records to find it again.
        revision: commit, branch or tag on the hub.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str | None = None

    def __post_init__(self) -> None:
        """Freezes the model, and checks what the method relies on."""
        self.model.requires_grad_(False).eval()
        if not self.tokenizer.is_fast:
            raise BackboneError(f"{self.name} has a slow tokenizer; Foresay needs one of the tokenizers library")
        self.model.get_output_embeddings().register_forward_pre_hook(_contiguous)
        self._check_head()

    @classmethod
    def load(
        cls,
        name: str,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        device_map: dict[str, str | int] | None = None,
    ) -> "Backbone":
        """Loads a model by hub id, folder, or `nano` (the small one inside this package).

        Args:
            name: hub id, folder, or `nano`.
            revision: commit, branch or tag, for hub ids.
            device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`; `spread` puts the layers on all GPUs, one part behind
                another, for a model that is too large for one.
            dtype: `auto` keeps the type the weights are stored in; `8bit` and `4bit` are made by bitsandbytes.
            device_map: which module goes where, as `spread` does by itself; see accelerate's documentation.

        Raises:
            BackboneError: if there is no such model, or it cannot be used.
            DeviceError: if the device does not exist here.
        """
        options: dict[str, Any] = {"dtype": dtype}
        if dtype in QUANTIZED:
            options = {"dtype": "auto", "quantization_config": quantization(dtype)}
        if device_map is None:
            device_map = "auto" if device == "spread" else {"": pick_device(device)}  # type: ignore[assignment, dict-item]
        source = str(locate(name))
        try:
            own = Path(source, OWN_TOKENIZER)
            tokenizer = AutoTokenizer.from_pretrained(str(own) if own.is_dir() else source, revision=revision)
            model = AutoModelForCausalLM.from_pretrained(source, revision=revision, device_map=device_map, **options)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise BackboneError(
                f"cannot load the language model {name!r}: {reason} (expected a folder with a causal model, "
                "a hub id, or the word nano)"
            ) from error
        keep_together(model, name)
        keep_differentiable(model)
        return cls(model, tokenizer, name, revision)

    # -- what the method needs to know about the model ---------------------------------------------------

    @property
    def address(self) -> str:
        """What another library finds it by, from any folder: its full path, or its hub id."""
        place = Path(locate(self.name))
        return str(place.resolve()) if place.is_dir() else self.name

    @property
    def device(self) -> torch.device:
        """Where the embedding matrix, and so the input, lives."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the embedding matrix."""
        return self.embedding.weight.dtype

    @property
    def number_type(self) -> str:
        """What `load` would have to be told as `dtype`: also `8bit` and `4bit`, in which only the layers are."""
        found = getattr(self.model.config, "quantization_config", None)
        if getattr(self.model, "is_quantized", False) and found is not None:
            return "4bit" if getattr(found, "load_in_4bit", False) else "8bit"
        return str(self.dtype).removeprefix("torch.")

    @property
    def spread(self) -> bool:
        """Whether the layers are on several devices."""
        return len(devices(self.model)) > 1

    @property
    def least_tokens(self) -> int:
        """Padded tokens in a forward pass that keep the device busy; cutting rows finer than this gains nothing."""
        return 512 if self.device.type == "cpu" else 8192

    @property
    def decoder(self) -> nn.Module:
        """The transformer without its language-model head; its last state is behind the final norm."""
        decoder: nn.Module = self.model.get_decoder()
        return decoder

    @property
    def embedding(self) -> nn.Embedding:
        """The input embedding."""
        embedding: nn.Embedding = self.model.get_input_embeddings()
        return embedding

    @property
    def embed_scale(self) -> float:
        """What the model multiplies its input embeddings by (Gemma: the square root of the width)."""
        return float(getattr(self.embedding, "embed_scale", 1.0))

    @cached_property
    def text_config(self) -> Any:  # noqa: ANN401 - transformers' configs are untyped
        """The configuration of the text part."""
        return self.model.config.get_text_config()

    @property
    def hidden_size(self) -> int:
        """Width of a state."""
        return int(self.text_config.hidden_size)

    @property
    def max_positions(self) -> int:
        """Longest sequence the model was made for."""
        return int(getattr(self.text_config, "max_position_embeddings", 0) or 1 << 20)

    def logits(self, hidden: Tensor) -> Tensor:
        """The head on states behind the final norm: (…, hidden) to (…, vocabulary).

        Three families change their logits behind the head; `_check_head` fails at load for a fourth.
        """
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        config = self.text_config
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        if scale != 1.0:  # logits are the largest tensor of a training step: not even a product with 1 is free
            logits = logits * scale
        cap = getattr(config, "final_logit_softcapping", None)
        return cap * torch.tanh(logits / cap) if cap else logits

    @torch.no_grad()
    def _check_head(self) -> None:
        """Fails if `logits` is not the model's own next-token distribution."""
        ids = torch.arange(4, device=self.device)[None] % self.text_config.vocab_size
        own = self.model(input_ids=ids, use_cache=False).logits.float()
        ours = self.logits(self.decoder(input_ids=ids, use_cache=False).last_hidden_state).float()
        if not torch.allclose(own, ours.to(own.device), atol=2e-2, rtol=2e-2):
            raise BackboneError(
                f"{self.name} ({type(self.model).__name__}) changes its logits in a way Foresay does not know; "
                "please report this model"
            )

    # -- text to token ids -------------------------------------------------------------------------------

    @cached_property
    def text_tokenizer(self) -> Tokenizer:
        """The tokenizer for user text: no token that the chat template or the model uses for control.

        `split_special_tokens` alone would leave the control tokens that are not marked special, such as
        Qwen3's `<think>`, so those are marked in this copy.
        """
        spec = json.loads(self.tokenizer.backend_tokenizer.to_str())
        mark_control_tokens(spec, self.tokenizer.chat_template)
        spec.update(post_processor=None, truncation=None, padding=None)
        copy: Tokenizer = Tokenizer.from_str(json.dumps(spec))
        copy.encode_special_tokens = True
        return copy

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text alone: no leading token, no template, no control tokens."""
        encodings = self.text_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    @cached_property
    def leading_ids(self) -> list[int]:
        """What the tokenizer itself puts before a text: a Llama or Gemma BOS, nothing for Qwen."""
        plain = self.tokenizer("a", add_special_tokens=False).input_ids
        full = self.tokenizer("a").input_ids
        starts = (i for i in range(len(full) - len(plain) + 1) if full[i : i + len(plain)] == plain)
        return list(full[: next(starts, 0)])

    def frame(self, template: str) -> tuple[list[int], list[int]]:
        """Token ids before and behind a text.

        Args:
            template: `none`: the tokenizer's own leading tokens and nothing behind; `chat`: the user's turn
                and the header of the assistant's, thinking mode off.

        Raises:
            InputError: if `chat` is asked of a model without a chat template.
        """
        if template == "none":
            return self.leading_ids, []
        if self.tokenizer.chat_template is None:
            raise InputError(f"{self.name} has no chat template; use --template none")
        before, behind = self._render([{"role": "user", "content": _SENTINEL}], add_generation_prompt=True)
        return self.control_ids(before), self.control_ids(behind)

    @cached_property
    def end_id(self) -> int:
        """The token that ends a response: what the chat template writes behind the assistant's turn."""
        fallback = self.tokenizer.eos_token_id
        if self.tokenizer.chat_template is not None:
            turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SENTINEL}]
            behind = self.control_ids(self._render(turns, add_generation_prompt=False)[1])
            if behind and (behind[0] in self.stop_ids or fallback is None):
                return behind[0]
        if fallback is None:
            raise BackboneError(f"the tokenizer of {self.name} names no eos token; set eos_token in its config")
        return int(fallback)

    @cached_property
    def stop_ids(self) -> list[int]:
        """Every token that ends generation, by the model's own configuration and its tokenizer's."""
        config = self.model.generation_config
        stops = getattr(config, "eos_token_id", None)
        listed = [stops] if isinstance(stops, int) else list(stops or [])
        own = self.tokenizer.eos_token_id
        return sorted({*listed, *([own] if own is not None else [])})

    @property
    def pad_id(self) -> int:
        """A token to pad with; pads are never attended to, so any will do."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.end_id)

    def _render(self, turns: list[dict[str, str]], *, add_generation_prompt: bool) -> tuple[str, str]:
        text = self.tokenizer.apply_chat_template(
            turns, add_generation_prompt=add_generation_prompt, tokenize=False, enable_thinking=False
        )
        before, found, behind = str(text).partition(_SENTINEL)
        if not found or _SENTINEL in behind:
            raise BackboneError(f"the chat template of {self.name} does not show each message once; use template none")
        return before, behind

    def control_ids(self, text: str) -> list[int]:
        """Token ids of a template's own text, in which control tokens are what they say."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    # -- telling two models apart ------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self) -> Tensor:
        """A few numbers of every inner weight, float32: enough to tell another model, revision or fine-tune.

        The embedding matrix is left out, since a checkpoint may write special tokens into its spare rows. Of weights
        in 8 or 4 bits the numbers are not to be had: NaN, which fits any.
        """
        outer = {id(self.embedding.weight), id(self.model.get_output_embeddings().weight)}
        inner = [w for _, w in sorted(self.model.named_parameters()) if id(w) not in outer]
        return torch.cat([_three_of(w) for w in inner])


def _three_of(weight: Tensor) -> Tensor:
    if not weight.is_floating_point():
        return torch.full((3,), float("nan"))
    return weight.flatten()[[0, weight.numel() // 2, weight.numel() - 1]].float().cpu()


def _contiguous(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Lets `generate` hand the head its last places in one piece.

    It hands over a slice, for which torch 2.13 on the CPU copies the head's matrix once a row (measured: 6 of
    the 7 seconds that the first token of 200 answers took).
    """
    return (inputs[0].contiguous(), *inputs[1:])


def locate(name: str) -> str | Path:
    """Where a backbone's files are: the packaged folder for `nano`, else the name itself."""
    return NANO_FOLDER if name == NANO else name


def mark_control_tokens(spec: dict[str, Any], chat_template: str | None) -> None:
    """Marks, in a tokenizer's JSON, the added tokens which no text may become as special.

    They are the ones that the chat template uses, and the reserved ones: special tokens may live in their rows.
    """
    for token in spec["added_tokens"]:
        name = token["content"]
        if RESERVED.match(name) or (not name.isspace() and name in (chat_template or "")):
            token["special"] = True


def same_backbone(backbone: Backbone, name: str, expected: Tensor) -> None:
    """Refuses a backbone whose sample of weights is not the expected one; `name` is the one that was recorded."""
    found = backbone.sample()
    known = ~(found.isnan() | expected.isnan()) if found.shape == expected.shape else None
    if known is None or not torch.allclose(found[known], expected[known], rtol=1e-2, atol=1e-3):
        raise BackboneError(
            f"{backbone.name} is not the model this checkpoint was trained on ({name}): its weights differ; "
            "pass the right one, or the right revision"
        )
