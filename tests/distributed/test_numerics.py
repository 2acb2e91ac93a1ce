"""Settings of JAX around a run; what they would do to one is in `runs/test_numerics.py`."""

import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion import augmentation, noise, samplers
from diffjax.distributed import numerics
from diffjax.evaluation import drawing
from diffjax.methods.draws import Batch, Dataset, real_batch
from diffjax.networks import layers


def test_own_settings_hold_in_all_threads_and_are_put_back():
    before = dict(jax.config.values)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    try:
        seen = []
        with numerics.own() as replaced:
            work = threading.Thread(target=lambda: seen.append(jnp.arange(3).dtype))
            work.start()
            work.join()
            seen.append((jnp.ones((2, 3)) + jnp.arange(3)).dtype)
        assert seen == [jnp.int32, jnp.float32]
        assert replaced == ["JAX_ENABLE_X64=True", "JAX_NUMPY_RANK_PROMOTION=raise"]
        assert jax.config.jax_enable_x64
        assert jax.config.jax_numpy_rank_promotion == "raise"
    finally:
        jax.config.update("jax_enable_x64", False)
        jax.config.update("jax_numpy_rank_promotion", "allow")
    assert dict(jax.config.values) == before


def test_ordinary_settings_are_a_runs_own():
    with numerics.own() as replaced:
        assert replaced == []
    # A name that JAX has no more would go unnoticed otherwise.
    known = {name for name in numerics.SETTINGS if name in jax.config.values}
    assert set(numerics.SETTINGS) - known <= {"jax_default_dtype_bits"}


def test_a_context_that_holds_a_setting_is_refused():
    def enter():
        with jax.enable_x64(True), numerics.own():
            pytest.fail("its threads would have other settings than this one")

    with pytest.raises(ValueError, match="jax_enable_x64=True is held by a context"):
        enter()
    assert not jax.config.jax_enable_x64


def test_keys_are_of_one_kind():
    with jax.default_prng_impl("rbg"):
        key = numerics.key(3)
    assert key.dtype == numerics.key(3).dtype
    assert jax.random.key_data(key).tolist() == [0, 3]  # as runs have had it


def test_record(tmp_path):
    numerics.record(tmp_path, {"jax": "1.2"})
    record = json.loads((tmp_path / numerics.FILE).read_text())
    assert (record["jax"], record["random_bits"]) == ("1.2", "threefry2x32, partitionable")
    assert record["jax_enable_x64"] is False


def drawn():
    """Everything that is drawn, by name."""
    key, indices = numerics.key(5), np.arange(6)
    data = Dataset(jnp.arange(40 * 4, dtype=jnp.uint8).reshape(40, 2, 2, 1), jnp.arange(40) % 3)
    batch = Batch((2, 2, 1), 6, label_dim=3)
    return {
        "latents": drawing.latents(3, indices, (2, 2)),
        "classes": drawing.random_classes(3, indices, 7),
        "turn": batch.latents(key, noise.LogNormal()).replace(dropout=None),
        "karras": noise.KarrasUniform()(key, (6,)),
        "real": real_batch(key, data, batch, x_flip=True, in_order=False),
        "augmentation": augmentation.draw(key, 6, p=0.7),
        "bias": layers.uniform_bias(4)(key, (5,)),
    }


def test_what_is_drawn_does_not_depend_on_the_default_types():
    with jax.enable_x64(True):
        wide = drawn()
    jax.tree.map(np.testing.assert_array_equal, wide, drawn())
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(wide)} == {"float32", "int32"}


@pytest.mark.parametrize(
    ("latents", "samples"),
    [(narrow, "float32") for narrow in ("float16", "bfloat16", "float32")] + [("float64",) * 2],
)
def test_the_sampler_follows_its_latents(latents, samples):
    def denoise(x, sigma):
        assert x.dtype == sigma.dtype == samples
        return 0.5 * x

    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        out = samplers.edm_heun(
            denoise, jnp.ones((2, 3), latents), noise.heun_sigmas(3), s_churn=1, rng=numerics.key(0)
        )
    assert out.dtype == samples
