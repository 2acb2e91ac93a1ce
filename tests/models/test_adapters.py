"""Networks of each framework become a pure function and nested dicts of arrays."""

import dataclasses
import re
import sys
import types

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffjax import models
from diffjax.models import trainable
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.models.records import RecordDenoiser

X = jax.random.normal(jax.random.key(0), (4, 2))
T = jnp.linspace(0.1, 1, 4)
C = jax.random.normal(jax.random.key(1), (4, 3))


class Linen(nn.Module):
    average: bool = True

    @nn.compact
    def __call__(self, x, t, c=None):
        freqs = self.variable("fourier", "freqs", lambda: jnp.arange(1.0, 3))
        x = nn.Dense(2)(x) + jnp.sin(t[..., None] * freqs.value)
        x = nn.BatchNorm(use_running_average=self.average)(x)
        return x if c is None else x + nn.Dense(2)(c)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs), nnx.Linear(3, 2, rngs=rngs)])
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, t, c=None):
        x = self.dropout(self.norm(self.layers[0](x))) + t[..., None]
        return x if c is None else x + self.layers[1](c)


class Equinox(eqx.Module):
    layers: list
    table: jax.Array
    act: object

    def __init__(self, key):
        self.layers = [eqx.nn.Linear(2, 2, key=key), eqx.nn.Linear(3, 2, key=key)]
        self.table = jnp.arange(2)
        self.act = jax.nn.tanh

    def __call__(self, x, t, c=None):
        x = self.act(self.layers[0](x)) + t * self.table
        return x if c is None else x + self.layers[1](c)


def paths(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(trainable.names(path)) for path, _ in leaves}


def check_pure(net, params, expected):
    """Compiled, with parameters as an argument; and trained below "params" alone."""
    assert set(params) == {"params", "frozen"}
    out = jax.jit(net)(params, X, T, C)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(jax.jit(net)(params, X, T, C), out)

    trained, rest = trainable.split(params)
    assert paths(trained) <= {f"params/{path}" for path in paths(params["params"])}
    assert {path.partition("/")[0] for path in paths(rest)} <= {"frozen"}
    loss = lambda trained: (net(trainable.merge(trained, rest), X, T, C) ** 2).sum()  # noqa: E731
    grads = jax.jit(jax.grad(loss))(trained)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))
    assert only_dicts(params)


def only_dicts(tree):
    if isinstance(tree, dict):
        return all(type(key) is str and only_dicts(each) for key, each in tree.items())
    return isinstance(tree, jax.Array)


def test_linen():
    module = Linen()
    variables = module.init(jax.random.key(0), X, T, C)
    net, params = models.from_linen(module, variables)
    assert paths(params["frozen"]) == {
        "batch_stats/BatchNorm_0/mean",
        "batch_stats/BatchNorm_0/var",
        "fourier/freqs",
    }
    check_pure(net, params, module.apply(variables, X, T, C))
    np.testing.assert_allclose(
        net(params, X, T, None), module.apply(variables, X, T, None), rtol=1e-6
    )


@pytest.mark.parametrize("mutable", ["batch_stats", ("batch_stats",)])
def test_linen_drops_what_a_module_writes(mutable):
    module = Linen(average=False)
    variables = module.init(jax.random.key(0), X, T, C)
    expected, _ = module.apply(variables, X, T, C, mutable=["batch_stats"])
    before = jax.tree.map(np.array, variables)
    for call in (
        {},
        {"call": lambda m, v, x, t, c: m.apply(v, x, t, c=c)},
        {"call": lambda m, v, x, t, c: m.apply(v, x, t, c, mutable=["batch_stats"])[0]},
    ):
        net, params = models.from_linen(module, variables, mutable=mutable, **call)
        np.testing.assert_allclose(net(params, X, T, C), expected, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, variables, before)


def test_linen_unbatched_and_by_name():
    module = Linen()
    variables = module.init(jax.random.key(0), X[0], T[0], C[0])
    net, params = models.from_linen(
        module, variables, call=lambda m, v, x, t, c: m.apply(v, t=t, x=x, c=c), batched=False
    )
    check_pure(net, params, jax.vmap(lambda *one: module.apply(variables, *one))(X, T, C))


