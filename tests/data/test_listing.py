"""What a folder or zip holds beside plain images: read rightly, told with its count, or refused."""

import logging
import os
import stat
import zipfile

import numpy as np
import pytest

from diffjax import data
from tests.support import image_files

IMAGES = image_files.pictures(6)
FILES = image_files.files(IMAGES)
NAMES = list(FILES)
KINDS = pytest.mark.parametrize("kind", ["zip", "folder"])


def open_(kind, path, contents):
    write = {"zip": image_files.write_zip, "folder": image_files.write_folder}[kind]
    path.mkdir(exist_ok=True)
    return data.open_source(str(write(path / f"set.{kind}", contents)))


def read(source):
    pictures, classes = data.load_all(source)
    return pictures, classes.tolist()


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def class_folder(path, images):
    contents = {f"{i}.png": image_files.encoded(x) for i, x in enumerate(images)}
    return image_files.write_folder(path, contents)


def test_links_are_followed(tmp_path, caplog):
    class_folder(tmp_path / "set" / "a", IMAGES[:2])
    (tmp_path / "set" / "b").symlink_to(class_folder(tmp_path / "elsewhere", IMAGES[2:4]))
    target = class_folder(tmp_path / "files", IMAGES[4:])
    (tmp_path / "set" / "c").mkdir()
    for name in ("0.png", "1.png"):
        (tmp_path / "set" / "c" / name).symlink_to(target / name)
    source = data.open_source(str(tmp_path / "set"))
    pictures, classes = read(source)
    np.testing.assert_array_equal(pictures, IMAGES)
    assert classes == [0, 0, 1, 1, 2, 2]
    assert not told(caplog)


def test_a_link_back_up_is_told(tmp_path, caplog):
    folder = class_folder(tmp_path / "set" / "a", IMAGES[:2]).parent
    class_folder(folder / "b", IMAGES[2:])
    (folder / "a" / "up").symlink_to(folder)
    (folder / "b" / "self").symlink_to(".")
    pictures, classes = read(data.open_source(str(folder)))
    np.testing.assert_array_equal(pictures, IMAGES)
    assert classes == [0, 0, 1, 1, 1, 1]
    assert len(told(caplog)) == 1
    assert "left out: links to folders that they lie in (2, such as 'a/up')" in told(caplog)[0]
    assert len(data.open_source(str(folder))) == 6
    assert len(told(caplog)) == 1  # the same isn't told again


def test_entries_that_cannot_be_read_are_named(tmp_path):
    folder = class_folder(tmp_path / "set", IMAGES)
    (folder / "odd.png").symlink_to(folder / "nowhere")
    with pytest.raises(ValueError, match=r"set: 'odd\.png' is a link to nothing; mend it"):
        data.open_source(str(folder))
    (folder / "odd.png").unlink()
    (folder / "odd.png").symlink_to("odd.png")
    with pytest.raises(ValueError, match=r"set: 'odd\.png' (can't be read|is a link to nothing)"):
        data.open_source(str(folder))
    (folder / "odd.png").unlink()
    os.mkfifo(folder / "odd.png")
    with pytest.raises(ValueError, match=r"'odd\.png' is neither a file nor a folder"):
        data.open_source(str(folder))


def test_a_subfolder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    folder = class_folder(tmp_path / "set" / "a", IMAGES).parent
    class_folder(folder / "b", IMAGES)
    scandir = os.scandir

    def refuse(path):  # as for a user who isn't root
        if os.path.basename(path) == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"set: 'b' can't be read \(Permission denied\)\.$"):
        data.open_source(str(folder))


@KINDS
def test_what_is_left_out_is_told_with_its_count(kind, tmp_path, caplog):
    odd = {".DS_Store": b"x", "__MACOSX/a.png": b"x", "00000/._b.png": b"x", "Thumbs.db": b"x"}
    source = open_(kind, tmp_path, {**FILES, **odd, "00001/README.txt": b"x"})
    np.testing.assert_array_equal(read(source)[0], IMAGES)
    assert len(told(caplog)) == 1
    assert "left out: hidden files (3, such as '" in told(caplog)[0]
    assert "files that are no images (2, such as '" in told(caplog)[0]


@KINDS
@pytest.mark.parametrize("name", ["00000/x.gif", "00000/x.webp", "00000/x", "inner.zip", "x.npy"])
def test_what_may_be_or_hold_images_is_refused(kind, name, tmp_path):
    with pytest.raises(ValueError, match=rf"{name}' is neither PNG nor JPEG; take it out"):
        open_(kind, tmp_path, {**FILES, name: b"x"})


