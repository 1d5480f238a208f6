"""The options of each step: one frozen dataclass a step, the help text beside each field.

The command line is made from these classes (`cli.options`), a checkpoint stores them as JSON, and the
library functions take them as they are, so an option has one name, one default and one help text.
This module must not import torch: `foresay --help` reads it.
"""

from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from . import readouts
from .errors import InputError

DTYPES = ("auto", "float32", "bfloat16", "float16", "8bit", "4bit")
DType = Literal["auto", "float32", "bfloat16", "float16", "8bit", "4bit"]
Template = Literal["none", "chat"]
Start = Literal["closed-form", "random"]
Documents = Literal["checkpoint", "teacher"]
Alignment = Literal["relative", "cosine", "mse"]
Select = Literal["embedding", "loss"]
Reconstruct = Literal["tokens", "one"]
Of = Literal["response", "query"]
Storage = Literal["float16", "int8"]
EngineName = Literal["transformers", "vllm", "openai"]
Shards = Literal["none", "npy", "parquet"]
Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
Tracker = Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]


class Options:
    """What the option classes share: checking, and how the command line shows them."""

    SECTIONS: ClassVar[dict[str, str]] = {}

    @classmethod
    def help(cls) -> dict[str, str]:
        """The help text of each field."""
        hints = get_type_hints(cls, include_extras=True)
        return {field.name: get_args(hints[field.name])[1] for field in fields(cls)}  # type: ignore[arg-type]

    @classmethod
    def sections(cls) -> dict[str, str]:
        """The title under which the help lists each field: `SECTIONS` names the first field of each section."""
        titles, title = {}, "Options"
        for field in fields(cls):  # type: ignore[arg-type]
            title = cls.SECTIONS.get(field.name, title)
            titles[field.name] = title
        return titles

    @classmethod
    def types(cls) -> dict[str, Any]:
        """The plain type of each field, without its help text."""
        return get_type_hints(cls)

    def as_options(self) -> list[str]:
        """The command line's words for the options that are not at their defaults."""
        changed = [field for field in fields(self) if getattr(self, field.name) != field.default]  # type: ignore[arg-type]
        return [
            word for field in changed for word in ("--" + field.name.replace("_", "-"), str(getattr(self, field.name)))
        ]

    @classmethod
    def choices(cls) -> dict[str, tuple[str, ...]]:
        """The words that a field takes, for each that takes only some."""
        return {name: get_args(hint) for name, hint in cls.types().items() if get_origin(hint) is Literal}

    def __post_init__(self) -> None:
        """Refuses values outside a field's choices: a typo must not train for an hour first."""
        for name, known in self.choices().items():
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


@dataclass(frozen=True)
class RespondConfig(Options):
    """How the backbone writes its responses."""

    max_new_tokens: Annotated[int, "Longest response, in tokens."] = 500
    temperature: Annotated[float, "Sampling temperature; 0 takes the most likely token each time."] = 0.0
    top_p: Annotated[float, "Sample from the smallest set of tokens with this much probability."] = 1.0
    seed: Annotated[int, "Seed of the sampling; the same text and seed give the same response."] = 0
    responses: Annotated[
        int, "Responses to each query, with ids such as q1, q1#1, q1#2; more than one needs a temperature."
    ] = 1
    system: Annotated[str, "A system prompt before every query."] = ""
    max_query_tokens: Annotated[int, "Longer queries are refused (to the .rejected.jsonl file)."] = 2048
    retry_rejected: Annotated[bool, "Try the rows again that an earlier run has rejected."] = False
    engine: Annotated[
        EngineName,
        "Who answers: the transformers library or vLLM, here, or any OpenAI-compatible endpoint (--base-url).",
    ] = "transformers"
    batch_size: Annotated[int, "Most queries answered side by side (by the endpoint: requests under way)."] = 64
    batch_tokens: Annotated[
        int, "Most tokens that transformers holds at once, prompts and responses together; halved if memory runs out."
    ] = 65_536

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        _require(self.max_new_tokens > 0, f"max_new_tokens is {self.max_new_tokens}; expected 1 or more")
        _require(self.temperature >= 0, f"temperature is {self.temperature}; expected 0 or more")
        _require(0 < self.top_p <= 1, f"top_p is {self.top_p}; expected a number above 0 and at most 1")
        for name in ("batch_size", "batch_tokens", "responses", "max_query_tokens"):
            _require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; expected 1 or more")
        _require(
            self.responses == 1 or self.temperature > 0,
            f"responses is {self.responses} and temperature is 0, so all of them would be the same; set a temperature",
        )


