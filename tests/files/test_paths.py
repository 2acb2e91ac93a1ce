"""Paths that are no paths, wherever something is written or read."""

import pytest

from diffjax.convert import __main__ as convert
from diffjax.data import open_source
from diffjax.evaluation import image_statistics
from diffjax.files import paths
from diffjax.tools import replay

MOUNT = "is a URL: mount the store"


@pytest.mark.parametrize(
    "path",
    ["", "a", "/mnt/gs/x", "a:b/c", "run: 2/x", "gs", "runs/gs:x", "C:/runs", "a/b://c", "~/x"],
)
def test_paths_stay(path):
    assert paths.local(path) == path


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("gs://bucket/a b", f"gs://bucket/a b {MOUNT}, as by `gcsfuse bucket FOLDER`, and name"),
        ("gs:/bucket/x", f"gs://bucket/x {MOUNT}, as by `gcsfuse bucket "),
        ("GS://bucket", f"GS://bucket {MOUNT}, as by `gcsfuse bucket "),
        ("s3://bucket/x/", f"s3://bucket/x {MOUNT}, as by `mount-s3 bucket "),
        ("abfs://x@y/z", f"abfs://x@y/z {MOUNT} and name the mounted path"),
        ("https://x/y", f"https://x/y {MOUNT} and name the mounted path"),
        ("gs://", f"gs:// {MOUNT}"),
        ("file:///runs/a%20b", "is a URL: name the path, /runs/a b"),
    ],
)
def test_urls_are_refused_with_what_to_do(url, said):
    with pytest.raises(ValueError, match="is a URL") as caught:
        paths.local(url)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (convert, ["--source=edm-cifar10-32x32-uncond-vp", "--output=gs://b/x"]),
        (image_statistics, ["--data=digits", "--output=gs://b/x.npz"]),
        (image_statistics, ["--data=gs://b/x", "--output=x.npz"]),
        (replay, ["--workdir=gs://b/x"]),
    ],
)
def test_commands_refuse_before_they_begin(command, arguments, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 1
    error = capsys.readouterr().err
    assert MOUNT in error
    assert len(error.splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_a_data_set_at_a_store():
    with pytest.raises(ValueError, match=r"config\.dataset=gs://b/x.zip is a URL: mount the store"):
        open_source("gs://b/x.zip", field="config.dataset")