@pytest.mark.parametrize(
    ("variables", "arguments", "message"),
    [
        ({"Dense_0": {}}, {}, 'variables must hold "params", as module.init gives them (Dense_0)'),
        (None, {}, 'variables must hold "params", as module.init gives them (no mapping)'),
        ({"params": {}}, {"mutable": ("params",)}, 'mutable names "params"'),
    ],
)
def test_linen_needs_its_collections(variables, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        models.from_linen(Linen(), variables, **arguments)


@pytest.mark.parametrize("batched", [True, False])
def test_nnx(batched):
    model = Nnx(nnx.Rngs(0))
    model.eval()
    model.norm.mean[...] = jnp.array([0.3, -0.2])
    net, params = models.from_nnx(model, batched=batched)
    assert "layers/0/kernel" in paths(params["params"])
    assert {"norm/mean", "norm/var"} <= paths(params["frozen"])
    check_pure(net, params, model(X, T, C))


def test_nnx_leaves_the_model_as_it_is():
    """In training it writes statistics and counts of keys, also inside a program."""
    model = Nnx(nnx.Rngs(0))
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    net, params = models.from_nnx(model)
    first = jax.jit(net)(params, X, T, C)
    np.testing.assert_array_equal(jax.jit(net)(params, X, T, C), first)
    after = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_nnx_trains_what_is_asked_for():
    _, params = models.from_nnx(Nnx(nnx.Rngs(0)), train_only=nnx.PathContains("norm"))
    assert paths(params["params"]) == {"norm/bias", "norm/scale", "norm/mean", "norm/var"}
    assert "layers/0/kernel" in paths(params["frozen"])
    with pytest.raises(ValueError, match="from_nnx: Linear is a class; give a model, made of it"):
        models.from_nnx(nnx.Linear)
    with pytest.raises(ValueError, match="from_nnx: the model holds nothing of train_only="):
        models.from_nnx(Nnx(nnx.Rngs(0)), train_only=nnx.LoRAParam)


@pytest.mark.parametrize("batched", [True, False])
def test_equinox(batched):
    model = Equinox(jax.random.key(3))
    call = lambda m, x, t, c: m(x, t, c)  # noqa: E731
    expected = jax.vmap(model)(X, T, C)
    if batched:
        call = lambda m, x, t, c: jax.vmap(m)(x, t, c)  # noqa: E731
    net, params = models.from_equinox(model, call=call, batched=batched)
    assert paths(params["frozen"]) == {"table"}
    assert "layers/0/weight" in paths(params["params"])
    check_pure(net, params, expected)


def test_equinox_without_a_condition():
    model = Equinox(jax.random.key(3))
    net, params = models.from_equinox(model)
    np.testing.assert_allclose(net(params, X, T, None), jax.vmap(model)(X, T), rtol=1e-6)
    with pytest.raises(ValueError, match="a condition came, and the model is called without one"):
        net(params, X, T, C)
    with pytest.raises(ValueError, match="from_equinox: Identity holds no array"):
        models.from_equinox(eqx.nn.Identity())


@pytest.mark.parametrize("batched", [True, False])
def test_functions(batched):
    given = {"w": jnp.ones(2), "n": jnp.arange(3)}
    fn = lambda p, x, t, c: p["w"] * x * t[..., None] + c["a"]  # noqa: E731
    net, params = models.from_function(fn, given, batched=batched)
    assert params is given
    cond = {"a": X}
    np.testing.assert_allclose(net(params, X, T, cond), fn(given, X, T, cond), rtol=1e-6)
    with pytest.raises(ValueError, match="from_function: fn is of type int, not a function"):
        models.from_function(3, given)


def test_torch_export_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchax", None)
    with pytest.raises(ImportError, match="from_torch_export needs torchax, which can't be import"):
        models.from_torch_export(object())


def test_torch_export_gives_names_to_torchaxs_list(monkeypatch):
    """Listed as parameters, buffers, constants; taken in the order of the program's signature."""
    taken = ["net.0.weight", "net.0.bias", "c0", "net.1.running_mean", None, None]
    program = types.SimpleNamespace(
        graph_signature=types.SimpleNamespace(
            parameters=["net.0.weight", "net.0.bias"],
            buffers=["net.1.running_mean"],
            lifted_tensor_constants=["c0"],
            input_specs=[types.SimpleNamespace(target=target) for target in taken],
        )
    )
    program.run_decompositions = lambda: program

    def to_jax(ep):
        assert ep is program
        states = [np.full(2, 2.0, np.float32), np.ones(2), np.full(2, 0.5), np.array(3)]
        return states, lambda s, inputs: (s[0] * inputs[0] + s[1] + s[2] - s[3],)

    export = types.SimpleNamespace(exported_program_to_jax=to_jax)
    monkeypatch.setitem(sys.modules, "torchax", types.SimpleNamespace(export=export))
    monkeypatch.setitem(sys.modules, "torchax.export", export)
    net, params = models.from_torch_export(program)
    assert paths(params) == {
        "params/net/0/weight",
        "params/net/0/bias",
        "frozen/net/1/running_mean",
        "frozen/c0",
    }
    np.testing.assert_allclose(net(params, X, T, None), 2 * X + 3.5, rtol=1e-6)
    with pytest.raises(ValueError, match="object is no exported program"):
        models.from_torch_export(object())


@pytest.mark.parametrize("shape", [(3,), (5, 3), (4, 5, 3)])
def test_channels_first(shape):
    seen = []

    def denoise(params, y, sigma, cond):
        seen.append(y.shape)
        return y * jnp.arange(3.0).reshape(1, 3, *[1] * (len(shape) - 1))

    y = jax.random.normal(jax.random.key(0), (2, *shape))
    out = models.channels_first(denoise)({}, y, jnp.ones(2), None)
    assert seen == [(2, 3, *shape[:-1])]
    np.testing.assert_array_equal(out, y * jnp.arange(3.0))


def gaussian(mean, std):
    """Teacher that is right for N(mean, std²): D = (σ² mean + std² y) / (σ² + std²)."""

    def denoise(params, y, sigma, cond):
        square = sigma[:, None] ** 2
        return params["w"] * (square * mean + std**2 * y) / (square + std**2)

    return models.Teacher(
        denoise,
        {"w": jnp.ones(())},
        (2,),
        std,
        0.02 * std,
        100 * std,
        process="its own",
        gain=lambda sigma: 3 * sigma,
        preview=lambda x: x,
    )


@pytest.mark.parametrize("mean", [7.0, np.array([7.0, -3.0])])
def test_scaled_is_the_right_denoiser_in_the_new_units(mean):
    """Mean and std of the teacher's data become 0 and 1/2."""
    teacher = models.scaled(gaussian(mean, 20.0), mean=mean, std=40.0)
    assert teacher.sigma_data == 0.5
    assert (teacher.sigma_min, teacher.sigma_max) == (0.01, 50.0)
    assert teacher.process is None
    y, sigma = 3 * X, jnp.array([0.01, 0.5, 3, 50])
    expected = gaussian(0.0, 0.5).denoise({"w": 1.0}, y, sigma, None)
    answer = jax.jit(teacher.denoise)(teacher.params, y, sigma, None)
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)
    assert answer.dtype == jnp.float32
    # Network's output to D in the old units: 3 σ 40; and then divided by 40.
    assert teacher.gain(2.0) == pytest.approx(3 * 2.0)
    np.testing.assert_allclose(teacher.preview(X), X * 40 + mean, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"std": 0.0}, "scaled: std=0.0 must be a positive finite number"),
        ({"std": np.ones(2)}, "scaled: std=array of shape (2,) must be a positive finite number"),
        ({"mean": np.ones(3)}, "scaled: mean of shape [3] doesn't broadcast to one example's [2]"),
        ({"mean": np.ones((4, 2))}, "scaled: mean of shape [4, 2] doesn't broadcast"),
        ({"mean": np.nan}, "scaled: mean must be finite"),
    ],
)
def test_scales_that_are_none(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        models.scaled(gaussian(0.0, 1.0), **arguments)


def test_what_wraps_a_denoiser_keeps_its_gain():
    process = models.Process.vp(beta=1.0, t_max=10.0)
    denoise = process.denoiser(lambda p, x, t, c: x * p["a"], "eps")
    own = models.Teacher(
        denoise, {"a": jnp.ones(())}, (4, 3), 0.5, 0.05, 80.0, cond=models.one_hot(3)
    )

    def gain(teacher, sigma=4.0):
        return RecordDenoiser(teacher, "mine").gain(sigma)

    assert gain(own) == pytest.approx(4.0, rel=1e-4)  # an error in ε is sigma times that in D
    assert gain(models.guided(own, 2.0, np.zeros(3))) == gain(own)
    assert gain(models.scaled(own, std=2.0), 2.0) == pytest.approx(gain(own) / 2)
    first = dataclasses.replace(own, denoise=models.channels_first(denoise))
    assert gain(first) == gain(own)


def test_a_network_as_a_record_keeps_its_process_and_gain():
    kwargs = {"class_name": "SiT", "img_resolution": 4, "img_channels": 4, "label_dim": 2}
    model = from_edm_kwargs({**kwargs, "hidden_size": 8, "depth": 1, "num_heads": 2})
    record = RecordDenoiser(model.as_teacher({"a": jnp.ones(())}), "mine")
    assert record.process is model.process
    assert record.gain(20.0) == model.gain(20.0) != model.sigma_data