@dataclass(frozen=True)
class EndpointConfig(Options):
    """An OpenAI-compatible server; its key is read from OPENAI_API_KEY, and written nowhere."""

    SECTIONS = {"base_url": "An endpoint (--engine openai)"}

    base_url: Annotated[str, "Address of the server, such as http://localhost:8000/v1."] = "https://api.openai.com/v1"
    timeout: Annotated[float, "Seconds until a request counts as failed."] = 120.0
    attempts: Annotated[int, "Times a request is tried, with growing pauses, before its row is rejected."] = 6
    requests_per_minute: Annotated[int, "Most requests a minute; 0 for no limit."] = 0
    tokens_per_minute: Annotated[int, "Most tokens a minute, prompts and longest responses; 0 for no limit."] = 0

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        _require(self.timeout > 0, f"timeout is {self.timeout}; expected a number above 0")
        _require(self.attempts > 0, f"attempts is {self.attempts}; expected 1 or more")
        for name in ("requests_per_minute", "tokens_per_minute"):
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; expected 0 or more")


@dataclass(frozen=True)
class VLLMConfig(Options):
    """How vLLM holds the model; the names are its own."""

    SECTIONS = {"tensor_parallel_size": "vLLM (--engine vllm)"}

    tensor_parallel_size: Annotated[int, "GPUs that share each layer of the model."] = 1
    max_model_len: Annotated[int, "Longest prompt and response together; 0 for as long as a row can become."] = 0
    gpu_memory_utilization: Annotated[float, "Share of the memory that vLLM may fill; the rest is left free."] = 0.9
    enforce_eager: Annotated[bool, "Compile nothing: it starts a minute sooner and writes more slowly."] = False

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        _require(
            self.tensor_parallel_size > 0, f"tensor_parallel_size is {self.tensor_parallel_size}; expected 1 or more"
        )
        _require(self.max_model_len >= 0, f"max_model_len is {self.max_model_len}; expected 1 or more, or 0")
        _require(
            0 < self.gpu_memory_utilization <= 1,
            f"gpu_memory_utilization is {self.gpu_memory_utilization}; expected a number above 0 and at most 1",
        )


@dataclass(frozen=True)
class ShardsConfig(Options):
    """How many embeddings are stored."""

    SECTIONS = {"shards": "Many texts (a folder of shards)"}

    shards: Annotated[Shards, "Make OUTPUT a folder of shards, in this format; run again, it resumes."] = "none"
    shard_rows: Annotated[int, "Texts a shard: what is embedded as one piece, and what a kill costs at most."] = 16384
    precision: Annotated[
        Precision, "Numbers of the stored embeddings, quantised by sentence-transformers; needs --shards."
    ] = "float32"
    devices: Annotated[
        str, "A process for each of these: all (every GPU), cuda:0,cuda:1 or cpu,cpu; needs --shards."
    ] = ""

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        _require(self.shard_rows > 0, f"shard_rows is {self.shard_rows}; expected 1 or more")
        for name in ("precision", "devices"):
            given = getattr(self, name) != type(self).__dataclass_fields__[name].default
            _require(self.shards != "none" or not given, f"--{name} stores a folder of shards; add --shards npy")


