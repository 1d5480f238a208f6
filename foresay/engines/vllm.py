"""vLLM as an engine, in this process: the fastest way to write on GPUs, and on CPUs by its CPU build.

In: jobs. Out: answers as they end. Prompts are the token ids that the other engines make, text never becoming a control
token; vLLM keeps the keys and values of what prompts share, such as the template and the system prompt.
Be careful: vLLM starts processes of its own, which import the main module anew: a script that opens this engine needs
`if __name__ == "__main__":`. And in bfloat16 its kernels choose other tokens at near-ties than other engines do.
"""

import os
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from ..config import VLLMConfig
from ..data.responses import Finish
from ..devices import QUANTIZED
from ..errors import BackboneError, DeviceError, InputError
from .base import Answer, EngineOptions, Job
from .prompts import Prompter
from .text_side import TextSide

_INSTALL = "pip install vllm accelerate && pip install --no-deps foresay"
"""Into an environment of its own: vLLM wants an older transformers than the rest of Foresay."""


def open_engine(options: EngineOptions) -> "VLLMEngine":
    """Loads the model into vLLM.

    Raises:
        InputError: if vLLM is not installed, or an option is not one it can honour.
        BackboneError: if the model cannot be loaded.
        DeviceError: if vLLM was not built for the device.
    """
    if options.dtype in QUANTIZED:
        raise InputError(
            f"--engine vllm cannot make --dtype {options.dtype} itself; name a model that is stored in few bits "
            "(AWQ, GPTQ, FP8), with --dtype auto"
        )
    return VLLMEngine(options)


class VLLMEngine:
    """Answers with vLLM's offline engine."""

    def __init__(self, options: EngineOptions) -> None:
        """Works out the template and the longest row, then loads the model."""
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would tell its makers about each start
        try:
            import vllm
        except ImportError as error:
            raise InputError(f"--engine vllm needs vLLM, in an environment of its own: {_INSTALL}") from error
        _check_device(options.device)
        config = options.config
        self.config, self.texts = config, TextSide(options.model, options.revision)
        self.name, self.window = self.texts.name, 32 * config.batch_size
        self._most = options.vllm.max_model_len or self.texts.max_positions
        if self._most > self.texts.max_positions:
            raise InputError(
                f"max_model_len is {self._most}, and {self.name} has {self.texts.max_positions} positions; lower it"
            )
        self.prompter = Prompter(
            self.texts, config.system, config.max_query_tokens, config.max_new_tokens, positions=self._most
        )
        self.stops = self.texts.stop_ids or [self.texts.end_id]
        self.tokens, self.seconds, self._asked = 0, 0.0, 0
        self._vllm: Any = vllm
        self._engine: Any = self._load(options.dtype, options.vllm)
        weakref.finalize(self, self._engine.engine_core.shutdown)  # also at exit: its processes would complain

    def manifest(self) -> dict[str, Any]:
        """What the responses depend on."""
        dtype = str(self._engine.model_config.dtype).removeprefix("torch.")
        revision = self.texts.revision
        return {"backbone": self.name, "revision": revision, "dtype": dtype, "template": self.prompter.template}

    def speed(self) -> str:
        """Tokens written a second, so far."""
        return f"{self.tokens / self.seconds:.0f} tokens/s" if self.seconds else ""

    def refusals(self, texts: Sequence[str]) -> list[str | None]:
        """For each query why it is too long, or None."""
        return self.prompter.refusals(texts)

    def answer(self, jobs: Sequence[Job]) -> Iterator[Answer]:
        """Answers in the order in which the rows end; what is under way is dropped if nobody takes it."""
        prompts = self.prompter.prompts([job.text for job in jobs])
        under_way: dict[str, Job] = {}
        try:
            for job, ids in zip(jobs, prompts, strict=True):
                self._asked += 1
                prompt = self._vllm.TokensPrompt(prompt_token_ids=ids)
                under_way[f"row-{self._asked}"] = job
                self._engine.add_request(f"row-{self._asked}", prompt, self._sampling(job))
            while under_way:
                start = time.perf_counter()
                done = [output for output in self._engine.step() if output.finished]
                self.seconds += time.perf_counter() - start
                for output in done:
                    yield self._answer(under_way.pop(output.request_id), output.outputs[0])
        finally:
            if under_way:
                self._engine.abort_request(list(under_way))

    def _answer(self, job: Job, output: Any) -> Answer:  # noqa: ANN401 - vLLM's own type
        ids = list(output.token_ids)
        self.tokens += len(ids)
        ends: Finish = "length" if output.finish_reason == "length" else "stop"
        if output.finish_reason not in ("stop", "length"):
            return Answer(job, "", problem=f"vLLM ended the row for the reason {output.finish_reason!r}")
        if ids and ids[-1] in self.stops:
            ids.pop()
        text = self.texts.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Answer(job, str(text).strip(), ends)

    def _sampling(self, job: Job) -> Any:  # noqa: ANN401 - vLLM's own type
        return self._vllm.SamplingParams(
            temperature=self.config.temperature,
            top_p=self.config.top_p,
            seed=job.seed if self.config.temperature else None,
            max_tokens=self.config.max_new_tokens,
            stop_token_ids=self.stops,
            detokenize=False,
            output_kind=self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        )

    def _load(self, dtype: str, how: VLLMConfig) -> Any:  # noqa: ANN401 - vLLM's own type
        prompter = self.prompter
        longest = len(prompter.prefix) + prompter.limit + len(prompter.suffix) + self.config.max_new_tokens
        try:
            return self._vllm.LLMEngine.from_engine_args(
                self._vllm.EngineArgs(
                    model=self.texts.source,
                    revision=self.texts.revision,
                    dtype=dtype,
                    tensor_parallel_size=how.tensor_parallel_size,
                    max_model_len=min(longest, self._most),  # no row is longer, and memory is sized by this
                    max_num_seqs=self.config.batch_size,
                    gpu_memory_utilization=how.gpu_memory_utilization,
                    enforce_eager=how.enforce_eager,
                    enable_prefix_caching=True,
                    skip_tokenizer_init=True,  # prompts are ids, and so are answers: its tokenizer may read otherwise
                    generation_config="vllm",  # nothing of the model's own sampling settings
                    disable_log_stats=True,
                )
            )
        except (OSError, ValueError, RuntimeError, AssertionError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise BackboneError(
                f"vLLM cannot load {self.name!r}: {reason} (if memory is short: lower --max-model-len, --batch-size or "
                "--gpu-memory-utilization; if it does not know the model: --engine transformers)"
            ) from error


def _check_device(device: str) -> None:
    """Refuses a device that vLLM, which chooses by itself, would not use."""
    from vllm.platforms import current_platform

    built = str(current_platform.device_type)
    if device == "spread":
        raise InputError("--engine vllm spreads a model by --tensor-parallel-size N; leave --device out")
    if device.startswith("cuda:"):
        number = device.partition(":")[2]
        raise InputError(f"--engine vllm takes any GPU it sees: set CUDA_VISIBLE_DEVICES={number}, leave --device out")
    if device not in ("auto", built):
        raise DeviceError(f"device {device!r} is not available: this vLLM runs on {built or 'nothing here'}; pass auto")
