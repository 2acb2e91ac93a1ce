"""Teachers read from folders, against diffusers' own networks and schedulers.

Where PyTorch and diffusers are: `python -m pytest -m slow tests/convert/test_diffusers_package.py`.
"""

import inspect
import json

import jax
import numpy as np
import pytest

from diffjax.convert import diffusers, diffusers_scheduler, diffusers_unet, diffusers_vae
from tests.support import diffusers_cases as cases
from tests.support import vae_cases

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch", reason="PyTorch isn't installed; diffusers needs it")
package = pytest.importorskip("diffusers", reason="the package diffusers isn't installed")

TOLERANCE = 1e-5


def relative(ours, theirs, scale=None) -> float:
    """Largest difference of an example's entries, over its scale."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    axes = tuple(range(1, ours.ndim))
    scale = np.abs(theirs if scale is None else scale).max(axis=axes)
    return float((np.abs(ours - theirs).max(axis=axes) / scale).max())


def law(name):
    """A law where a config doesn't say which labels there are."""
    if cases.CASES[name].kwargs.get("class_embed_type") is None:
        return None
    return lambda key, batch: jax.numpy.asarray(cases.labels(name, batch))


@pytest.mark.parametrize("name", cases.CASES)
def test_networks(name, tmp_path):
    unet, scheduler = cases.build(name)
    cases.save(unet, scheduler, tmp_path)
    description = diffusers.describe(tmp_path)
    network, params = description.network, description.read_params()
    low, high = (1, 49) if network.time_embedding_type == "learned" else (1, 999)
    t = np.asarray([low, 7, 20, high], np.int32)
    x, labels = cases.inputs(name, np.asarray([0.1, 1.0, 1.0, 10.0])), cases.labels(name, 4)
    variables = {"params": params["params"], **params["frozen"]}
    ours = jax.jit(network.apply)(variables, x, t, labels)
    theirs = cases.output(unet, torch.tensor(np.moveaxis(x, -1, 1)), torch.tensor(t), labels)
    assert relative(ours, np.moveaxis(theirs.numpy(), 1, -1)) < TOLERANCE
    one_hot = labels is not None and labels.ndim == 1 and labels.dtype.kind == "i"
    if one_hot:
        again = network.apply(variables, x, t, jax.nn.one_hot(labels, network.num_class_embeds))
        assert relative(again, ours) < 1e-6


@pytest.mark.parametrize("name", cases.CASES)
def test_denoisers(name, tmp_path):
    unet, scheduler = cases.build(name)
    cases.save(unet, scheduler, tmp_path)
    teacher = diffusers.read(tmp_path, cond=law(name))
    assert teacher.shape == cases.CASES[name].shape
    sigma = cases.noise_levels(scheduler)
    y, labels = cases.inputs(name, sigma), cases.labels(name, len(sigma))
    given = labels
    if teacher.cond is not None and law(name) is None:
        given = jax.nn.one_hot(labels, unet.config.num_class_embeds)
    level = np.asarray(sigma, np.float32)
    ours = jax.jit(teacher.denoise)(teacher.params, y, level, given)
    assert ours.dtype == np.float32
    theirs = cases.denoised(unet, scheduler, y, sigma, labels)
    # What D is a difference of is as large as y where the network predicts the noise.
    assert relative(ours, theirs, np.maximum(np.abs(y), np.abs(theirs))) < TOLERANCE
    assert teacher.sigma_min <= sigma.min() * (1 + 1e-6)
    assert teacher.sigma_max >= sigma.max() * (1 - 1e-6)


SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]