@dataclass(frozen=True)
class DecodeConfig(Options):
    """How a soft prompt is written out."""

    max_new_tokens: Annotated[int, "Longest text, in tokens."] = 256
    temperature: Annotated[float, "Sampling temperature; 0 takes the most likely token each time."] = 0.0
    top_p: Annotated[float, "Sample from the smallest set of tokens with this much probability."] = 1.0
    seed: Annotated[int, "Seed of the sampling; it gives the same texts however they are batched."] = 0
    stop: Annotated[tuple[str, ...], "Stop before this text; repeatable."] = ()
    ask: Annotated[str, "Put this after the soft prompt, such as 'In one word:', and write what follows."] = ""
    batch_size: Annotated[int, "Soft prompts decoded together."] = 64

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        _require(self.max_new_tokens > 0, f"max_new_tokens is {self.max_new_tokens}; expected 1 or more")
        _require(self.temperature >= 0, f"temperature is {self.temperature}; expected 0 or more")
        _require(0 < self.top_p <= 1, f"top_p is {self.top_p}; expected a number above 0 and at most 1")
        _require(self.batch_size > 0, f"batch_size is {self.batch_size}; expected 1 or more")
        _require("" not in self.stop, "stop holds an empty text, which would stop at once; leave it out")


@dataclass(frozen=True)
class LensConfig(Options):
    """How the special tokens are read."""

    lens: Annotated[str, "logit: the likeliest next tokens; latent: the nearest words of a corpus."] = "logit"
    layers: Annotated[str, "last, all, or numbers such as 0,8,-1 (0 is the input, negative ones count back)."] = "last"
    top: Annotated[int, "Hits a token."] = 5
    index: Annotated[str, "Folder that foresay latent-index made, for the latent lens."] = ""
    same_layer: Annotated[
        bool,
        "Latent lens: search the token's own layer of the index alone, not all of them as published.",
    ] = False

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        _require(self.top > 0, f"top is {self.top}; expected 1 or more")


@dataclass(frozen=True)
class ReportConfig(Options):
    """What a report shows."""

    title: Annotated[str, "Title of the page."] = "What these embeddings say"
    neighbours: Annotated[int, "Passages shown for each query."] = 5
    max_new_tokens: Annotated[int, "Longest decoded text, in tokens."] = 96

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        for name in ("neighbours", "max_new_tokens"):
            _require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; expected 1 or more")


@dataclass(frozen=True)
class LatentIndexConfig(Options):
    """What a latent lens's index keeps of a corpus."""

    layers: Annotated[str, "all, or numbers such as 8,16,-2; auto: 1, 2, 4, 8, 16, 24 and the last three."] = "auto"
    contexts: Annotated[int, "Most sentences in which a token is kept."] = 20
    storage: Annotated[Storage, "Numbers of the stored states; int8 is half as large."] = "float16"
    max_tokens: Annotated[int, "Longer lines are cut to this many tokens."] = 128
    batch_tokens: Annotated[int, "Most padded tokens in one forward pass."] = 8192

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        for name in ("contexts", "max_tokens", "batch_tokens"):
            _require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; expected 1 or more")