@KINDS
@pytest.mark.parametrize("suffix", ["JPG", "Jpeg", "jfif", "jpe"])
def test_all_suffixes_of_a_jpeg(kind, suffix, tmp_path):
    contents = image_files.files(IMAGES, "JPEG")
    renamed = {name.replace("jpg", suffix): content for name, content in contents.items()}
    assert len(open_(kind, tmp_path, renamed)) == 6


def test_an_empty_subfolder_is_told(tmp_path, caplog):
    class_folder(tmp_path / "set" / "a", IMAGES)
    (tmp_path / "set" / "b").mkdir()
    assert data.open_source(str(tmp_path / "set")).num_classes == 1
    assert "subfolders without images are no classes: 1, such as 'b'" in told(caplog)[0]


@KINDS
def test_names_with_backslashes(kind, tmp_path):
    contents = {name.replace("/", "\\"): content for name, content in FILES.items()}
    contents["dataset.json"] = image_files.labels(NAMES, [3, 1, 4, 1, 5, 2])
    pictures, classes = read(open_(kind, tmp_path, contents))
    np.testing.assert_array_equal(pictures, IMAGES)
    assert classes == [3, 1, 4, 1, 5, 2]
    labels = image_files.labels([name.replace("/", "\\") for name in NAMES], range(6))
    contents = {**FILES, "dataset.json": labels}
    assert read(open_(kind, tmp_path / "labels", contents))[1] == [*range(6)]


def test_one_name_written_in_two_ways(tmp_path):
    contents = {**FILES, NAMES[0].replace("/", "\\"): FILES[NAMES[0]]}
    with pytest.raises(ValueError, match="two of its files have one name, '00000/img00000000"):
        open_("zip", tmp_path, contents)


def test_names_that_start_with_a_dot_and_a_slash(tmp_path):
    contents = {f"./{name}": content for name, content in FILES.items()}
    contents["./dataset.json"] = image_files.labels(NAMES, range(6))
    source = open_("zip", tmp_path, contents)
    np.testing.assert_array_equal(read(source)[0], IMAGES)
    assert source.num_classes == 6


@KINDS
def test_a_part_of_the_images_with_all_labels(kind, tmp_path, caplog):
    contents = dict(list(FILES.items())[:3])
    contents["dataset.json"] = image_files.labels(NAMES, [0, 2, 1, 7, 8, 9])
    source = open_(kind, tmp_path, contents)
    assert read(source)[1] == [0, 2, 1]
    assert source.num_classes == 3  # as EDM counts: the largest class of an image plus 1
    assert (
        "images that aren't there (3, such as '00000/img00000003.png'); 3 are." in told(caplog)[0]
    )


@KINDS
def test_labels_in_the_folder_that_holds_all(kind, tmp_path):
    contents = {f"set/{name}": content for name, content in FILES.items()}
    contents["set/dataset.json"] = image_files.labels(NAMES, [3, 1, 4, 1, 5, 2])
    assert read(open_(kind, tmp_path, contents))[1] == [3, 1, 4, 1, 5, 2]
    contents["other/a.png"] = FILES[NAMES[0]]
    with pytest.raises(ValueError, match=r"'set/dataset.json' has no labels for 'other/a\.png'"):
        open_(kind, tmp_path / "2", contents)


def test_a_label_that_is_there_twice(tmp_path):
    labels = image_files.labels([*NAMES, NAMES[0]], [0, 1, 2, 3, 4, 5, 0])
    assert read(open_("zip", tmp_path, {**FILES, "dataset.json": labels}))[1] == [*range(6)]


def test_black_images_are_no_bomb(tmp_path):
    black = image_files.encoded(np.zeros((1024, 1024, 3), np.uint8))
    stored = image_files.uncompressed(np.zeros((1024, 1024, 3), np.uint8))
    path = image_files.write_zip(
        tmp_path / "a.zip", {"a.png": black, "b.png": stored}, zipfile.ZIP_DEFLATED
    )
    assert path.stat().st_size < len(stored) / 200
    source = data.open_source(str(path))
    data.verify(source)
    assert source.image_shape == (1024, 1024, 3)


def test_a_link_in_a_zip(tmp_path):
    path = image_files.write_zip(tmp_path / "a.zip", FILES)
    link = zipfile.ZipInfo("00001/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "img00000005.png")
    with pytest.raises(ValueError, match=r"'00001/link\.png' is a link, which a zip can't follow"):
        data.open_source(str(path))


def test_the_order_is_that_of_edm(tmp_path):
    names = ["b\\0.png", "b.png", "b/1.png", "B.png", "10.png", "9.png"]
    contents = {n: image_files.encoded(x) for n, x in zip(names, IMAGES, strict=True)}
    pictures, _ = read(open_("zip", tmp_path, contents))
    order = sorted(range(6), key=names.__getitem__)
    np.testing.assert_array_equal(pictures, IMAGES[order])
