"""Files by path or by URL, downloaded once."""

import contextlib
import hashlib
import http.client
import ipaddress
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

from diffjax.files import kinds, paths, writing

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60
_GONE = (404, 410)
MAX_BYTES = 16 * 2**30
_DIGEST_MARK = "#sha256="


def fetch(
    source: str, *, cache_dir: str | os.PathLike[str] | None = None, sha256: str | None = None
) -> Path:
    """Find a local file, or download it if `source` is a URL that is not in the cache yet.

    A download appears in the cache only when it is complete and not a web page, a Git LFS pointer
    or empty, as servers send with a good conscience. So an interrupted one leaves nothing there,
    and processes that download the same file do not disturb each other. What is in the cache and
    isn't what `sha256` says, or is such a page, is downloaded again.

    Args:
      source: a path, an https URL, or an http URL of this machine; `#sha256=` and a digest may
        follow, so that a config can say which file it means.
      cache_dir: folder of downloads; None is `$DIFFJAX_CACHE`, or else `~/.cache/diffjax`.
      sha256: the expected digest in hexadecimal; None checks nothing.

    Returns:
      The path of the file.

    Raises:
      FileNotFoundError: if there is no such file, on this machine or on the server.
      ConnectionError: if the download fails otherwise, or something else came.
      OSError: if the cache can't be written.
      ValueError: on another kind of URL, if the digest is not the expected one, if a path is of no
        file, or on more than 16 GiB.
    """
    source, mark, digest = source.partition(_DIGEST_MARK)
    if mark:
        sha256 = _check_is_digest(source, digest)
    if "://" not in source:
        path = Path(source)
        if path.is_dir():
            raise ValueError(f"{source}: not a file, but a folder: name the file itself")
        if not path.is_file():
            raise FileNotFoundError(f"{source}: no such file")
        _check_digest(path, source, sha256)
        return path
    _check_url(source)
    path = _cache_path(source, cache_dir)
    if path.is_file():
        problem = _refuse(path) or _other_digest(path, sha256)
        if problem is None:
            return path
        logging.warning("%s is %s; downloading it again", path, problem)
    logging.info("Downloading %s to %s", source, path)
    with writing.replacing(path) as partial:
        with partial.open("wb") as file:
            for chunk in _download(source):
                file.write(chunk)
        if problem := _refuse(partial):
            raise ConnectionError(_failure(source, f"the server sent {problem}"))
        _check_digest(partial, source, sha256)
    return path


@contextlib.contextmanager
def reading(source: str) -> Iterator[Path]:
    """Context with the path of a file to read, which stays in the cache only if it can be read.

    Args:
      source: as `fetch` takes it.

    Yields:
      The path of the file.

    Raises:
      ValueError: what is raised in the context; a download is then set aside, so that the next try
        fetches it again, and the error names its URL.
      OSError: as `fetch` raises.
    """
    path = fetch(source)
    try:
        yield path
    except ValueError as error:
        if "://" not in source:
            raise
        aside = path.with_name(f"{path.name}.refused")
        fate = f"The next try downloads it again; what came is kept as {aside}"
        try:
            path.replace(aside)
        except OSError as refusal:  # of a cache that others fill
            fate = f"It stays in the cache ({refusal.strerror}): delete {path}"
        text = str(error).replace(str(path), source).rstrip(".")
        raise ValueError(f"{text}. {fate}") from error


def _refuse(path: Path) -> str | None:
    """Name what a server sent in place of the file, or None."""
    kind = kinds.of(path)
    return kind.name if kind is not None and kind.is_refuse else None


def _other_digest(path: Path, expected: str | None) -> str | None:
    try:
        _check_digest(path, str(path), expected)
    except ValueError:
        return "another file than its SHA-256 says"
    return None


def _cache_path(url: str, cache_dir: str | os.PathLike[str] | None) -> Path:
    folder = os.fspath(cache_dir or os.environ.get("DIFFJAX_CACHE") or "~/.cache/diffjax")
    try:
        folder = paths.expanded(folder)
    except ValueError as error:
        raise ValueError(
            f"{url} is to be kept in {error}, or name a folder by DIFFJAX_CACHE"
        ) from error
    name = Path(urllib.parse.urlsplit(url).path).name or "download"
    return Path(folder) / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"


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
