"""Files by path or by URL, downloaded once."""

import hashlib
import http.client
import ipaddress
import os
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60
_GONE = (404, 410)
MAX_BYTES = 16 * 2**30
_DIGEST_MARK = "#sha256="


def fetch(
    source: str, *, cache_dir: str | os.PathLike[str] | None = None, sha256: str | None = None
) -> Path:
    """Find a local file, or download it if `source` is a URL that is not in the cache yet.

    A download appears in the cache only when it is complete, so an interrupted one leaves nothing
    there, and processes that download the same file do not disturb each other.

    Args:
      source: a path, an https URL, or an http URL of this machine; `#sha256=` and a digest may
        follow, so that a config can say which file it means.
      cache_dir: folder of downloads; None is `$DIFFJAX_CACHE`, or else `~/.cache/diffjax`.
      sha256: the expected digest in hexadecimal; None checks nothing.

    Returns:
      The path of the file.

    Raises:
      FileNotFoundError: if there is no such file, on this machine or on the server.
      ConnectionError: if the download fails otherwise.
      ValueError: on another kind of URL, if the digest is not the expected one, or on more than
        16 GiB.
    """
    source, mark, digest = source.partition(_DIGEST_MARK)
    if mark:
        sha256 = _check_is_digest(source, digest)
    if "://" not in source:
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"{source}: no such file")
        _check_digest(path, source, sha256)
        return path
    _check_url(source)
    path = _cache_path(source, cache_dir)
    if path.is_file():
        _check_digest(path, str(path), sha256)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.info("Downloading %s to %s", source, path)
    descriptor, temporary = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            for chunk in _download(source):
                file.write(chunk)
        _check_digest(Path(temporary), source, sha256)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _cache_path(url: str, cache_dir: str | os.PathLike[str] | None) -> Path:
    folder = Path(cache_dir or os.environ.get("DIFFJAX_CACHE") or "~/.cache/diffjax").expanduser()
    name = Path(urllib.parse.urlsplit(url).path).name or "download"
    return folder / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"


def _check_url(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and _is_this_machine(parts.hostname):
        return
    raise ValueError(
        f"{url}: only https URLs are downloaded; fetch the file by other means and give its path"
    )


def _is_this_machine(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _check_is_digest(source: str, digest: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise ValueError(f"{source}: {digest!r} after {_DIGEST_MARK} isn't 64 hexadecimal digits")
    return digest


def _check_digest(path: Path, source: str, expected: str | None) -> None:
    if expected is None:
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected.lower():
        raise ValueError(
            f"{source}: its SHA-256 is {digest}, not {expected}: it is damaged or another file; "
            "delete it and fetch it again"
        )


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Redirect handler that follows only to a URL that `fetch` would take."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _check_url(newurl)
        if req.type == "https" and urllib.parse.urlsplit(newurl).scheme != "https":
            raise ValueError(f"{req.full_url} leads to {newurl}, which isn't https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url: str) -> Iterator[bytes]:
    """Yield the body in pieces; raise unless all that the server announced has come."""
    request = urllib.request.Request(url, headers={"User-Agent": "diffjax"})
    opener = urllib.request.build_opener(_CheckedRedirects)
    received = 0
    try:
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
            announced = _announced(url, response.headers.get("Content-Length"))
            while chunk := response.read(_CHUNK_BYTES):
                received += len(chunk)
                if received > MAX_BYTES:
                    raise ValueError(f"{url}: more than {MAX_BYTES >> 30} GiB came; stopped there")
                yield chunk
    except urllib.error.HTTPError as error:
        kind = FileNotFoundError if error.code in _GONE else ConnectionError
        raise kind(_failure(url, f"HTTP {error.code} {error.reason}")) from error
    except urllib.error.URLError as error:
        raise ConnectionError(_failure(url, error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(_failure(url, error)) from error
    if announced is not None and received != announced:
        raise ConnectionError(_failure(url, f"{received} of {announced} bytes came"))


def _announced(url: str, length: str | None) -> int | None:
    """Size in bytes that a server announces, or None."""
    if length is None:
        return None
    if not length.isdecimal() or len(length) > 18:
        raise ConnectionError(_failure(url, f"Content-Length {length[:40]!r}"))
    if int(length) > MAX_BYTES:
        raise ValueError(f"{url}: {length} bytes, more than {MAX_BYTES >> 30} GiB")
    return int(length)


def _failure(url: str, cause: object) -> str:
    return (
        f"{url}: the download failed ({cause}); try again, or fetch the file by other means and "
        "give its path"
    )
