import io
import json
import struct
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from diffjax import data
from tests.support import image_files


def read(source: data.DataSource) -> tuple[np.ndarray, list[int]]:
    pictures, classes = zip(*(source[i] for i in range(len(source))), strict=True)
    return np.stack(pictures), list(classes)


def write(kind, path, contents):
    if kind == "zip":
        return str(image_files.write_zip(path / "set.zip", contents))
    return str(image_files.write_folder(path / "set", contents))


KINDS = pytest.mark.parametrize("kind", ["zip", "folder"])


@KINDS
@pytest.mark.parametrize("channels", [1, 3])
def test_images_and_classes_come_back(kind, channels, tmp_path):
    images = image_files.pictures(10, channels=channels)
    contents = image_files.files(images)
    classes = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
    # The order of the labels and of the files in the zip are nobody's business.
    shuffled = dict(sorted(contents.items(), reverse=True))
    shuffled["dataset.json"] = image_files.labels(list(contents)[::-1], classes[::-1])
    source = data.open_source(write(kind, tmp_path, shuffled))
    assert len(source) == 10
    assert source.image_shape == (8, 8, channels)
    assert source.num_classes == 10
    pictures, found = read(source)
    assert pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures, images)
    assert found == classes
    data.verify(source)


def test_jpeg_is_decoded_as_pil_does(tmp_path):
    contents = image_files.files(image_files.pictures(3), "JPEG")
    source = data.open_source(str(image_files.write_zip(tmp_path / "a.zip", contents)))
    for pixels, content in zip(read(source)[0], contents.values(), strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(content))))


@KINDS
def test_null_labels_mean_no_classes(kind, tmp_path):
    contents = image_files.files(image_files.pictures(5))
    contents["dataset.json"] = image_files.labels(list(contents), None)
    source = data.open_source(write(kind, tmp_path, contents))
    assert source.num_classes == 0
    assert read(source)[1] == [0] * 5


def test_a_zip_without_labels_has_no_classes(tmp_path):
    source = data.open_source(write("zip", tmp_path, image_files.files(image_files.pictures(5))))
    assert source.num_classes == 0


def test_subfolders_are_classes(tmp_path):
    names = ["cat/b.png", "dog/x/a.PNG", "cat/a.png"]
    images = image_files.pictures(3)
    contents = {n: image_files.encoded(x) for n, x in zip(names, images, strict=True)}
    source = data.open_source(write("folder", tmp_path, contents))
    assert source.num_classes == 2
    pictures, classes = read(source)
    np.testing.assert_array_equal(pictures, images[[2, 0, 1]])
    assert classes == [0, 0, 1]
    loose = {**contents, "z.png": image_files.encoded(images[0])}
    with pytest.raises(ValueError, match=r"'z\.png' lies outside of the subfolders"):
        data.open_source(write("folder", tmp_path, loose))


def test_a_flat_folder_has_no_classes(tmp_path):
    contents = {f"{i}.png": image_files.encoded(x) for i, x in enumerate(image_files.pictures(3))}
    assert data.open_source(write("folder", tmp_path, contents)).num_classes == 0


def test_hidden_files_are_not_images(tmp_path):
    contents = image_files.files(image_files.pictures(2))
    contents |= {".DS_Store": b"x", "__MACOSX/._img.png": b"x", "00000/._img00000000.png": b"x"}
    assert len(data.open_source(write("zip", tmp_path, contents))) == 2


