"""A real browser without a window, for tests that are marked slow; they are skipped where there is none."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")


def chromium(file, *flags, timeout=300):
    """stdout of the browser with a page in it; what the page logged, and blocked requests, are errors."""
    profile = Path("chromium").absolute()
    done = subprocess.run(
        [
            *(
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
            ),
            *("--enable-logging=stderr", "--disable-extensions", "--virtual-time-budget=10000"),
            *map(str, flags),
            Path(file).absolute().as_uri(),
        ],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    logged = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert logged == [], logged
    return done.stdout


def driven(file, script):
    """What a script, which ends with a value, makes of a page whose policy lets this one in, too."""
    text = Path(file).read_text(encoding="utf-8")
    driver = f"const told = (() => {{ {script} }})(); document.body.dataset.told = JSON.stringify(told);"
    digest = base64.b64encode(hashlib.sha256(driver.encode()).digest()).decode()
    policy = re.search(r"script-src 'sha256-[^;]*", text)
    start = policy[0] if policy else "base-uri"
    added = f"{start} 'sha256-{digest}'" if policy else f"script-src 'sha256-{digest}'; base-uri"
    # Not re.sub: a page may hold anything.
    text = text.replace(start, added, 1).replace("</body>", f"<script>{driver}</script></body>", 1)
    copy = Path(file).with_name("driven.html")
    copy.write_text(text, encoding="utf-8")
    dom = chromium(copy, "--dump-dom")
    found = re.search(r'data-told="([^"]*)"', dom)
    assert found, dom[-2000:]
    return json.loads(html.unescape(found[1]))
