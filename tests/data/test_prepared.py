"""Data sets that TFDS itself prepares here, without TensorFlow."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from diffjax import data
from tests.support import image_files

IMAGES = image_files.pictures(10, seed=1)


def prepare(folder, *, features, examples):
    """A builder of one's own, prepared as array_record."""

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        # As if defined in a script: in a package, TFDS 4.9.10 asks for importlib_resources, which
        # it doesn't declare. Reading never does.
        __module__ = "__main__"

        def _info(self):
            kinds = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=kinds)

        def _split_generators(self, dl_manager):
            return {"train": enumerate(examples), "test": enumerate(examples[:3])}

        def _generate_examples(self):
            raise AssertionError("the splits above hold the examples themselves")

    Tiny(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


def image_feature(shape=(8, 8, 3)):
    return tfds.features.Image(shape=shape, encoding_format="png")


def labelled(images):
    return [{"image": image_files.encoded(x), "label": i % 3} for i, x in enumerate(images)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    features = {"image": image_feature(), "label": tfds.features.ClassLabel(num_classes=4)}
    folder = tmp_path_factory.mktemp("tfds")
    return prepare(folder, features=features, examples=labelled(IMAGES))


def read(source):
    return sorted(
        (pixels.tobytes(), label) for pixels, label in (source[i] for i in range(len(source)))
    )


def test_images_and_classes_come_back(tiny, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny))
    source = data.open_source("tfds:tiny")
    assert (len(source), source.image_shape, source.num_classes) == (10, (8, 8, 3), 4)
    assert source[0][0].dtype == np.uint8
    # TFDS orders examples by a hash of their keys, always the same one.
    expected = sorted((x.tobytes(), i % 3) for i, x in enumerate(IMAGES))
    assert read(source) == expected
    assert read(data.open_source("tfds:tiny:1.0.0")) == expected


@pytest.mark.parametrize(("split", "count"), [("test", 3), ("train[:50%]", 5), ("train+test", 13)])
def test_splits(tiny, split, count):
    assert len(data.open_source(f"tfds:tiny#{split}", data_dir=tiny)) == count


def test_read_back_through_grain_without_tensorflow(tiny):
    """In a process of its own, to see that nothing imports TensorFlow."""
    code = f"""
import json, sys
from diffjax import data
source = data.open_source("tfds:tiny", data_dir={str(tiny)!r})
batches = data.shuffled(source, batch_size=5, seed=0)
epoch = [next(batches), next(batches)]
print(json.dumps([[x.tolist() for batch in epoch for x in batch.images],
                  sorted(m for m in sys.modules if m.partition(".")[0] in ("tensorflow", "torch")
                         and sys.modules[m].__spec__ and sys.modules[m].__spec__.origin)]))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    images, foreign = json.loads(out.stdout)
    assert sorted(images) == sorted(IMAGES.tolist())
    assert foreign == []


def test_without_classes(tmp_path):
    examples = [{"picture": image_files.encoded(x)} for x in IMAGES]
    prepare(tmp_path, features={"picture": image_feature()}, examples=examples)
    source = data.open_source("tfds:tiny", data_dir=tmp_path)
    assert source.num_classes == 0
    assert read(source) == sorted((x.tobytes(), 0) for x in IMAGES)


def test_mixed_sizes(tmp_path):
    images = [*IMAGES, image_files.pictures(1, size=9)[0]]
    examples = [{"image": image_files.encoded(x)} for x in images]
    prepare(tmp_path, features={"image": image_feature((None, None, 3))}, examples=examples)
    with pytest.raises(ValueError, match=r"tfds:tiny: image \d+ is .* must be of one size"):
        data.verify(data.open_source("tfds:tiny", data_dir=tmp_path))


def test_an_unreadable_image(tmp_path):
    examples = [*labelled(IMAGES), {"image": b"hello", "label": 0}]
    features = {"image": image_feature(), "label": tfds.features.ClassLabel(num_classes=4)}
    prepare(tmp_path, features=features, examples=examples)
    with pytest.raises(ValueError, match=r"tfds:tiny: image \d+: not a readable PNG or JPEG"):
        data.verify(data.open_source("tfds:tiny", data_dir=tmp_path))


def test_classes_with_images(tiny):
    assert data.open_source("tfds:tiny", data_dir=tiny).classes_with_images == (0, 1, 2)
    assert data.open_source("digits").classes_with_images == tuple(range(10))


@pytest.mark.parametrize("unlabelled", [1, 10])
def test_images_without_a_class(unlabelled, tmp_path):
    """TFDS gives these the class −1."""
    examples = labelled(IMAGES)
    for example in examples[:unlabelled]:
        example["label"] = -1
    features = {"image": image_feature(), "label": tfds.features.ClassLabel(num_classes=4)}
    prepare(tmp_path, features=features, examples=examples)
    source = data.open_source("tfds:tiny", data_dir=tmp_path)
    if unlabelled == 10:
        data.verify(source)
        assert (source.num_classes, source.classes_with_images) == (0, ())
    else:
        with pytest.raises(
            ValueError, match=r"tfds:tiny: image \d has the class -1, which is none"
        ):
            data.verify(source)


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "another split's"])
def test_a_damaged_file_of_records(damage, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    [path] = tmp_path.rglob("*train.array_record*")
    [other] = tmp_path.rglob("*test.array_record*")
    content = path.read_bytes()
    path.unlink()
    if damage == "another split's":
        shutil.copy(other, path)
    elif damage != "gone":
        middle = len(content) // 2
        flipped = content[:300] + bytes([content[300] ^ 1]) + content[301:]
        path.write_bytes(content[:middle] if damage == "cut" else flipped)
    message = r"tfds:tiny: image \d can't be read, since a file is missing or damaged \(.*prepare"
    with pytest.raises(ValueError, match=message) as caught:
        data.verify(data.open_source("tfds:tiny", data_dir=tmp_path))
    assert "\n" not in str(caught.value)


def test_more_than_one_image_an_example(tmp_path):
    one = image_files.encoded(IMAGES[0])
    features = {"left": image_feature(), "right": image_feature()}
    prepare(tmp_path, features=features, examples=[{"left": one, "right": one}])
    with pytest.raises(ValueError, match="tfds:tiny: its examples hold 2 images and 0 classes"):
        data.open_source("tfds:tiny", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "tiny:2.0.0", "tiny/config", "../tiny", "", "a b"])
def test_a_data_set_that_is_not_prepared(tiny, name):
    with pytest.raises(ValueError, match=r"no such data set is prepared in .*tfds build") as caught:
        data.open_source(f"tfds:{name}", data_dir=tiny)
    assert "where TensorFlow is installed" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["validation", "train[", "train[:x%]"])
def test_a_split_that_is_not_there(tiny, split):
    with pytest.raises(ValueError, match="no such split; known are: test, train") as caught:
        data.open_source(f"tfds:tiny#{split}", data_dir=tiny)
    assert "\n" not in str(caught.value)


def test_a_format_that_needs_tensorflow(tiny, tmp_path):
    source, target = tiny / "tiny" / "1.0.0", tmp_path / "tiny" / "1.0.0"
    target.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        text = (source / name).read_text().replace("array_record", "tfrecord")
        (target / name).write_text(text)
    with pytest.raises(ValueError, match=r"prepared as tfrecord, which needs TensorFlow: .*tfds"):
        data.open_source("tfds:tiny", data_dir=tmp_path)
