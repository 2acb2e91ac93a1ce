"""The benchmarks of speed, in miniature: what they count, and what they run on."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import measuring, step, synthetic
from diffjax.denoiser import from_edm_kwargs
from tests.data import making
from tests.test_train import ROOT

NETWORK = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 1,
    "model_channels": 16,
    "channel_mult": (1,),
    "num_blocks": 1,
    "attn_resolutions": (8,),
}


class TestFlops:
    def test_attention_counts_whoever_computes_it(self, monkeypatch):
        """cuDNN's is a call that can't be looked into; here another such call stands for it."""

        def opaque(q, k, v, *, implementation):
            assert implementation == "cudnn"
            return jax.pure_callback(lambda q, *_: q, q, q, k, v)

        monkeypatch.setattr(jax.nn, "dot_product_attention", opaque)
        by_xla, by_cudnn = (
            from_edm_kwargs(NETWORK, dtype=jnp.bfloat16, attention=name)
            for name in ("xla", "cudnn")
        )
        assert measuring.forward_flops(by_cudnn) == measuring.forward_flops(by_xla)

    def test_a_block_with_attention_adds_what_the_definition_says(self):
        """On 64 pixels of 16 channels: two products of all pairs, and the layers around them."""
        with_it = from_edm_kwargs(NETWORK)
        without = from_edm_kwargs({**NETWORK, "attn_resolutions": ()})
        blocks = 2  # the encoder's, and the decoder's last
        pairs, layers = 2 * 64 * 64 * 16, 64 * 16 * (3 * 16 + 16)
        added = measuring.forward_flops(with_it) - measuring.forward_flops(without)
        assert added == blocks * 2 * (pairs + layers)


SMALL = [
    "network.model_channels=8",
    "network.channel_mult=(1,)",
    "network.num_blocks=1",
    "network.attn_resolutions=()",
    "heun.steps=2",
]


def measured(benchmark, tmp_path, monkeypatch, capsys, *flags):
    """What a benchmark writes as JSON and prints, of a small network in place of the config's."""
    file = tmp_path / "result.jsonl"
    changes = [f"--set={change}" for change in SMALL]
    config = f"--config={ROOT / 'configs/teacher_cifar_small.py'}"
    common = [config, "--dtype=float32", "--devices=2", f"--json={file}", *changes]
    monkeypatch.setattr(sys, "argv", [benchmark.__name__, *common, *flags])
    benchmark.main()
    (line,) = file.read_text().splitlines()
    return json.loads(line), capsys.readouterr().out


def forward_flops():
    """Of the network that was measured, which is EDM's DDPM++ but for its size."""
    kwargs = {"img_resolution": 32, "img_channels": 3, "augment_dim": 9, "num_blocks": 1}
    kwargs |= {"model_channels": 8, "channel_mult": (1,), "attn_resolutions": ()}
    return measuring.forward_flops(from_edm_kwargs({**NETWORK, **kwargs}))


def test_a_teachers_update_is_measured_without_its_data_set(tmp_path, monkeypatch, capsys):
    flags = ["--batch_size=4", "--updates_per_call=1", "--repeats=2"]
    result, table = measured(step, tmp_path, monkeypatch, capsys, *flags)
    assert result["config"] == "teacher_cifar_small"
    assert result["device"].startswith("2 x ")
    assert (result["accumulation"], result["skipped"]) == (1, 0)
    assert result["images_per_second"] == pytest.approx(4 / result["seconds_per_update"])
    done = result["model_tflops_per_second"] * 1e12 * result["seconds_per_update"]
    assert done == pytest.approx(3 * 4 * forward_flops())
    peak = result["matrix_peak_tflops_per_second"]
    assert result["share_of_peak"] == pytest.approx(result["model_tflops_per_second"] / peak)
    assert {line.split()[0] for line in table.splitlines()} == result.keys()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--accumulation=2"], "--accumulation: the update of a teacher has no rounds"),
        (["--batch_size=5"], "batch_size=5 does not divide over 2 devices"),
        (["--set=dataset=mine.zip"], r"config\.dataset='mine\.zip': .* --set dataset=images-64x64"),
        (["--set=attention=cudnn"], r"config\.attention='cudnn' runs on NVIDIA GPUs"),
    ],
)
def test_what_cannot_be_measured_is_one_line(flags, message, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match=f"^error: {message}") as caught:
        measured(step, tmp_path, monkeypatch, capsys, *flags)
    assert "\n" not in str(caught.value)


class TestSyntheticImages:
    @pytest.mark.parametrize(
        ("dataset", "shape"),
        [("digits", (8, 8, 1)), ("x/imagenet-64x64.zip", (64, 64, 3)), ("a-8x8.zip", (8, 8, 3))],
    )
    def test_they_are_of_the_data_sets_size(self, dataset, shape):
        source = synthetic.images_like(dataset, conditional=True)
        assert source.image_shape == shape
        assert source.images.dtype == np.uint8
        assert source.images.std() > 70  # of even noise it is 74
        assert source.num_classes == 10
        assert set(source.classes) == set(range(10))

    def test_a_data_set_that_is_there_tells_size_and_classes(self, tmp_path):
        contents = making.files(making.pictures(3))
        contents["dataset.json"] = making.labels(list(contents), [0, 1, 2])
        path = making.write_zip(tmp_path / "set-32x32.zip", contents)
        source = synthetic.images_like(str(path), conditional=True)
        assert (source.image_shape, source.num_classes) == ((8, 8, 3), 3)

    def test_without_classes(self):
        source = synthetic.images_like("none-16x16.zip", conditional=False)
        assert source.num_classes == 0
        assert not source.classes.any()

    @pytest.mark.parametrize("name", ["a-32x64.zip", "a32.zip", "a-16x160.zip"])
    def test_a_name_without_a_size(self, name):
        with pytest.raises(FileNotFoundError, match=r"no such file .* --set dataset="):
            synthetic.images_like(name, conditional=False)
