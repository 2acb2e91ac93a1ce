import hashlib
import http.server
import socket
import subprocess
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from diffjax.convert import __main__ as convert_main
from diffjax.convert import inception, teacher
from diffjax.evaluation import features, image_statistics
from diffjax.files import download

BODY = b"weights " * 100_000


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        if self.path == "/absent.pkl":
            return self.send_error(404)
        if self.path == "/broken.pkl":
            return self.send_error(503)
        if self.path == "/elsewhere.pkl":
            return self.redirect("http://example.invalid/x.pkl")
        if self.path == "/moved.pkl":
            return self.redirect("/network.pkl")
        self.send_response(200)
        if self.path in self.server.sent:
            return self.answer(self.server.sent[self.path])
        lengths = {"/huge.pkl": str(1 << 50), "/riddle.pkl": "many"}
        if self.path in lengths:
            self.send_header("Content-Length", lengths[self.path])
            return self.end_headers()
        if self.path == "/chunked.pkl":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            return self.wfile.write(b"%x\r\n%s" % (len(BODY), BODY[:100]))
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        return self.wfile.write(BODY[:-1] if self.path == "/short.pkl" else BODY)

    def answer(self, body):
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def redirect(self, location):
        self.send_response(302)
        self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.sent = [], {}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def url(server, name="network.pkl"):
    return f"http://127.0.0.1:{server.server_port}/{name}"


def test_a_local_path_is_given_back(tmp_path):
    file = tmp_path / "network.pkl"
    file.write_bytes(b"x")
    assert download.fetch(str(file)) == file


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pkl: no such file"):
        download.fetch(str(tmp_path / "absent.pkl"))


def test_a_url_is_downloaded_once(server, tmp_path):
    first = download.fetch(url(server), cache_dir=tmp_path / "cache")
    assert first.read_bytes() == BODY
    assert first.name.endswith("-network.pkl")
    assert download.fetch(url(server), cache_dir=tmp_path / "cache") == first
    assert server.requests == ["/network.pkl"]
    assert list(first.parent.iterdir()) == [first]


def test_urls_that_end_alike_do_not_meet_in_the_cache(server, tmp_path):
    first = download.fetch(url(server), cache_dir=tmp_path)
    second = download.fetch(url(server, "other/network.pkl"), cache_dir=tmp_path)
    assert first != second


def test_the_cache_is_where_the_environment_says(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFJAX_CACHE", str(tmp_path / "here"))
    assert download.fetch(url(server)).parent == tmp_path / "here"
    monkeypatch.delenv("DIFFJAX_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert download.fetch(url(server)).parent == tmp_path / "home" / ".cache" / "diffjax"


def test_redirects_are_followed(server, tmp_path):
    assert download.fetch(url(server, "moved.pkl"), cache_dir=tmp_path).read_bytes() == BODY


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("short.pkl", ConnectionError, "799999 of 800000 bytes came"),
        ("chunked.pkl", ConnectionError, "IncompleteRead"),
        ("absent.pkl", FileNotFoundError, "HTTP 404"),
        ("broken.pkl", ConnectionError, "HTTP 503"),
        ("riddle.pkl", ConnectionError, "Content-Length 'many'"),
        ("elsewhere.pkl", ValueError, r"http://example\.invalid/x\.pkl: only https"),
    ],
)
def test_a_failed_download_leaves_nothing(name, error, message, server, tmp_path):
    with pytest.raises(error, match=message) as caught:
        download.fetch(url(server, name), cache_dir=tmp_path)
    assert "give its path" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(ConnectionError, match=r"http://127\.0\.0\.1:9/x\.pkl: .*refused.*path"):
        download.fetch("http://127.0.0.1:9/x.pkl", cache_dir=tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "http://example.com/network.pkl",
        "http://127.0.0.1.example.com/network.pkl",
        "http:///network.pkl",
        "https:///network.pkl",
        "ftp://example.com/network.pkl",
        "file:///etc/passwd",
        "gs://bucket/network.pkl",
    ],
)
def test_other_urls_are_refused(source, tmp_path):
    with pytest.raises(ValueError, match="only https") as caught:
        download.fetch(source, cache_dir=tmp_path)
    assert str(caught.value).startswith(source)


def test_the_digest_is_checked(server, tmp_path):
    digest = hashlib.sha256(BODY).hexdigest()
    with pytest.raises(ValueError, match="SHA-256"):
        download.fetch(url(server), cache_dir=tmp_path, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []
    path = download.fetch(url(server), cache_dir=tmp_path, sha256=digest.upper())
    assert path.read_bytes() == BODY
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="delete it and fetch it again"):
        download.fetch(str(path), cache_dir=tmp_path, sha256=digest)
    assert download.fetch(url(server), cache_dir=tmp_path, sha256=digest) == path
    assert path.read_bytes() == BODY
    assert list(tmp_path.iterdir()) == [path]