@pytest.mark.parametrize("name", diffusers_scheduler.TABLES)
def test_tables(name, tmp_path):
    if name == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde", reason=f"{name} needs torchsde")
    has_sigmoid = name.startswith("DDPM")
    for schedule in SCHEDULES if has_sigmoid else SCHEDULES[:-1]:
        for steps in (1000, 37):
            settings = {"beta_schedule": schedule, "num_train_timesteps": steps}
            scheduler = getattr(package, name)(**settings)
            scheduler.save_pretrained(tmp_path)
            config = json.loads((tmp_path / "scheduler_config.json").read_text())
            ours = diffusers_scheduler.alphas_cumprod(config)
            theirs = scheduler.alphas_cumprod.numpy()
            np.testing.assert_allclose(ours, theirs, rtol=2e-6)
            np.testing.assert_allclose(1 - ours[0], 1 - theirs[0], rtol=1e-6)
            # What a config leaves out is as in the package.
            bare = diffusers_scheduler.alphas_cumprod({"_class_name": name, **settings})
            np.testing.assert_array_equal(bare, ours)


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler"])
def test_tables_without_signal_at_the_end(name, tmp_path):
    scheduler = getattr(package, name)(rescale_betas_zero_snr=True)
    scheduler.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "scheduler_config.json").read_text())
    ours, theirs = diffusers_scheduler.alphas_cumprod(config), scheduler.alphas_cumprod.numpy()
    assert len(ours) == 999
    np.testing.assert_allclose(ours[:-1], theirs[:-2], rtol=1e-4)
    np.testing.assert_allclose(ours[-1], theirs[-2], rtol=2e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_precisions(dtype, tmp_path):
    unet, scheduler = cases.build("ddpm")
    cases.save(unet.to(getattr(torch, dtype)), scheduler, tmp_path)
    params = diffusers.read(tmp_path).params["params"]
    theirs = unet.conv_in.weight.detach().float().numpy()
    ours = params["conv_in"]["kernel"]
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs.transpose(2, 3, 1, 0))


def test_shards(tmp_path):
    unet, scheduler = cases.build("ddpm")
    cases.save(unet, scheduler, tmp_path / "one")
    cases.save(unet, scheduler, tmp_path / "many", max_shard_size="60KB")
    assert len(diffusers.describe(tmp_path / "many").weights) > 1
    one, many = (diffusers.read(tmp_path / name).params for name in ("one", "many"))
    jax.tree.map(np.testing.assert_array_equal, one, many)


def test_pipelines_and_folders_side_by_side(tmp_path):
    unet, scheduler = cases.build("ddpm")
    package.DDPMPipeline(unet, scheduler).save_pretrained(tmp_path / "pipeline")
    unet.save_pretrained(tmp_path / "beside")
    scheduler.save_pretrained(tmp_path / "beside")
    for name in ("pipeline", "beside"):
        assert diffusers.is_folder(tmp_path / name)
        assert diffusers.read(tmp_path / name).shape == (8, 8, 3)


def test_settings_and_their_defaults():
    """A setting that the package has and we don't would be refused where it is set."""
    parameters = inspect.signature(package.UNet2DModel.__init__).parameters
    theirs = {name: p.default for name, p in parameters.items() if name != "self"}
    assert theirs.pop("sample_size") is None
    assert theirs.pop("dropout") == 0
    assert theirs == diffusers_unet.SETTINGS


AUTOENCODERS = {
    "small": {},
    "no_quant_conv": {"use_quant_conv": False, "use_post_quant_conv": False},
    "no_attention": {"mid_block_add_attention": False},
    "gelu": {"act_fn": "gelu", "layers_per_block": 3, "latent_channels": 16, "shift_factor": 0.1},
}


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoders(name, tmp_path):
    torch.manual_seed(0)
    theirs = package.AutoencoderKL(**vae_cases.SMALL | AUTOENCODERS[name]).eval()
    theirs.save_pretrained(tmp_path)
    stored = diffusers_vae.describe(tmp_path)
    network, params = stored.network, stored.read_params()
    x = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        law = theirs.encode(torch.tensor(np.moveaxis(x, -1, 1))).latent_dist
        images = theirs.decode(law.mean).sample
    ours = network.apply(params, x, method="encode")
    for one, other in ((ours.mean, law.mean), (ours.log_variance, law.logvar), (ours.std, law.std)):
        assert relative(one, np.moveaxis(other.numpy(), 1, -1)) < TOLERANCE
    decoded = network.apply(params, np.moveaxis(law.mean.numpy(), 1, -1), method="decode")
    assert relative(decoded, np.moveaxis(images.numpy(), 1, -1)) < TOLERANCE
    assert stored.scaling_factor == theirs.config.scaling_factor
    assert stored.shift_factor == (theirs.config.shift_factor or 0.0)


def test_an_autoencoders_defaults():
    signature = inspect.signature(package.AutoencoderKL.__init__).parameters
    theirs = {name: signature[name].default for name in diffusers_vae.SETTINGS}
    assert theirs == diffusers_vae.SETTINGS
