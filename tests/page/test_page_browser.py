"""The page in a browser, where there is one: its script runs to the end, and says nothing on the console."""

import re
import shutil
import subprocess

import pytest

from delta_jax import page
from tests import synthetic_sweep

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
)


@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is installed")
def test_the_script_runs_without_a_word_on_the_console(tmp_path):
    sweep = synthetic_sweep.make(tmp_path / "sweep", seeds=2, steps=400, filters=16, images=40)
    page.write(sweep)
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", *QUIET, "--enable-logging=stderr", "--dump-dom"]
    place = [f"--user-data-dir={tmp_path / 'profile'}", (sweep / page.PAGE).as_uri()]
    done = subprocess.run([*command, *place], capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr
    assert '<html lang="en" class="js">' in done.stdout
    # What the script adds, the last of it at its end: buttons in headings, values at pictures, sentences of matrices.
    charts = len(re.findall('<figure class="chart"', done.stdout))
    assert charts == done.stdout.count('class="tip"') == 4 + 4 + 2 + 2
    assert done.stdout.count('class="reading"') == 5
    assert re.search(r'<th [^>]*aria-sort="none"><button [^>]*class="sort"[^>]*>Top-1</button>', done.stdout)
    assert re.search(r'<button [^>]*id="theme"[^>]*>(Dark|Light) theme</button>', done.stdout)