def test_a_config_may_say_which_file_it_means(server, tmp_path):
    digest = hashlib.sha256(BODY).hexdigest()
    path = download.fetch(f"{url(server)}#sha256={digest}", cache_dir=tmp_path)
    assert path == download.fetch(url(server), cache_dir=tmp_path)
    assert download.fetch(f"{path}#sha256={digest}") == path
    for source in (url(server), path):
        with pytest.raises(ValueError, match=f"its SHA-256 is {digest}, not 0000"):
            download.fetch(f"{source}#sha256={'0' * 64}", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="'12' after #sha256= isn't 64 hexadecimal digits"):
        download.fetch(f"{url(server)}#sha256=12", cache_dir=tmp_path)


def test_more_than_the_bound_is_not_downloaded(server, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"huge\.pkl: 1125899906842624 bytes, more than 16 GiB"):
        download.fetch(url(server, "huge.pkl"), cache_dir=tmp_path)
    monkeypatch.setattr(download, "MAX_BYTES", 500_000)
    with pytest.raises(ValueError, match="more than"):
        download.fetch(url(server), cache_dir=tmp_path)
    monkeypatch.setattr(download, "_announced", lambda url, length: None)
    with pytest.raises(ValueError, match="stopped there"):
        download.fetch(url(server), cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_https_leads_to_nothing_else():
    request = urllib.request.Request("https://example.com/network.pkl")
    with pytest.raises(
        ValueError, match=r"example\.com/network\.pkl leads to http://127\.0\.0\.1/"
    ):
        download._CheckedRedirects().redirect_request(
            request, None, 302, "Found", {}, "http://127.0.0.1/x.pkl"
        )


def test_concurrent_downloads_do_not_disturb_each_other(server, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: download.fetch(url(server), cache_dir=tmp_path), range(16)))
    assert {path.read_bytes() for path in paths} == {BODY}
    assert list(tmp_path.iterdir()) == [paths[0]]


PAGE = b"<!DOCTYPE html>\n<html><title>Too many requests</title></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [(PAGE, "a web page"), (b"\n <HTML>", "a web page"), (POINTER, "Git LFS"), (b"", "empty")],
)
def test_what_a_server_sends_in_place_of_the_file_is_not_kept(body, message, server, tmp_path):
    server.sent["/network.pkl"] = body
    for _ in range(2):
        with pytest.raises(ConnectionError, match=rf"the server sent .*{message}") as caught:
            download.fetch(url(server), cache_dir=tmp_path)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []
    server.sent.clear()
    path = download.fetch(url(server), cache_dir=tmp_path)
    assert path.read_bytes() == BODY
    path.write_bytes(body)  # as earlier versions kept it
    assert download.fetch(url(server), cache_dir=tmp_path).read_bytes() == BODY


def test_a_download_that_cannot_be_read_is_set_aside(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFJAX_CACHE", str(tmp_path))
    source = url(server)
    with pytest.raises(ValueError, match="no network") as caught, download.reading(source) as path:
        raise ValueError(f"{path}: no network.")
    text = str(caught.value)
    assert text.startswith(f"{source}: no network. The next try downloads it again; what came is")
    assert [file.name for file in tmp_path.iterdir()] == [f"{path.name}.refused"]
    with download.reading(source) as path:
        assert path.read_bytes() == BODY
    assert server.requests == ["/network.pkl"] * 2
    with pytest.raises(ValueError, match=r"^mine$"), download.reading(str(path)):
        raise ValueError("mine")
    assert path.exists()


def test_every_reader_of_downloads_tries_again(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFJAX_CACHE", str(tmp_path))
    readers = {
        "x.pkl": teacher.load,
        "x.pth": inception.load,
        "y.pth": lambda source: features.load("inception", source),
        "x.npz": image_statistics.load_reference,
        "y.pkl": lambda source: convert_main.convert(source, str(tmp_path / "out")),
    }
    for name, read in readers.items():
        source = url(server, name)
        server.sent[f"/{name}"] = b"\x89HDF\r\n\x1a\n"
        for _ in range(2):
            with pytest.raises(ValueError, match=r"an HDF5 file.*downloads it again") as caught:
                read(source)
            assert source in str(caught.value)
        assert server.requests == [f"/{name}"] * 2
        server.requests.clear()


def test_what_killed_downloads_left_goes(server, tmp_path):
    path = download.fetch(url(server), cache_dir=tmp_path)
    path.unlink()
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / f".{path.name}.partial-{socket.gethostname()}-{dead.pid}.1").write_bytes(b"part")
    download.fetch(url(server), cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OSError, match=r"-network\.pkl can't be written \(File exists\): a part of its"
    ):
        download.fetch(url(server), cache_dir=tmp_path / "file")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="not a file, but a folder: name the file itself"):
        download.fetch(str(tmp_path))
