"""The pages: what they hold, that they stand alone and escape all text, how they look and read in a real browser."""

import re
import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foresay.backbone import Backbone
from foresay.checkpoints.save import save
from foresay.config import LensConfig, ReportConfig
from foresay.encoder import Encoder
from foresay.errors import InputError
from foresay.model import Model
from foresay.reading.explain import explain
from foresay.reading.projection import project
from foresay.reading.render import page, visible
from foresay.reading.report import report
from foresay.shown import clean
from foresay.teachers.pooled import SelfTeacher

from .commands import run
from .conftest import SENTENCES

Get = Callable[[str], Backbone]
EVIL = "</title><script>alert(1)</script><img src=x onerror=alert(1)> & \x00 \u202e fox"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


def make(backbone: Backbone, *, teacher: bool = True, **options: object) -> Encoder:
    """A small untrained encoder whose documents the backbone embeds as a teacher."""
    encoder = Encoder(Model(backbone, thought=0, compression=3, dim=32), **options)  # type: ignore[arg-type]
    return encoder.with_document_teacher(SelfTeacher(backbone)) if teacher else encoder


def test_what_the_page_holds(backbone: Get) -> None:
    """Every query, its decoded text, lens and neighbours by their cosines, a point for each in both maps."""
    encoder = make(backbone("qwen3"))
    queries, passages = SENTENCES[:2], SENTENCES[2:]
    config = ReportConfig(neighbours=2, max_new_tokens=6, title="Two questions")
    html = report(encoder, queries, passages, config)
    assert html == report(encoder, queries, passages, config), "the same every time"
    assert "<h1>Two questions</h1>" in html
    for text in encoder.decode(queries, max_new_tokens=6):
        pieces = re.sub("<[^>]+>", "", html)
        assert text[:3].strip("\ufffd \n")[:1] in pieces
    assert html.count("<svg ") == 2
    assert html.count('class="passage"') == 2 * len(passages)
    assert html.count('class="query ') == 2 * len(queries)
    nearest = np.argsort(-encoder.similarity(encoder.encode_query(queries[0]), encoder.encode_document(passages))[0])
    article = html[html.index('id="q1"') : html.index('id="q2"')]
    own = article[article.index("Foresay</span></h3>") : article.index("teacher alone")]
    places = [own.index('dir="auto">' + passages[n][:9]) for n in nearest[:2]]
    assert places == sorted(places)
    assert "layer 2, probability" in article


def test_without_teacher_and_without_decoding(backbone: Get) -> None:
    """One map, no decoded text; another lens and layer on request."""
    html = report(make(backbone("llama"), teacher=False, decodes=False), ["a fox"], ["a crow"])
    assert html.count("<svg ") == 1
    assert "decoded" not in html
    assert "found here alone" not in html
    assert "layer 1," in report(make(backbone("llama")), ["a"], ["b"], lens_config=LensConfig(layers="1"))
    with pytest.raises(InputError, match="found 1 queries and 0 passages"):
        report(make(backbone("llama")), ["a"], [])


def test_pages_stand_alone_and_escape_everything(backbone: Get) -> None:
    """No script, no address of anything outside, no text that becomes markup."""
    encoder = make(backbone("qwen3"))
    pages = [
        report(encoder, [EVIL, "fine"], [EVIL, "fine"], ReportConfig(title=EVIL)),
        page("explain.html.jinja", title=EVIL, explanations=explain(encoder, [(EVIL, EVIL)])),
    ]
    for html in pages:
        assert "<script" not in html.lower()
        assert "<img" not in html
        assert not re.search(r"<[^>]*\s(src|href)\s*=\s*(?![\"']?#)|url\(|@import|https?:", html)
        assert "&lt;script&gt;" in html
        assert not {"\x00", "\u202e"} & set(html)
        assert "default-src 'none'" in html


