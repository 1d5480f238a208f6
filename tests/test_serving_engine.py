"""The engine without HTTP: batches, texts written together, memory that runs out, deadlines, fairness."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from foresay.backbone import Backbone
from foresay.config import DecodeConfig, RespondConfig
from foresay.errors import BackboneError
from foresay.serving.engine.check import check_writing
from foresay.serving.engine.desk import Desk
from foresay.serving.engine.engine import Engine
from foresay.serving.engine.jobs import Exhausted, Full, Gone, Job, Late, Stopped, Ticket
from foresay.serving.engine.lanes import Lane
from foresay.serving.engine.outlets import Collected, Written
from foresay.serving.engine.queue import Queue
from foresay.serving.engine.sampling import Sampler, Sampling
from foresay.serving.engine.stream import TextStream
from foresay.serving.engine.writing import Prompt, Writing
from foresay.serving.metrics import Metrics

from .conftest import FAMILIES, SENTENCES

Get = Callable[[str], Backbone]


@pytest.fixture
def engine(backbone: Get) -> Iterator[Engine]:
    """A running engine of a tiny backbone."""
    desk = Desk(backbone("qwen3"), places=8, cache_tokens=4096, batch_tokens=512)
    engine = Engine(desk, Metrics(), queue_tokens=2000, batch_tokens=512, share=0.5)
    engine.start()
    yield engine
    engine.stop()


def desk_of(backbone: Backbone, **changes: int) -> Desk:
    """A desk with room."""
    return Desk(backbone, **{"places": 8, "cache_tokens": 1 << 20, "batch_tokens": 1 << 20, **changes})


def start(desk: Desk, prompt: Prompt, sampling: Sampling, ticket: Ticket | None = None) -> Collected:
    """Puts a text on a desk."""
    outlet = Collected()
    desk.waiting.append(Writing(prompt, sampling, desk.backbone, ticket or Ticket.of(60), outlet))
    return outlet


def finish(desk: Desk) -> None:
    """Writes until nothing is left."""
    for _ in range(1000):
        if not len(desk):
            return
        desk.step()
    raise AssertionError("the texts do not end")


def alone(backbone: Backbone, prompt: Prompt, tokens: int) -> list[int]:
    """What the library's own `generate` writes."""
    row = backbone.embedding(torch.tensor([list(prompt.ids)], dtype=torch.long))
    if prompt.soft_prompt is not None:
        row = torch.cat([prompt.soft_prompt[None], row], dim=1)
    ids = backbone.model.generate(
        inputs_embeds=row,
        attention_mask=torch.ones(row.shape[:2], dtype=torch.long),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=backbone.stop_ids,
        pad_token_id=backbone.pad_id,
    )
    found: list[int] = ids[0].tolist()
    stop = next((i for i, token in enumerate(found) if token in backbone.stop_ids), len(found))
    return found[:stop]


# -- texts written together ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_that_join_and_leave_are_written_as_alone(family: str, backbone: Get) -> None:
    """Prompts of different lengths and soft prompts join at different steps and leave at different steps."""
    model = backbone(family)
    rows = model.tokenize([SENTENCES[1] * 2, SENTENCES[4], SENTENCES[0], SENTENCES[5], SENTENCES[3]])
    soft = torch.randn(3, model.hidden_size, generator=torch.Generator().manual_seed(0))
    prompts = [Prompt(row) for row in rows] + [Prompt((), soft), Prompt(rows[1], soft)]
    lengths = [5, 30, 12, 25, 1, 18, 7]
    desk = desk_of(model, places=4)
    outlets = []
    for prompt, length in zip(prompts, lengths, strict=True):
        outlets.append(start(desk, prompt, Sampling(max_tokens=length)))
        desk.step()
    finish(desk)
    for prompt, length, outlet in zip(prompts, lengths, outlets, strict=True):
        assert [token.id for token in outlet.future.result(0).tokens] == alone(model, prompt, length)