@dataclass(frozen=True)
class TeacherConfig(Options):
    """How a teacher is made: masked next-token prediction, then unsupervised SimCSE (LLM2Vec, arXiv 2404.05961).

    Numbers are those of the LLM2Vec authors' training configurations for 7 B models; a small model needs a
    higher learning rate.
    """

    SECTIONS = {
        "mntp_steps": "Stage 1, masked next-token prediction",
        "simcse_steps": "Stage 2, SimCSE",
        "micro_batch_tokens": "The run",
    }

    mntp_steps: Annotated[int, "Steps of stage 1, masked next-token prediction; 0 leaves it out."] = 1000
    mntp_batch_size: Annotated[int, "Texts a step of stage 1."] = 32
    mntp_max_tokens: Annotated[int, "Longer texts are cut in stage 1."] = 512
    mntp_learning_rate: Annotated[float, "Peak learning rate of AdamW in stage 1."] = 5e-5
    simcse_steps: Annotated[int, "Steps of stage 2, SimCSE; 0 leaves it out."] = 1000
    simcse_batch_size: Annotated[int, "Texts a step of stage 2: each one's negatives are all the others."] = 128
    simcse_max_tokens: Annotated[int, "Longer texts are cut in stage 2."] = 128
    simcse_learning_rate: Annotated[float, "Peak learning rate of AdamW in stage 2."] = 3e-5
    micro_batch_tokens: Annotated[int, "Most padded tokens in one forward pass: lower it when memory runs out."] = 8192
    save_every: Annotated[int, "Steps between two saves of the state that a killed run resumes from."] = 100
    dtype: Annotated[
        DType, "Dtype of the frozen backbone (8bit, 4bit: bitsandbytes); trained weights are always float32."
    ] = "auto"
    seed: Annotated[int, "Seed of the initial weights, the order of the texts, the blanks and the dropout."] = 0
    tracker: Annotated[Tracker, "Where the metrics go too, besides training/metrics.jsonl."] = "none"

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        for name in ("mntp_batch_size", "mntp_max_tokens", "simcse_max_tokens", "micro_batch_tokens", "save_every"):
            _require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; expected 1 or more")
        for name in ("mntp_steps", "simcse_steps"):
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; expected 0 or more")
        _require(self.mntp_steps + self.simcse_steps > 0, "mntp_steps and simcse_steps are both 0; nothing to train")
        _require(
            self.simcse_batch_size > 1,
            f"simcse_batch_size is {self.simcse_batch_size}; expected 2 or more: the other texts are the negatives",
        )


@dataclass(frozen=True)
class WhitenConfig(Options):
    """How a teacher is whitened."""

    axes: Annotated[int, "Axes to keep; 0 chooses by what lets held-out texts find their partners."] = 0
    strength: Annotated[
        float, "Power of its standard deviation that each axis is divided by, 0 to 1; -1 chooses likewise."
    ] = -1.0
    max_tokens: Annotated[int, "Longer texts are cut to this many tokens."] = 512
    batch_size: Annotated[int, "Texts embedded together."] = 64
    seed: Annotated[int, "Seed of which pairs are held out for the choice."] = 0

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        _require(self.axes >= 0, f"axes is {self.axes}; expected 1 or more, or 0 to choose")
        _require(
            self.strength == -1 or 0 <= self.strength <= 1,
            f"strength is {self.strength}; expected a number from 0 to 1, or -1 to choose",
        )
        _require(self.max_tokens > 0, f"max_tokens is {self.max_tokens}; expected 1 or more")
        _require(self.batch_size > 0, f"batch_size is {self.batch_size}; expected 1 or more")


@dataclass(frozen=True)
class TeachConfig(Options):
    """How the teacher embeds the responses."""

    max_tokens: Annotated[int, "Longer responses are cut to this many tokens."] = 512
    batch_size: Annotated[int, "Responses embedded together."] = 64
    query_weight: Annotated[
        float, "Share of the query's own vector in the target: 0 as published, up to 1 for the query alone."
    ] = 0.0
    of: Annotated[Of, "What to embed: the responses, or the queries alone (a baseline: then nothing is foreseen)."] = (
        "response"
    )
    average: Annotated[bool, "Let all responses to one query share the mean of their vectors."] = False

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        _require(0 <= self.query_weight <= 1, f"query_weight is {self.query_weight}; expected a number from 0 to 1")
        _require(self.max_tokens > 0, f"max_tokens is {self.max_tokens}; expected 1 or more")
        _require(self.batch_size > 0, f"batch_size is {self.batch_size}; expected 1 or more")