def test_text_as_it_is_shown() -> None:
    """Control characters and marks of direction go, emoji stay whole; tokens read on one line."""
    assert clean("a\nb\x07\u202ec 👩\u200d💻") == "a\nb\ufffd\ufffdc 👩\u200d💻"
    assert [visible(token) for token in (" fox", "\n", "  ", "", "\x00")] == ["fox", "\\n", "␣␣", "∅", "\\x00"]


def test_projection() -> None:
    """Places are the principal axes' of unit vectors, whatever their order; few or equal points do no harm."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(9, 6)).astype(np.float32), rng.normal(size=(4, 6)).astype(np.float32)
    plane = project([left, right])
    unit = np.concatenate([left, right]) / np.linalg.norm(np.concatenate([left, right]), axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.cov(unit.T))
    assert plane.share == pytest.approx(values[-2:].sum() / values.sum(), rel=1e-4)
    flat = (unit - unit.mean(0)) @ vectors[:, -1]
    assert abs(np.corrcoef(flat, np.concatenate(plane.points)[:, 0])[0, 1]) == pytest.approx(1, abs=1e-5)
    for a, b in zip(plane.points, project([left * 3, right]).points, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert project([left[:1]]).points[0].tolist() == [[0.5, 0.5]]
    assert project([left[:1], left[:1]]).points[1].tolist() == [[0.5, 0.5]]
    assert np.isfinite(np.concatenate(project([left[:2], right[:1]]).points)).all()


def test_the_command(backbone: Get, tmp_path: Path) -> None:
    """From two files to a page."""
    save(tmp_path / "checkpoint", make(backbone("qwen3"), teacher=False))
    (tmp_path / "queries.txt").write_text("\n".join(SENTENCES[:2]))
    (tmp_path / "passages.txt").write_text("\n".join(SENTENCES[2:]))
    files = [tmp_path / "queries.txt", tmp_path / "passages.txt", "-o", tmp_path / "page.html"]
    said = run("report", tmp_path / "checkpoint", *files, "--teacher", "self", "--device", "cpu", "--title", "Mine")
    assert "2 queries among 4 passages" in said
    assert "<title>Mine</title>" in (tmp_path / "page.html").read_text()


@pytest.fixture
def chromium() -> Iterator[Any]:
    """A headless browser without a network."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@browser
@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_real_browser(backbone: Get, tmp_path: Path, chromium: Any, scheme: str) -> None:  # noqa: ANN401
    """Asks for nothing, runs no script, says nothing in the console, fits a telephone, and is accessible (axe)."""
    from axe_playwright_python.sync_playwright import Axe

    encoder = make(backbone("qwen3"))
    pages = {
        "report": report(encoder, [*SENTENCES[:3], EVIL], SENTENCES, ReportConfig(max_new_tokens=12)),
        "explain": page(
            "explain.html.jinja", title="Why", explanations=explain(encoder, [(SENTENCES[1], SENTENCES[2])])
        ),
    }
    for name, html in pages.items():
        (tmp_path / f"{name}.html").write_text(html, encoding="utf-8")
        context = chromium.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900}, bypass_csp=True)
        tab = context.new_page()
        asked: list[str] = []
        said: list[str] = []
        tab.on("request", lambda request, asked=asked: asked.append(request.url))
        tab.on("console", lambda message, said=said: said.append(message.text))
        tab.on("dialog", lambda dialog, said=said: said.append("dialog"))
        tab.goto((tmp_path / f"{name}.html").as_uri())
        assert asked == [(tmp_path / f"{name}.html").as_uri()]
        assert said == []
        shades = np.asarray(Image.open(BytesIO(tab.screenshot(full_page=True))).convert("L"))
        assert shades.std() > 10 and (np.median(shades) > 128) == (scheme == "light")
        results = Axe().run(tab)
        assert results.violations_count == 0, results.generate_report()
        tab.set_viewport_size({"width": 390, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390, "a telephone scrolls sideways"
        context.close()
