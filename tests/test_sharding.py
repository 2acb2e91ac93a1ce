"""One device, eight in data parallel, and eight with sharded parameters do the same update."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from diffjax import denoiser, experiment, noise, optimizer, sampling, sharding
from diffjax.compilation import compile_updates
from diffjax.distill import draws, methods, update
from diffjax.generator import DenoiserGenerator
from tests import golden_cases

LEARNING_RATE = 1e-3
INIT_KWARGS = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 2,
    "model_channels": 8,
    "channel_mult": (1,),
    "num_blocks": 1,
    "attn_resolutions": (),
    "dropout": 0.1,
}


@functools.cache
def tiny_experiment():
    model = denoiser.from_edm_kwargs(INIT_KWARGS)
    setup = update.Distillation(
        teacher=model,
        fake_score=model,
        generator=DenoiserGenerator(model, 2.5),
        method=methods.sid(alpha=1.2),
        fake_score_optimizer=optimizer.adam(LEARNING_RATE),
        generator_optimizer=optimizer.adam(LEARNING_RATE),
        batch_size=16,
        unroll=True,
    )
    draw = draws.Sampler(
        data_shape=model.image_shape,
        batch_size=16,
        fake_score_sigma=noise.LogNormal(),
        generator_sigma=noise.KarrasUniform(),
        label_dim=2,
    )
    return experiment.DistillExperiment(
        teacher="",
        init_kwargs=INIT_KWARGS,
        denoiser=model,
        setup=setup,
        draw=draw,
        heun=sampling.HeunSettings(),
        init_sigma=2.5,
    )


@functools.cache
def run(data, fsdp):
    """State and metrics after one update, and where the generator's arrays were."""
    exp = tiny_experiment()
    mesh = sharding.make_mesh(data=data, fsdp=fsdp)
    teacher = golden_cases.weights(exp.denoiser)
    teacher = jax.device_put(teacher, sharding.state(teacher, mesh))
    shardings = sharding.state(exp.abstract_state(), mesh)
    state = jax.jit(exp.init_state, out_shardings=shardings)(teacher)
    state, metrics = compile_updates(exp, mesh, 1)(state, teacher, jax.random.key(3), 1)
    specs = {leaf.sharding.spec for leaf in jax.tree.leaves(state.generator)}
    return jax.device_get(state), jax.device_get(metrics.sums), specs


def magnitudes(opt_state):
    """|gradient| of every parameter, which Adam's second moment holds after one update."""
    (nu,) = [part.nu for part in opt_state if hasattr(part, "nu")]
    return flat(jax.tree.map(np.sqrt, nu))


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


ONE, DATA_PARALLEL, SHARDED = (1, 1), (8, 1), (2, 4)


@pytest.mark.parametrize(
    ("mesh", "other"), [(DATA_PARALLEL, ONE), (SHARDED, ONE), (SHARDED, DATA_PARALLEL)]
)
def test_the_same_update_on_any_devices(mesh, other):
    other_state, other_metrics, _ = run(*other)
    state, metrics, specs = run(*mesh)
    assert metrics.keys() == other_metrics.keys()
    for name, value in other_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    for name in ("generator_opt", "fake_score_opt"):
        ours, theirs = (magnitudes(getattr(each, name)) for each in (state, other_state))
        assert np.linalg.norm(theirs) > 0
        assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs), name
    # Adam with b1 = 0 turns rounding of a gradient near zero into a step, so a few may differ.
    for name in ("generator", "fake_score"):
        difference = np.abs(flat(getattr(state, name)) - flat(getattr(other_state, name)))
        assert (difference < 0.1 * LEARNING_RATE).mean() > 0.999, name
    is_sharded = any("fsdp" in spec for spec in specs)
    assert is_sharded == (mesh == SHARDED)


def test_places_of_a_state():
    mesh = sharding.make_mesh(data=2, fsdp=4)
    shapes = {
        "kernel": jax.ShapeDtypeStruct((3, 3, 8, 16), np.float32),
        "odd": jax.ShapeDtypeStruct((3, 5), np.float32),
        "scalar": jax.ShapeDtypeStruct((), np.int32),
    }
    places = sharding.state(shapes, mesh)
    assert places["kernel"].spec == PartitionSpec(None, None, None, "fsdp")
    assert places["odd"].spec == PartitionSpec(None, None)
    assert places["scalar"].spec == PartitionSpec()


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"fsdp": 3}, r"mesh\.fsdp=3 does not divide the 8 devices"),
        ({"data": 16}, r"mesh\.data=16 times mesh\.fsdp=1 doesn't fit the 8 devices"),
        ({"data": 0}, r"mesh\.data=0"),
    ],
)
def test_meshes_that_do_not_fit(axes, message):
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(**axes)


def test_a_process_by_itself_may_take_fewer_devices():
    assert sharding.make_mesh(data=2).size == 2
    assert sharding.make_mesh().size == 8


def test_a_mesh_over_devices_that_are_named():
    devices = jax.devices()[4:]
    mesh = sharding.make_mesh(fsdp=2, devices=devices)
    assert mesh.devices.tolist() == [devices[:2], devices[2:]]
    with pytest.raises(ValueError, match=r"mesh\.fsdp=8 does not divide the 4 devices"):
        sharding.make_mesh(fsdp=8, devices=devices)