NAMES = list(image_files.files(image_files.pictures(4)))
LABEL_MISTAKES = [
    (b"{", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b"{}", 'no field "labels"'),
    (b"[]", 'no field "labels"'),
    (b'{"labels": {}}', '"labels" is neither a list nor null'),
    (b'{"labels": []}', "no label for 4 of 4 images"),
    (b'{"labels": [3]}', r"labels\[0\] is not a pair"),
    (
        image_files.labels(NAMES[:3], [0, 1, 2]),
        r"no label for 1 of 4 images, the first being '00000/img00000003\.png'",
    ),
    (
        image_files.labels([*NAMES, NAMES[0]], [0, 1, 2, 3, 4]),
        r"two labels for '00000/img00000000\.png'",
    ),
    *(
        (
            image_files.labels(NAMES, [0, wrong, 0, 0]),
            r"labels\[1\]: the class of '00000/img00000001\.png' is not a whole number",
        )
        for wrong in (-1, 1.5, "1", True, None, [0, 1], 10**9, float("nan"))
    ),
]


@KINDS
@pytest.mark.parametrize(("content", "message"), LABEL_MISTAKES)
def test_labels_that_do_not_match(kind, content, message, tmp_path):
    contents = {**image_files.files(image_files.pictures(4)), "dataset.json": content}
    with pytest.raises(ValueError, match=rf"set\S*: dataset\.json: .*{message}") as caught:
        data.open_source(write(kind, tmp_path, contents))
    assert "\n" not in str(caught.value)


def palette() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image_files.pictures(1)[0]).convert("P").save(stream, "PNG")
    return stream.getvalue()


