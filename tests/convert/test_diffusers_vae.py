"""Autoencoders of diffusers' folders and files: what is read, and what is wrong with others."""

import json
import shutil

import jax
import numpy as np
import pytest

from diffjax.convert import diffusers_vae
from tests.support import vae_cases

CONFIG = "config.json"


@pytest.fixture
def folder(tmp_path):
    return vae_cases.save(tmp_path / "vae")


def arrays_of(folder):
    network = diffusers_vae.describe(folder).network
    return vae_cases.state_dict(network)


def change(folder, **settings):
    config = json.loads((folder / CONFIG).read_text()) | settings
    (folder / CONFIG).write_text(json.dumps(config))


def refused(path, *, starts, matches, error=ValueError):
    with pytest.raises(error, match=matches) as caught:
        diffusers_vae.describe(path).read_params()
    text = str(caught.value)
    assert text.startswith(str(starts))
    assert "\n" not in text
    assert len(text) < 1000


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_folders_files_and_pipelines(folder, tmp_path):
    description = diffusers_vae.describe(folder)
    assert (description.scaling_factor, description.shift_factor) == (0.18215, 0.0)
    params = description.read_params()
    kernel = params["params"]["decoder"]["up_blocks_0"]["upsamplers_0"]["conv"]["kernel"]
    assert kernel.shape == (3, 3, 8, 8)
    same(params, diffusers_vae.describe(folder / vae_cases.WEIGHTS).read_params())
    pipeline = tmp_path / "pipeline"
    shutil.copytree(folder, pipeline / "vae")
    same(params, diffusers_vae.describe(pipeline).read_params())
    (pipeline / "model_index.json").write_text("{}")
    same(params, diffusers_vae.describe(pipeline).read_params())
    change(folder, scaling_factor=0.13, shift_factor=0.5, force_upcast=True, latents_mean=None)
    description = diffusers_vae.describe(folder)
    assert (description.scaling_factor, description.shift_factor) == (0.13, 0.5)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_old_names_of_attention_and_other_types(folder, dtype):
    arrays = {vae_cases.old_name(k): v.astype(dtype) for k, v in arrays_of(folder).items()}
    assert any(name.endswith("proj_attn.bias") for name in arrays)
    new = diffusers_vae.describe(folder).read_params()
    vae_cases.save(folder, arrays=arrays)
    old = diffusers_vae.describe(folder).read_params()
    assert {leaf.dtype for leaf in jax.tree.leaves(old)} == {np.dtype(np.float32)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4), old, new)


@pytest.mark.parametrize(
    ("settings", "matches"),
    [
        ({"_class_name": "AutoencoderDC"}, "_class_name='AutoencoderDC' isn't read"),
        ({"block_out_channels": [4, 6]}, "has shape .* instead of"),
        ({"block_out_channels": [4, 9]}, "norm_num_groups=2 doesn't divide 9"),
        ({"block_out_channels": []}, "0 levels"),
        ({"block_out_channels": [4] * 1000}, "1000 levels"),
        ({"block_out_channels": [4, 1 << 40]}, "channels of 1099511627776"),
        ({"block_out_channels": [4, True]}, "must be a list, each an integer"),
        ({"down_block_types": ["DownEncoderBlock2D"]}, "has 1 levels, and block_out_channels 2"),
        ({"up_block_types": ["UpDecoderBlock2D", "X"]}, "up_block_types: 'X' isn't read"),
        ({"layers_per_block": 10**9}, "layers_per_block=1000000000 must lie in"),
        ({"layers_per_block": -1}, "layers_per_block=-1 must be positive"),
        ({"latent_channels": 8}, "quant_conv.* instead of"),
        ({"act_fn": "tan"}, "act_fn='tan' isn't read"),
        ({"norm_num_groups": "2"}, "norm_num_groups='2' must be an integer"),
        ({"scaling_factor": "big"}, "scaling_factor='big' must be a finite number"),
        ({"scaling_factor": 0}, "scaling_factor=0.0 must be positive"),
        ({"scaling_factor": float("nan")}, "scaling_factor=nan must be a finite number"),
        ({"shift_factor": [1]}, "shift_factor=.* must be a finite number"),
        ({"latents_mean": [1.0] * 4}, "latents_mean=.* is no setting of AutoencoderKL"),
        ({"mid_block_add_attention": False}, "attentions.0.* is not expected"),
        ({"mid_block_add_attention": 1}, "must be true or false"),
    ],
)
def test_other_settings(folder, settings, matches):
    change(folder, **settings)
    refused(folder, starts=folder, matches=matches)


def test_an_array_by_its_old_and_its_new_name(folder):
    arrays = arrays_of(folder)
    name = "decoder.mid_block.attentions.0.to_q.weight"
    arrays[vae_cases.old_name(name)] = 2 * arrays[name]
    network = diffusers_vae.describe(folder).network
    with pytest.raises(ValueError, match=r"0\.query\.weight and .*0\.to_q\.weight are one array"):
        diffusers_vae.variables(network, arrays)


def test_arrays_that_do_not_fit(folder):
    arrays = arrays_of(folder)
    name, array = next(iter(arrays.items()))
    weights = folder / vae_cases.WEIGHTS
    for changed, matches in [
        ({k: v for k, v in arrays.items() if k != name}, f"{name} is missing"),
        (arrays | {"extra": array}, "extra is not expected"),
        (arrays | {name: array[:1]}, f"{name} has shape"),
        (arrays | {name: np.full_like(array, np.nan)}, f"{name} holds NaN"),
        (arrays | {name: array.astype(np.int32)}, f"{name} is I32"),
        ({f"module.{k}": v for k, v in arrays.items()}, "DataParallel"),
        ({}, "is missing.* and 119 more"),
    ]:
        vae_cases.save(folder, arrays=changed)
        refused(folder, starts=weights, matches=matches)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html><html>",
        b"version https://git-lfs.github.com/spec/v1\n",
        (1 << 62).to_bytes(8, "little") + b"{}",
        b"\x02\0\0\0\0\0\0\0{]",
    ],
)
def test_weights_that_are_something_else(folder, content):
    weights = folder / vae_cases.WEIGHTS
    weights.write_bytes(content)
    refused(folder, starts=weights, matches="not a safetensors file")


def test_files_that_are_cut_off_or_not_there(folder, tmp_path):
    weights = folder / vae_cases.WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    refused(folder, starts=weights, matches="not a safetensors file")
    weights.rename(folder / "diffusion_pytorch_model.bin")
    refused(folder, starts=folder, matches=r"a pickle.* AutoencoderKL.from_pretrained")
    refused(folder / "diffusion_pytorch_model.bin", starts=folder, matches="not a safetensors file")
    (folder / CONFIG).write_text("{")
    refused(folder, starts=folder / CONFIG, matches="not JSON")
    (folder / CONFIG).unlink()
    refused(folder, starts=folder / CONFIG, matches="isn't there", error=FileNotFoundError)
    nowhere = tmp_path / "nowhere"
    refused(nowhere, starts=nowhere, matches="hf download", error=FileNotFoundError)
