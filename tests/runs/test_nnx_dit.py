"""A DiT of NNX, as others write it, is distilled by the config of SiT-XL/2."""

import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffjax.models.denoiser import from_edm_kwargs
from diffjax.runs import networks
from diffjax.runs.sample import sample
from diffjax.runs.train import train
from tests.support import dit_cases, nnx_dit

CONFIG = Path(__file__).parents[2] / "configs" / "sid_sit_imagenet256.py"
NAME = "tests.support.nnx_dit:teacher"


def test_it_is_what_ours_is():
    """The same weights in both: one denoiser, by an adapter and by our own network."""
    ours = from_edm_kwargs(
        {
            "class_name": "SiT",
            "img_resolution": nnx_dit.SIZE,
            "img_channels": nnx_dit.CHANNELS,
            "label_dim": nnx_dit.CLASSES,
            "hidden_size": nnx_dit.WIDTH,
            "depth": nnx_dit.DEPTH,
            "num_heads": nnx_dit.HEADS,
            "learn_sigma": False,
        }
    )
    params = dit_cases.weights(ours)
    own = params["params"]
    model = nnx_dit.DiT(nnx.Rngs(0))
    layers = {
        "patches": "x_embedder",
        **{"time1": "t_embedder_0", "time2": "t_embedder_2"},
        **{"modulation": "final_layer_adaLN_modulation", "out": "final_layer_linear"},
    }
    in_block = {"qkv": "attn_qkv", "proj": "attn_proj", "up": "mlp_fc1", "down": "mlp_fc2"}
    in_block["modulation"] = "adaLN_modulation"
    given = [(getattr(model, theirs), own[name]) for theirs, name in layers.items()]
    for i, block in enumerate(model.blocks):
        given += [(getattr(block, theirs), own[f"blocks_{i}"][n]) for theirs, n in in_block.items()]
    for layer, arrays in given:
        layer.kernel[...] = arrays["kernel"].reshape(layer.kernel.shape)
        layer.bias[...] = arrays["bias"]
    model.classes.embedding[...] = own["y_embedder"]
    record = nnx_dit.record(model, data_at=1)
    y = jax.random.normal(jax.random.key(0), (3, 4, 4, 4))
    sigma, classes = jnp.float32([0.1, 1.0, 20.0]), jnp.asarray([2, 0, 1])
    found = record.denoise(record.params, y, sigma, classes)
    expected = ours(params, y, sigma, jax.nn.one_hot(classes, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)
    none = record.denoise(record.params, y, sigma, jnp.full(3, 3))
    np.testing.assert_allclose(none, ours(params, y, sigma), rtol=1e-4, atol=2e-5)


def test_it_is_distilled_by_the_config(tmp_path):
    made = runpy.run_path(str(CONFIG))["get_config"]()
    made.teacher, made.dtype = NAME, "float32"
    made.batch_size, made.accumulation, made.duration_kimg, made.updates_per_call = 4, 2, 0.008, 1
    made.log_kimg = made.checkpoint_kimg = 0.004
    made.grid_kimg, made.mesh.data, made.heun.steps = 0.0, 1, 2
    made.sample.update(count=4, format="npz", batch_size=4)
    train(made, str(tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(np.isfinite(line["generator_loss"]) and not line["skipped"] for line in lines)
    before = networks.teacher(NAME).load()
    after = networks.trained(str(tmp_path / "run/network"), field="config.teacher").load()
    moved = jax.tree.leaves(jax.tree.map(lambda a, b: np.any(a != b), before, after))
    assert sum(moved) > 20
    sample(made, str(tmp_path / "run"))
    with np.load(tmp_path / "run/samples/student_seed0_4.npz") as file:
        assert file["images"].shape == (4, 4, 4, 4)