def huge_header() -> bytes:
    """A PNG of a hundred bytes that declares 50,000 x 50,000 pixels."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def gif() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image_files.pictures(1)[0]).save(stream, "GIF")
    return stream.getvalue()


WHOLE = image_files.encoded(image_files.pictures(1, size=32)[0], "JPEG")
BAD_IMAGES = [
    (b"", "not a readable PNG or JPEG"),
    (b"hello", "not a readable PNG or JPEG"),
    (WHOLE[: len(WHOLE) // 2], "not a readable PNG or JPEG"),
    (image_files.encoded(image_files.pictures(1)[0])[:60], "not a readable PNG or JPEG"),
    (gif(), "not a readable PNG or JPEG"),
    (palette(), "PIL's mode P; convert the images to 8-bit RGB or gray"),
    (huge_header(), "50000x50000 pixels, over 16777216|decompression bomb"),
    (b"\0" * ((1 << 26) + 1), "is over 67108864 bytes"),
    (
        image_files.encoded(image_files.pictures(1, size=9)[0]),
        "is 9x9 with 3 channels, but .* is 8x8",
    ),
    (
        image_files.encoded(image_files.pictures(1, channels=1)[0]),
        "is 8x8 with 1 channel, but .* 3 channels",
    ),
]


@KINDS
@pytest.mark.parametrize(("content", "message"), BAD_IMAGES)
def test_a_bad_image_is_named_before_anything_is_computed(kind, content, message, tmp_path):
    contents = image_files.files(image_files.pictures(6))
    contents["00001/img00000005.png"] = content
    source = data.open_source(write(kind, tmp_path, contents))
    for look in (data.verify, data.load_all):
        with pytest.raises(ValueError, match=rf"set\S*: '00001/img00000005\.png'.*{message}") as e:
            look(source)
        assert "\n" not in str(e.value)


@KINDS
def test_a_first_image_that_is_bad(kind, tmp_path):
    contents = image_files.files(image_files.pictures(2))
    contents["00000/img00000000.png"] = b"hello"
    with pytest.raises(ValueError, match=r"img00000000\.png': not a readable PNG or JPEG"):
        data.open_source(write(kind, tmp_path, contents))


@KINDS
def test_a_file_of_another_kind_is_not_passed_over(kind, tmp_path):
    contents = {**image_files.files(image_files.pictures(2)), "00000/img9.webp": b"x"}
    with pytest.raises(
        ValueError, match=r"'00000/img9\.webp' is neither PNG nor JPEG; take it out"
    ):
        data.open_source(write(kind, tmp_path, contents))


@KINDS
def test_no_images_at_all(kind, tmp_path):
    with pytest.raises(ValueError, match="no PNG or JPEG images"):
        data.open_source(write(kind, tmp_path, {"dataset.json": b"{}"}))


def test_not_a_zip(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"a\.zip: not a readable zip"):
        data.open_source(str(path))


def test_damage_inside_a_zip_is_seen_by_its_checksum(tmp_path):
    images = image_files.pictures(3)
    path = image_files.write_zip(tmp_path / "a.zip", image_files.files(images))
    content = bytearray(path.read_bytes())
    place = content.find(image_files.encoded(images[2])) + 70
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"'00000/img00000002\.png' can't be read \(Bad CRC-32"):
        data.verify(data.open_source(str(path)))


def test_two_files_of_one_name(tmp_path):
    path = image_files.write_zip(tmp_path / "a.zip", image_files.files(image_files.pictures(2)))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("00000/img00000000.png", b"x")
    with pytest.raises(ValueError, match="two of its files have one name"):
        data.open_source(str(path))


def test_an_encrypted_entry(tmp_path):
    path = image_files.write_zip(tmp_path / "a.zip", image_files.files(image_files.pictures(1)))
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(signature) + offset] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"img00000000\.png' can't be read \(.*encrypted"):
        data.open_source(str(path))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((1 << 27) + 1, r"'dataset\.json' is over 134217728 bytes"),
        (
            1 << 26,
            r"'dataset\.json' declares to hold 67108864 bytes in",
        ),
    ],
)
def test_a_zip_bomb_is_refused_by_what_it_declares(size, message, tmp_path):
    contents = {**image_files.files(image_files.pictures(2)), "dataset.json": b" " * size}
    path = image_files.write_zip(tmp_path / "a.zip", contents, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match=message):
        data.open_source(str(path))


def test_other_compressions_are_refused(tmp_path):
    path = image_files.write_zip(
        tmp_path / "a.zip", image_files.files(image_files.pictures(1)), zipfile.ZIP_LZMA
    )
    with pytest.raises(ValueError, match="is neither stored nor deflated"):
        data.open_source(str(path))


def test_a_progressive_jpeg_of_endless_scans_is_refused_unread(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (2048, 2048)).save(stream, "JPEG", progressive=True)
    genuine = stream.getvalue()
    assert 1 < genuine.count(b"\xff\xda") < 20
    last = genuine.rindex(b"\xff\xda")
    bomb = genuine[:last] + genuine[last:-2] * 1000 + genuine[-2:]
    for content, refused in ((genuine, False), (bomb, True)):
        path = image_files.write_zip(tmp_path / "a.zip", {"00000/a.jpg": content})
        if refused:
            start = time.process_time()
            with pytest.raises(ValueError, match=r"a\.jpg': 10.. scans of 2048x2048 pixels"):
                data.open_source(str(path))
            assert time.process_time() - start < 2
        else:
            data.open_source(str(path))


def test_an_entry_that_holds_more_than_it_declares(tmp_path):
    """The declared size bounds what is unpacked, so it can't be lied about."""
    name = "00000/img00000000.png"
    path = image_files.write_zip(
        tmp_path / "a.zip", {name: b"\0" * 10_000_000}, zipfile.ZIP_DEFLATED
    )
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = content.find(signature) + offset
        content[place : place + 4] = struct.pack("<I", 100)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"img00000000\.png' can't be read|not a readable PNG"):
        data.open_source(str(path))


def test_names_that_lead_out_write_nothing(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    image = image_files.encoded(image_files.pictures(1)[0])
    path = image_files.write_zip(inside / "a.zip", {"../../evil.png": image, "/evil.png": image})
    data.verify(data.open_source(str(path)))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "inside"]


def test_labels_of_the_real_tool(tmp_path):
    """What EDM's tool writes holds more fields and line breaks."""
    contents = image_files.files(image_files.pictures(2))
    document = {"labels": [[name, 1] for name in contents], "note": 1}
    contents["dataset.json"] = json.dumps(document, indent=1).encode()
    assert data.open_source(write("zip", tmp_path, contents)).num_classes == 2