@dataclass(frozen=True)
class ShapeConfig(Options):
    """What a checkpoint is, whichever way its weights are found: `FitConfig` and `TrainConfig` begin with it."""

    SECTIONS = {"thought": "The checkpoint", "max_query_tokens": "The data"}

    thought: Annotated[int, "Special tokens whose outputs are ignored."] = 0
    compression: Annotated[int, "Special tokens whose outputs become the embedding."] = 10
    template: Annotated[Template, "What stands around the query: the chat template, or nothing, as published."] = "chat"
    readout: Annotated[str, f"What the embedding reads. {readouts.summaries()}."] = "tokens"
    reconstruct: Annotated[
        Reconstruct,
        "Maps from states to the soft prompt: one for each token, which decodes better, or one, as published.",
    ] = "tokens"
    dims: Annotated[
        tuple[int, ...], "Shorter embeddings that shall be usable too, such as 64,128: the first numbers tell most."
    ] = ()
    documents: Annotated[
        Documents,
        "Who embeds documents: the teacher, whose existing index then serves on, or the checkpoint, as published.",
    ] = "teacher"
    inference_query_weight: Annotated[
        float,
        "Share of the teacher's own vector of the bare query in a query's embedding, which takes a second pass: 0 as "
        "published, 1 is the teacher.",
    ] = 0.0
    query_prompt: Annotated[str, "Stored in the checkpoint: what encode_query puts before a text."] = ""
    document_prompt: Annotated[
        str, "Stored in the checkpoint: what encode_document puts before a text that the teacher does not embed."
    ] = "Summarize the following passage: "
    max_query_tokens: Annotated[int, "Longest input, special tokens included; longer queries are cut."] = 512
    held_out: Annotated[int, "Rows kept out of training for the held-out metrics (a tenth at most)."] = 256
    dtype: Annotated[
        DType, "Dtype of the frozen backbone (8bit, 4bit: bitsandbytes); trained weights are always float32."
    ] = "auto"
    seed: Annotated[int, "Seed of the initial weights and of the order of the rows."] = 0

    @classmethod
    def choices(cls) -> dict[str, tuple[str, ...]]:
        """Of the readouts, all that are registered by now."""
        return super().choices() | {"readout": readouts.names()}

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        _require(self.compression > 0, f"compression is {self.compression}; expected 1 or more")
        for name in ("thought", "held_out"):
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; expected 0 or more")
        weight = self.inference_query_weight
        _require(0 <= weight <= 1, f"inference_query_weight is {weight}; expected a number from 0 to 1")
        _require(
            not weight or self.documents == "teacher",
            f"inference_query_weight is {weight} and documents is {self.documents}; the teacher of the documents gives "
            "the query's own part: set documents to teacher, or the weight to 0",
        )
        ordered = tuple(sorted({dim for dim in self.dims if dim > 0}))
        _require(self.dims == ordered, f"dims are {self.dims}; expected numbers above 0, each larger than the last")
        tokens = self.thought + self.compression
        _require(
            self.max_query_tokens > tokens,
            f"max_query_tokens is {self.max_query_tokens}; the {tokens} special tokens alone leave no room for a query",
        )


@dataclass(frozen=True)
class FitConfig(ShapeConfig):
    """How a checkpoint is made in closed form: its shape is all there is to choose."""