def test_a_seed_gives_the_same_text_whoever_is_written_beside_it(backbone: Get) -> None:
    """Sampled texts depend on their seed, and on nothing else."""
    model = backbone("qwen3")
    rows = model.tokenize(SENTENCES)

    def write(seeds: Sequence[int], company: int) -> list[Written]:
        desk = desk_of(model)
        others = [start(desk, Prompt(rows[i]), Sampling(20, temperature=1.0, seed=99)) for i in range(company)]
        outlets = [start(desk, Prompt(rows[0]), Sampling(20, temperature=1.0, seed=seed)) for seed in seeds]
        finish(desk)
        assert all(one.future.done() for one in others)
        return [one.future.result(0) for one in outlets]

    first = write([1, 2], 0)
    assert first == write([1, 2], 4)
    assert first[0].text != first[1].text


def test_draws_follow_the_distribution() -> None:
    """Frequencies of drawn tokens are the probabilities: temperature, nucleus and bias included."""
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0])

    def shares(**how: Any) -> Tensor:  # noqa: ANN401
        sampler = Sampler(Sampling(1, **how))
        sampler.counts = _Forgetful()
        drawn = torch.tensor([sampler.choose(scores, 0).id for _ in range(4000)])
        return torch.bincount(drawn, minlength=4) / 4000

    assert torch.allclose(shares(temperature=1.0), scores.softmax(0), atol=0.03)
    assert torch.allclose(shares(temperature=0.5), (scores / 0.5).softmax(0), atol=0.03)
    nucleus = shares(temperature=1.0, top_p=0.7)
    assert nucleus[2] == nucleus[3] == 0
    biased = shares(temperature=1.0, logit_bias={3: 100.0})
    assert biased[3] == 1


@pytest.mark.parametrize("temperature", [1e-320, 1e-45, 1e-20, 1e-7, 1e-6])
def test_a_temperature_that_is_all_but_0_takes_the_likeliest_token(temperature: float) -> None:
    """Scores divided by it would be infinite, and the draw the first or any of them."""
    scores = torch.tensor([-30.0, 20.0, 30.0, -1.0])
    for bias in ({}, {0: 1.0}):
        how = Sampling(1, temperature=temperature, top_p=0.9, logit_bias=bias)
        assert Sampler(how).choose(scores, 2).id == 2
    for config in (DecodeConfig(temperature=temperature), RespondConfig(temperature=temperature)):
        assert config.temperature == how.temperature


class _Forgetful(dict[int, int]):
    """Counts nothing, so that draws stay independent."""

    def __setitem__(self, key: int, value: int) -> None:
        """Forgets."""


def test_penalties_count_what_was_written() -> None:
    """A frequency penalty grows with every use, a presence penalty does not."""
    scores = torch.tensor([1.0, 0.9, 0.0])
    often = Sampler(Sampling(9, frequency_penalty=0.3))
    assert [often.choose(scores, 0).id for _ in range(6)] == [0, 1, 0, 1, 0, 1]
    once = Sampler(Sampling(9, presence_penalty=2.0))
    assert [once.choose(scores, 0).id for _ in range(4)] == [0, 1, 2, 0]


@pytest.mark.parametrize("stops", [(), ("city on",), ("never", " river"), ("zzz",), ("Chari river.",)])
def test_pieces_put_together_are_the_text_up_to_the_stop(stops: tuple[str, ...], backbone: Get) -> None:
    """No piece holds a part of a stop string or of a character."""
    tokenizer = backbone("qwen3").tokenizer
    text = SENTENCES[1] + " " + SENTENCES[5]
    stream = TextStream(tokenizer.backend_tokenizer, stops)
    pieces = []
    for token in backbone("qwen3").tokenize([text])[0]:
        pieces.append(stream.push(token))
        assert "\ufffd" not in pieces[-1]
        if stream.stopped:
            break
    pieces.append(stream.finish())
    cut = min((text.index(stop) for stop in stops if stop in text), default=len(text))
    assert "".join(pieces) == text[:cut]
    assert stream.stopped == (cut < len(text))


