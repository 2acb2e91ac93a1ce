"""One device, eight in data parallel, and eight with sharded parameters do the same update."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from diffjax.distributed import sharding
from diffjax.evaluation import sampling
from diffjax.methods.denoising import Denoising
from diffjax.methods.draws import Batch, Dataset
from diffjax.models import denoiser
from diffjax.runs import experiment
from diffjax.training import optimizer, state
from diffjax.training.compilation import compile_updates
from diffjax.training.update import Update
from tests.support import golden_cases, small_distillation

LEARNING_RATE = 1e-3
BATCH = 16


def keeping_gradient():
    """Adam, the gradient that it was given kept beside its moments."""
    return optax.chain(optax.trace(decay=0.0), optimizer.adam(LEARNING_RATE))


@functools.cache
def distillation():
    """An experiment, what its updates read, and what makes its first state of that."""
    exp = small_distillation.build(keeping_gradient(), BATCH)
    return exp, {"teacher": golden_cases.weights(exp.denoiser)}, exp.init_state


@functools.cache
def pretraining():
    """A teacher's training, likewise."""
    model = denoiser.from_edm_kwargs(small_distillation.INIT_KWARGS)
    batch = Batch(model.image_shape, BATCH, label_dim=2)
    exp = experiment.Experiment(
        update=Update(
            method=Denoising(networks={"denoiser": model}, batch=batch),
            optimizers={"denoiser": keeping_gradient()},
        ),
        inputs={},  # the images are here already
        init_kwargs=small_distillation.INIT_KWARGS,
        denoiser=model,
        heun=sampling.HeunSettings(),
    )
    random = np.random.RandomState(0)
    dataset = Dataset(
        images=random.randint(0, 256, (32, *model.image_shape)).astype(np.uint8),
        classes=random.randint(0, 2, 32),
    )
    params = {"denoiser": golden_cases.weights(model)}  # EDM's own start has layers of zeros
    update = exp.update
    start = functools.partial(state.create, params, update.optimizers, update.averaged)
    return exp, {"data": dataset}, lambda _: start()


# Networks that are trained.
TRAINED = {distillation: ("generator", "fake_score"), pretraining: ("denoiser",)}
ONE, DATA_PARALLEL, SHARDED, ALL_SHARDED = (1, 1), (8, 1), (2, 4), (1, 8)


@functools.cache
def run(task, data, fsdp):
    """State and metrics after one update, and where the arrays of its networks were."""
    exp, inputs, init_state = task()
    mesh = sharding.make_mesh(data=data, fsdp=fsdp)
    inputs = jax.device_put(inputs, sharding.state(inputs, mesh))
    shardings = sharding.state(exp.abstract_state(), mesh)
    current = jax.jit(init_state, out_shardings=shardings)(inputs)
    call = compile_updates(exp.update, exp.abstract_state(), mesh, 1)
    current, metrics = call(current, inputs, jax.random.key(3), 1)
    specs = {leaf.sharding.spec for leaf in jax.tree.leaves(current.params)}
    return jax.device_get(current), jax.device_get(metrics.sums), specs


def gradient(opt_state):
    """What the optimiser was given."""
    kept, _ = opt_state
    return kept.trace


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize(
    ("task", "mesh", "other"),
    [
        (distillation, DATA_PARALLEL, ONE),
        (distillation, SHARDED, ONE),
        (distillation, ALL_SHARDED, ONE),
        (distillation, SHARDED, DATA_PARALLEL),
        (pretraining, SHARDED, ONE),
    ],
)
def test_the_same_update_on_any_devices(task, mesh, other):
    other_state, other_metrics, _ = run(task, *other)
    state, metrics, specs = run(task, *mesh)
    assert metrics.keys() == other_metrics.keys()
    for name, value in other_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    for network in TRAINED[task]:
        ours, theirs = (flat(gradient(each.opt[network])) for each in (state, other_state))
        tolerance = 1e-5 * np.linalg.norm(theirs)
        assert np.linalg.norm(ours - theirs) < tolerance, network
        # Adam with b1 = 0 steps by the sign, which rounding decides where the gradient is near 0.
        is_clear = np.abs(theirs) > tolerance
        assert is_clear.mean() > 0.99, network
        ours, theirs = (flat(each.params[network]) for each in (state, other_state))
        assert (np.abs(ours - theirs)[is_clear] < 0.1 * LEARNING_RATE).all(), network
    is_sharded = any("fsdp" in spec for spec in specs)
    assert is_sharded == (mesh[1] > 1)


@pytest.mark.parametrize("is_gathered", [True, False])
def test_split_parameters_cross_devices_and_activations_do_not(is_gathered):
    """What XLA does when left alone is here so that the test can tell."""
    mesh = sharding.make_mesh(data=1, fsdp=8)

    def network(params, x):
        # Nearest neighbours, whose broadcast is split along what no batch says.
        x = x @ params["first"]
        return jnp.broadcast_to(x[:, None], (16, 8, 64)).reshape(128, 64) @ params["second"]

    params = {name: jax.ShapeDtypeStruct((64, 64), np.float32) for name in ("first", "second")}
    params = sharding.with_shardings(params, sharding.state(params, mesh))
    x = jax.ShapeDtypeStruct((16, 64), np.float32, sharding=sharding.batch(mesh))
    call = sharding.gathering(network, mesh) if is_gathered else network
    text = jax.jit(call, out_shardings=sharding.batch(mesh)).lower(params, x).compile().as_text()
    kinds = {kind for kind in ("all-gather", "all-to-all", "all-reduce") if f" {kind}(" in text}
    assert (kinds == {"all-gather"}) is is_gathered


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


def test_arrays_of_a_batch_are_split_and_others_whole():
    mesh = sharding.make_mesh(data=2, fsdp=4)
    shapes = {"pixels": (16, 4, 4, 3), "kernel": (3, 3, 16, 16), "sigma": (16,), "loss": ()}
    tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    whole = sharding.replicated(mesh)
    assert sharding.batches_of(16, tree, mesh) == {
        "pixels": sharding.batch(mesh),
        "kernel": whole,
        "sigma": whole,
        "loss": whole,
    }