@dataclass(frozen=True)
class TrainConfig(ShapeConfig):
    """How the special tokens and the two maps are trained (paper, section 3 and appendix)."""

    SECTIONS = ShapeConfig.SECTIONS | {
        "start": "Optimisation",
        "alignment_weight": "Losses",
        "max_response_tokens": "The run",
    }

    start: Annotated[
        Start, "Where the maps start: ridge regression from the untrained tokens' states to the targets, or random."
    ] = "closed-form"
    steps: Annotated[int, "Optimiser steps."] = 5000
    batch_size: Annotated[int, "Queries a step."] = 32
    learning_rate: Annotated[float, "Peak learning rate of AdamW."] = 3e-4
    lora_rank: Annotated[
        int, "Rank of a LoRA adapter that reads the texts too, the paper's ablation: slower, larger. 0: none."
    ] = 0
    token_learning_rate: Annotated[float, "Peak learning rate of the special tokens; 0 means that of the maps."] = 0.0
    warmup_steps: Annotated[
        int, "Steps over which the learning rate rises from zero; -1 is a tenth of the run, at most 100."
    ] = -1
    decay_steps: Annotated[
        int, "Step at which the linear schedule reaches zero; 0 means at the last one (published: 20000 with 5000 run)."
    ] = 0
    weight_decay: Annotated[float, "Weight decay of AdamW."] = 0.0
    clip_norm: Annotated[float, "Largest gradient norm; 0 does not clip."] = 1.0
    alignment_weight: Annotated[float, "Weight of the alignment loss."] = 1.0
    reconstruction_weight: Annotated[
        float, "Weight of the reconstruction loss; 0 leaves its pass out: faster, and nothing decodes."
    ] = 1.0
    contrast_weight: Annotated[
        float, "Weight of the contrast: among the targets of the batch, the own one is the nearest; 0 leaves it out."
    ] = 0.0
    alignment: Annotated[
        Alignment,
        "Distance to the target: the share of the targets' variance that is missed, which no teacher's scale changes; "
        "one minus the cosine; or the mean squared error, as published.",
    ] = "relative"
    temperature: Annotated[float, "Cosines are divided by this in the contrast."] = 0.05
    max_response_tokens: Annotated[int, "Longest response that is reconstructed; longer ones are cut."] = 512
    micro_batch_tokens: Annotated[
        int, "Most padded tokens in one forward pass, whose gradients add up to the batch's; halved if memory runs out."
    ] = 8192
    evaluate_every: Annotated[int, "Steps between two looks at the held-out rows; also when progress is saved."] = 100
    select: Annotated[
        Select,
        "Which saved step becomes the checkpoint: the one whose held-out embeddings are nearest to their targets, or "
        "the one with the lowest weighted loss, decoding included.",
    ] = "embedding"
    patience: Annotated[int, "Looks at the held-out rows without a better step that end the run; 0 never."] = 0
    keep: Annotated[int, "Last saved states kept, beside the best one."] = 2
    tracker: Annotated[Tracker, "Where the metrics go too, besides training/metrics.jsonl."] = "none"

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        for name in ("batch_size", "steps", "evaluate_every", "micro_batch_tokens", "keep"):
            _require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; expected 1 or more")
        for name in ("decay_steps", "patience", "token_learning_rate", "contrast_weight", "lora_rank"):
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; expected 0 or more")
        _require(
            -1 <= self.warmup_steps <= self.steps,
            f"warmup_steps is {self.warmup_steps} and steps is {self.steps}, so the learning rate would never reach "
            f"its peak; expected at most {self.steps}, or -1 for a tenth of the run",
        )
        _require(
            self.decay_steps == 0 or self.decay_steps >= self.steps,
            f"decay_steps is {self.decay_steps} and steps is {self.steps}, so the last steps would change nothing; "
            "expected at least as many as steps, or 0",
        )
        _require(self.temperature > 0, f"temperature is {self.temperature}; expected a number above 0")
        _require(
            self.alignment_weight > 0 and self.reconstruction_weight >= 0,
            "alignment_weight must be above 0 and reconstruction_weight 0 or more",
        )
        _require(
            not self.patience or self.held_out > 0,
            "patience looks at the held-out rows, and held_out is 0; keep some out, or set patience to 0",
        )

    @property
    def warmup(self) -> int:
        """Steps of the rise: those asked for, or a tenth of the run and at most 100."""
        return min(100, self.steps // 10) if self.warmup_steps < 0 else self.warmup_steps


@dataclass(frozen=True)
class EvaluateConfig(Options):
    """What is measured, and where."""

    documents: Annotated[
        Literal["own", "checkpoint", "teacher"],
        "Who embeds documents: who does in the checkpoint's own use, or always the checkpoint, or its teacher.",
    ] = "own"
    prompts: Annotated[
        Literal["task", "checkpoint"],
        "What stands before a text: what its task asks for; or always the checkpoint's own prompts, as encode_query "
        "and encode_document have them.",
    ] = "task"
    teacher: Annotated[str, "Where the teacher is, if it is not where the checkpoint says."] = ""
    backbone: Annotated[str, "Where the language model is, if it is not where the checkpoint says."] = ""
    responses: Annotated[str, "File of responses, for --against response."] = ""
    max_new_tokens: Annotated[
        int, "Longest response that --against hyde writes, in tokens: as long as those of the training."
    ] = 500
    limit: Annotated[int, "Measure on so many queries of each task, for a first look; 0 for all."] = 0
    seed: Annotated[int, "Seed of the bootstrap behind the intervals."] = 0
    device: Annotated[str, "cpu, cuda, cuda:1, mps, auto, or spread."] = "auto"
    dtype: Annotated[DType, "Dtype of the backbone; 8bit and 4bit need bitsandbytes."] = "auto"

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        _require(self.max_new_tokens > 0, f"max_new_tokens is {self.max_new_tokens}; expected 1 or more")
        _require(self.limit == 0 or self.limit > 1, f"limit is {self.limit}; expected 2 or more, or 0 for all")


_PUBLISHED: dict[str, Any] = {
    "compression": 10,
    "template": "none",
    "readout": "mean",
    "reconstruct": "one",
    "documents": "checkpoint",
    "start": "random",
    "alignment": "mse",
    "select": "loss",
    "steps": 5000,
    "batch_size": 32,
    "learning_rate": {"qwen3": 3e-4, "other": 5e-4},
    "warmup_steps": 100,
    "decay_steps": 20_000,
    "max_query_tokens": 512,
    "max_response_tokens": 512,
}
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "paper-v1": {"thought": 10, **_PUBLISHED},
    "paper-v2": {"thought": 0, **_PUBLISHED},
}
"""Options of `TrainConfig` by the name of a recipe; a dictionary holds a value for each family of models.

The published runs stop a schedule of 20,000 steps after 5,000, so the learning rate ends at three quarters of its
peak. The paper does not say so; the training script of its authors does.
"""


