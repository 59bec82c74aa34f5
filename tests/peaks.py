"""How much memory a process of its own takes for one call."""

import subprocess
import sys


def peak_of(code, *arguments):
    """MiB that a process of its own took, and whether it was refused with an error of fx."""
    before = "import sys\nfrom pathlib import Path\nfrom fxcli.errors import FxError\ntry:\n    "
    after = (
        "\nexcept FxError as error: print(type(error).__name__, str(error)[:200])"
        # Not getrusage: what it tells began in the process that this one was forked from.
        "\nprint(int(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0]) >> 10)"
    )
    done = subprocess.run(
        [sys.executable, "-c", before + code + after, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    *said, peak = done.stdout.splitlines()
    return int(peak), " ".join(said)
