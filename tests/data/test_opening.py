import numpy as np
import pytest

from diffjax import data
from diffjax.data import digits, opening
from diffjax.files import images
from tests.support import image_files


def test_digits():
    source = data.open_source("digits")
    assert (len(source), source.image_shape, source.num_classes) == (1797, (8, 8, 1), 10)
    pictures, classes = data.load_all(source)
    np.testing.assert_array_equal(pictures, images.to_uint8(digits.load()[0]))
    np.testing.assert_array_equal(classes, digits.load()[1])
    assert pictures.dtype == np.uint8
    assert classes.dtype == np.int32


def test_load_all_keeps_the_order_over_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "_WINDOW", 4)
    pictures = image_files.pictures(11)
    contents = image_files.files(pictures)
    contents["dataset.json"] = image_files.labels(list(contents), range(11))
    source = data.open_source(str(image_files.write_zip(tmp_path / "a.zip", contents)))
    loaded, classes = data.load_all(source)
    np.testing.assert_array_equal(loaded, pictures)
    assert classes.tolist() == list(range(11))
    seen = []
    data.verify(source, progress=seen.append)
    assert seen == list(range(1, 12))


def test_unknown_names():
    with pytest.raises(ValueError, match=r"data='digit' is unknown; known are: digits, a zip"):
        data.open_source("digit")
    with pytest.raises(ValueError, match=r"dataset='digit' is unknown"):
        data.open_source("digit", field="dataset")
    with pytest.raises(ValueError, match=r"data='' is unknown"):
        data.open_source("")


@pytest.mark.parametrize("path", ["absent.zip", "absent/folder"])
def test_paths_that_are_not_there(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"data='.*{path}': no such file or folder"):
        data.open_source(str(tmp_path / path))
    with pytest.raises(
        FileNotFoundError, match=rf"data='{path}': no such file or folder; a data set is "
    ):
        data.open_source(path)