def recipe(name: str, model_type: str) -> dict[str, Any]:
    """The options of a recipe for a family of language models, for `TrainConfig(**…)`.

    Args:
        name: one of `RECIPES`.
        model_type: as the model's own configuration calls its family, such as `qwen3`.

    Raises:
        InputError: if there is no such recipe.
    """
    if name not in RECIPES:
        raise InputError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return {
        option: value.get(model_type, value["other"]) if isinstance(value, dict) else value
        for option, value in RECIPES[name].items()
    }


@dataclass(frozen=True)
class IndexConfig(Options):
    """How an index cuts and embeds its documents."""

    chunk_tokens: Annotated[int, "Longest chunk, in tokens; 0 for as long as whoever embeds documents reads."] = 0
    overlap: Annotated[int, "Tokens that a chunk repeats of the one before it, at most."] = 0
    truncate_dim: Annotated[int, "Keep this many numbers of each vector: one of the checkpoint's dims; 0 for all."] = 0
    states: Annotated[
        Literal["none", "float16", "int8"],
        "Keep the states behind each vector, so that foresay rehead makes vectors anew and --explain decodes hits.",
    ] = "none"
    ann_rows: Annotated[
        int, "Rows from which a vector index answers, which is approximate; below, and with 0, the search is exact."
    ] = 200_000

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        for name in ("chunk_tokens", "overlap", "truncate_dim", "ann_rows"):
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; expected 0 or more")


@dataclass(frozen=True)
class AdoptConfig(Options):
    """Where the rows of an index are that somebody else made."""

    table: Annotated[str, "Table or collection, where there are several."] = ""
    vector_column: Annotated[str, "Column of vectors, where there are several."] = ""
    text_column: Annotated[str, "Column of texts, if it has an unusual name."] = ""
    id_column: Annotated[str, "Column of ids, if it has an unusual name; rows that share one are one document."] = ""
    ids: Annotated[str, "For an .npy: file of ids, in the order of the vectors; else NAME.ids.json beside it."] = ""
    texts: Annotated[str, "For an .npy: file of the documents that were embedded."] = ""
    sample: Annotated[int, "Stored texts that the teacher embeds again, to compare."] = 64

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        _require(self.sample > 0, f"sample is {self.sample}; expected 1 or more")
