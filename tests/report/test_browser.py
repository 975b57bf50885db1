"""The page in a real browser: nothing on the console, nothing asked of the network."""

import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from llmopt.cli.report import judge_gates
from llmopt.report.lineage import open_lineage
from llmopt.report.page import make_report, render_page
from tests.report.artifacts import write_run

CHROMIUM = shutil.which("chromium")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--force-device-scale-factor=1", "--enable-logging=stderr", "--v=0",
)  # fmt: skip
BROWSERS_OWN = "not an origin"
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium on PATH; apt-get install chromium (see doctor)"
    ),
]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    write_run(tmp_path / "run", num_blocks=12)
    lineage = open_lineage(tmp_path / "run")
    path = tmp_path / "page.html"
    text = render_page(make_report(lineage, judge_gates(lineage)))
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def framed(page: Path) -> Path:
    """The page in a frame of 420 px: a browser's window is never so narrow."""
    frame = page.with_name("frame.html")
    frame.write_text(
        '<body style="margin:0"><iframe src="page.html" width="420" height="3000" '
        'style="border:0"></iframe>',
        encoding="utf-8",
    )
    return frame


def browse(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Opens a page and returns the finished browser."""
    profile = Path(os.environ["CHROMIUM_PROFILE"])
    return subprocess.run(
        [str(CHROMIUM), *QUIET, f"--user-data-dir={profile}", *options, url],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )


@pytest.fixture(autouse=True)
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CHROMIUM_PROFILE", str(tmp_path / "profile"))
    yield
    shutil.rmtree(tmp_path / "profile", ignore_errors=True)


def console_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def requested_urls(log: Path) -> list[str]:
    """Lists what the page asked the network for; the browser's own calls have no origin."""
    text = log.read_text(encoding="utf-8").rstrip()
    whole = text if text.endswith("}") and '"polledData"' in text else text.rstrip(",") + "]}"
    events = json.loads(whole)["events"]
    asked = [event["params"] for event in events if "initiator" in event.get("params", {})]
    return sorted(
        {
            given["url"]
            for given in asked
            if given["initiator"] != BROWSERS_OWN and given["url"].startswith(("http", "ws"))
        }
    )


def test_no_console_message_and_no_request(page: Path, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    done = browse(page.as_uri(), f"--log-net-log={log}", "--dump-dom")
    assert console_lines(done) == []
    assert requested_urls(log) == []
    assert log.stat().st_size > 10_000
    assert "Gate passed: gate" in done.stdout
    assert done.stdout.count('class="mark ') == 12 * 7


def test_a_request_and_a_console_message_would_be_seen(page: Path, tmp_path: Path) -> None:
    """The check above is able to fail."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/x.png"
    text = page.read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    bad = page.with_name("bad.html")
    bad.write_text(
        text.replace(policy, "").replace(
            "</main>", f'<img src="{address}"><script>console.error("seen")</script></main>'
        ),
        encoding="utf-8",
    )
    log = tmp_path / "net.json"
    done = browse(bad.as_uri(), f"--log-net-log={log}", "--dump-dom")
    server.shutdown()
    server.server_close()
    assert any("seen" in line for line in console_lines(done))
    assert address in requested_urls(log)
    # The page's own policy stops what would get into it.
    kept = page.with_name("kept.html")
    kept.write_text(text.replace("</main>", f'<img src="{address}"></main>'), encoding="utf-8")
    done = browse(kept.as_uri(), f"--log-net-log={log}", "--dump-dom")
    assert any("Content Security Policy" in line for line in console_lines(done))
    assert requested_urls(log) == []


@pytest.mark.parametrize(("scheme", "is_dark"), [(0, True), (1, False)])
def test_both_colour_schemes(page: Path, tmp_path: Path, scheme: int, is_dark: bool) -> None:
    shot = tmp_path / "shot.png"
    browse(
        page.as_uri(),
        f"--blink-settings=preferredColorScheme={scheme}",
        "--window-size=1280,1600",
        f"--screenshot={shot}",
    )
    pixels = image.imread(shot)[..., :3]
    assert pixels.shape[:2] == (1600, 1280)
    back = pixels[5, 5]
    assert bool(back.max() < 0.2) is is_dark
    different = np.abs(pixels - back).max(axis=2) > 0.25
    assert 0.02 < different.mean() < 0.5


def test_a_narrow_page_does_not_scroll_sideways(framed: Path, tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    browse(framed.as_uri(), "--window-size=500,3000", f"--screenshot={shot}")
    pixels = image.imread(shot)[:3000, :420, :3]
    # The margin at the right stays empty: nothing but the tables' own scrolling is wider.
    margin = pixels[:, 406:420]
    assert np.abs(margin - pixels[5, 5]).max() < 0.02
