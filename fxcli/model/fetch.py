"""Files of weights by their address: in fx's cache, in that of Hugging Face's programs, or downloaded into fx's.

Whether a file is the one that was published is for init to check, which calls this.
"""

from __future__ import annotations

import http.client
import re
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fxcli.console import console
from fxcli.run.cache import cache_dir

if TYPE_CHECKING:
    from tqdm import tqdm

# Seconds for one address of a server to answer at all, and for the next piece of a file that it sends. A host may have
# several addresses, and a network that swallows everything lets each of them run out.
CONNECT_S = 4
TIMEOUT_S = 30
CHUNK_BYTES = 1 << 18
_HUB = re.compile(r"https://huggingface\.co/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


def place(url: str) -> Path:
    """Where fx keeps what it downloads from there, and where it can be put by hand."""
    # The whole address names the file: on some servers every file is called model.safetensors.
    parts = urlsplit(url)
    return _folder() / re.sub(r"[^A-Za-z0-9._-]+", "_", parts.netloc + parts.path).lstrip("_")


def at_hand(url: str) -> Path | None:
    """The file, if it is here already."""
    if (own := place(url)).exists():
        return own
    if hub := _HUB.fullmatch(url):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(hub["repository"], hub["file"], revision=hub["revision"])
        return Path(found) if isinstance(found, str) else None
    return None


def is_own(file: Path) -> bool:
    """Whether fx keeps this file itself: what others keep is not its to remove."""
    return file.parent == _folder()


def ways_out(url: str) -> str:
    """What to do where it cannot be downloaded."""
    by_hand = f"put the file by hand at {place(url)} (below FX_CACHE_DIR)"
    if hub := _HUB.fullmatch(url):
        from huggingface_hub import constants

        command = f"hf download {hub['repository']} {hub['file']}"
        by_hand += f", or bring the cache along that '{command}' makes (HF_HOME; here {constants.HF_HOME})"
    return by_hand


def asked(url: str) -> str:
    """The address that is really asked: a mirror of the hub's, where HF_ENDPOINT names one."""
    if not _HUB.fullmatch(url):
        return url
    from huggingface_hub import constants

    return url.replace("https://huggingface.co", constants.ENDPOINT, 1)


def download(url: str, file: Path) -> None:
    """Writes what an address gives.

    Raises:
        OSError: It cannot be had, or not to its end.
        HTTPException: Its server breaks the protocol.
    """
    if _HUB.fullmatch(url):
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set, so that nothing is asked of the hub")
    with urllib.request.build_opener(_Handler).open(asked(url), timeout=TIMEOUT_S) as response, file.open("wb") as out:
        size = response.headers.get("Content-Length")
        total = int(size) if size else None
        bar: tqdm[Any]
        with console.progress(total=total, what=url.rpartition("/")[2], unit="B") as bar:
            while chunk := response.read(CHUNK_BYTES):
                out.write(chunk)
                bar.update(len(chunk))
            received = out.tell()
    # A connection that ends early is no error to a reader that asks for pieces.
    if total is not None and received != total:
        raise OSError(f"the connection ended after {received} of {total} bytes")


def _folder() -> Path:
    return cache_dir() / "weights"


class _Connection(http.client.HTTPSConnection):
    def connect(self) -> None:
        self.timeout = CONNECT_S
        super().connect()
        self.sock.settimeout(TIMEOUT_S)


class _Handler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)