def test_a_torn_character_at_the_end_is_shown_as_torn(backbone: Get) -> None:
    """A text that ends within a character reads as the tokenizer reads it."""
    model = backbone("qwen3")
    ids = model.tokenize(["🙂"])[0][:-1]
    stream = TextStream(model.tokenizer.backend_tokenizer)
    assert "".join([*(stream.push(i) for i in ids), stream.finish()]) == model.tokenizer.decode(ids)


def test_memory_that_runs_out_while_writing_loses_no_text(backbone: Get, engine: Engine) -> None:
    """Texts that do not fit together are written one after the other, and come out the same."""
    model = backbone("qwen3")
    rows = model.tokenize(SENTENCES)
    desk, passed = engine.desk, engine.desk._pass

    def small(inputs: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("no memory")
        return passed(inputs, *rest)

    desk._pass = small  # type: ignore[method-assign, assignment]
    outlets = [Collected() for _ in rows]
    texts = [
        Writing(Prompt(row), Sampling(12), model, Ticket.of(60), outlet)
        for row, outlet in zip(rows, outlets, strict=True)
    ]
    engine.write(texts)
    for row, outlet in zip(rows, outlets, strict=True):
        assert [token.id for token in outlet.future.result(30).tokens] == alone(model, Prompt(row), 12)
    assert engine.queue.waiting == 0
    assert engine.metrics.registry.get_sample_value("foresay_out_of_memory_total") > 0  # type: ignore[operator]


def test_a_text_that_never_fits_is_refused_and_the_others_go_on(backbone: Get, engine: Engine) -> None:
    """Out of memory for one text alone ends that text only."""
    model = backbone("qwen3")
    passed = engine.desk._pass

    def small(inputs: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
        if inputs.shape[1] > 20:
            raise torch.OutOfMemoryError("no memory")
        return passed(inputs, *rest)

    engine.desk._pass = small  # type: ignore[method-assign, assignment]
    long, short = Collected(), Collected()
    rows = [list(range(3, 40)), [5, 6, 7]]
    texts = [
        Writing(Prompt(row), Sampling(4), model, Ticket.of(60), out)
        for row, out in zip(rows, (long, short), strict=True)
    ]
    engine.write(texts)
    assert len(short.future.result(30).text) >= 0
    with pytest.raises(Exhausted):
        long.future.result(30)
    assert engine.queue.waiting == 0


def test_a_backbone_that_writes_otherwise_in_a_batch_is_found_out(
    backbone: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that ignores positions or masks is refused, every family that does not is let through."""
    for family in FAMILIES:
        check_writing(backbone(family))
    model = backbone("llama")
    forward = model.decoder.forward

    def careless(**inputs: Any) -> Any:  # noqa: ANN401
        return forward(**{**inputs, "attention_mask": None})

    monkeypatch.setattr(model.decoder, "forward", careless)
    with pytest.raises(BackboneError, match="otherwise in a batch"):
        check_writing(model)


# -- the queue and the thread ----------------------------------------------------------------------------


def lane(run: Callable[[Sequence[Any]], Sequence[Any]], **settings: int) -> Lane:
    """A lane of a test's own."""
    return Lane("test", run, **settings)


def job(where: Lane, payloads: Sequence[Any], tokens: int = 1, seconds: float = 60) -> Job:
    """A job whose items have so many tokens each."""
    return Job(where, payloads, [tokens] * len(payloads), Ticket.of(seconds))


def test_batches_are_of_similar_length_and_hold_the_oldest_item() -> None:
    """Whatever else waits, the item that has waited longest is in the next batch, and nothing longer pads it."""
    queue, same = Queue(1000), lane(list)
    first = Job(same, "a", [3], Ticket.of(60))
    second = Job(same, "bcde", [90, 3, 80, 4], Ticket.of(60))
    queue.admit(first)
    queue.admit(second)
    batch = queue.take(100)
    assert {item.job.payloads[item.index] for item in batch} >= {"a"}
    assert max(item.tokens for item in batch) * len(batch) <= 100
    left = 0
    while found := queue.take(100):
        left += len(found)
    assert left + len(batch) == 5
    assert queue.waiting == 0


def test_a_queue_is_bounded_by_tokens_and_says_when_to_come_back() -> None:
    """What does not fit is refused whole; the time to wait follows the speed of late."""
    queue = Queue(100)
    queue.admit(job(lane(list), range(9), 10))
    queue.speed.note(20, 2.0)
    with pytest.raises(Full) as refused:
        queue.admit(job(lane(list), range(4), 10))
    assert refused.value.retry_after == 3  # 30 tokens too many, at 10 a second
    assert queue.waiting == 90


def test_memory_that_runs_out_halves_the_batch(engine: Engine) -> None:
    """Every item has its result, in order, and later batches are smaller."""
    sizes = []

    def run(batch: Sequence[Any]) -> Sequence[Any]:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("no memory")
        return [2 * x for x in batch]

    work = job(lane(run), range(10), 40)
    engine.submit(work)
    assert work.future.result(20) == [2 * x for x in range(10)]
    assert max(sizes) > 3
    assert engine.batch_tokens < 512


def test_one_bad_item_fails_its_own_job_only(engine: Engine) -> None:
    """Jobs that were batched with it get their results."""

    def run(batch: Sequence[Any]) -> Sequence[Any]:
        if "bad" in batch:
            raise ValueError("what is this?")
        return list(batch)

    where = lane(run)
    jobs = [job(where, ["good", "fine"]), job(where, ["well", "bad"]), job(where, ["nice"])]
    for work in jobs:
        engine.submit(work)
    assert jobs[0].future.result(20) == ["good", "fine"]
    assert jobs[2].future.result(20) == ["nice"]
    with pytest.raises(ValueError, match="what is this"):
        jobs[1].future.result(20)


def test_who_left_or_is_late_costs_no_work(engine: Engine) -> None:
    """Their items are dropped before they are run."""
    ran: list[str] = []

    def run(batch: Sequence[Any]) -> Sequence[Any]:
        ran.extend(batch)
        time.sleep(0.2)
        return list(batch)

    where = lane(run, most_rows=1)
    first, left, late, last = (job(where, [name]) for name in ("first", "left", "late", "last"))
    late.ticket.deadline = time.monotonic() + 0.05
    for work in (first, left, late, last):
        engine.submit(work)
    left.ticket.cancel()
    assert last.future.result(20) == ["last"]
    with pytest.raises(Gone):
        left.future.result(0)
    with pytest.raises(Late):
        late.future.result(0)
    assert ran == ["first", "last"]
    assert engine.queue.waiting == 0


def test_neither_side_starves(engine: Engine, backbone: Get) -> None:
    """A text is written while many batches wait, and batches run while texts are written."""
    model, log = backbone("qwen3"), []

    def run(batch: Sequence[Any]) -> Sequence[Any]:
        log.append("batch")
        time.sleep(0.005)
        return list(batch)

    class Noting(Collected):
        def put(self, piece: Any) -> None:  # noqa: ANN401
            log.append("token")
            super().put(piece)

    work = job(lane(run, most_rows=1), range(300))
    engine.submit(work)
    outlet = Noting()
    engine.write(
        [
            Writing(
                Prompt([5, 6]), Sampling(60, logit_bias={i: -100 for i in model.stop_ids}), model, Ticket.of(60), outlet
            )
        ]
    )
    assert outlet.future.result(30).finish == "length"
    assert not work.done, "the text had to wait for all batches"
    assert log[: log.index("token") + 60].count("batch") > 2, "the batches had to wait for the text"
    work.future.result(30)


def test_an_engine_that_stops_fails_what_is_left(engine: Engine) -> None:
    """Nobody waits for ever."""

    def run(batch: Sequence[Any]) -> Sequence[Any]:
        time.sleep(0.1)
        return list(batch)

    jobs = [job(lane(run), [i]) for i in range(5)]
    for work in jobs:
        engine.submit(work)
    engine.stop()
    assert sum(isinstance(work.future.exception(5), Stopped) for work in jobs) >= 3
    with pytest.raises(Stopped):
        engine.submit(job(lane(run), [1]))
