"""Small networks and schedulers of diffusers', and how that package's own parts denoise.

`python -m tests.support.diffusers_cases FOLDER`, where PyTorch and diffusers are, writes the cases
`RECORDED` with inputs and outputs, for tests that do without.
"""

import dataclasses
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

DOWN, ATTN_DOWN, RES_DOWN = "DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"
UP, ATTN_UP, RES_UP = "UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"

SMALL = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": (DOWN, ATTN_DOWN),
    "up_block_types": (ATTN_UP, UP),
    "norm_num_groups": 4,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, a scheduler, and how labels are made."""

    unet: dict[str, Any]
    scheduler: str = "DDPMScheduler"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def kwargs(self) -> dict[str, Any]:
        return {**SMALL, **self.unet}

    @property
    def shape(self) -> tuple[int, int, int]:
        size = self.kwargs["sample_size"]
        height, width = size if isinstance(size, tuple) else (size, size)
        return (height, width, self.kwargs.get("in_channels", 3))


CASES = {
    # DDPM's networks as they were published: one head, sines first, padding at the end.
    "ddpm": Case(
        {
            "freq_shift": 1,
            "flip_sin_to_cos": False,
            "downsample_padding": 0,
            "norm_eps": 1e-6,
            "attention_head_dim": None,
        }
    ),
    # ADM's: scale and shift, residual resampling, classes.
    "adm": Case(
        {
            "down_block_types": (RES_DOWN, ATTN_DOWN, DOWN),
            "up_block_types": (UP, ATTN_UP, RES_UP),
            "block_out_channels": (8, 16, 16),
            "resnet_time_scale_shift": "scale_shift",
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "num_class_embeds": 5,
            "attention_head_dim": 4,
        },
        "DDIMScheduler",
        {
            "beta_schedule": "scaled_linear",
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
        },
    ),
    "attention_everywhere": Case(
        {
            "sample_size": (8, 16),
            "in_channels": 1,
            "out_channels": 1,
            "layers_per_block": 2,
            "down_block_types": (ATTN_DOWN, ATTN_DOWN),
            "up_block_types": (ATTN_UP, ATTN_UP),
            "block_out_channels": (12, 20),
            "time_embedding_dim": 24,
            "act_fn": "mish",
            "class_embed_type": "identity",
            "attn_norm_num_groups": 2,
            "resnet_time_scale_shift": "scale_shift",
        },
        "DDPMScheduler",
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"},
    ),
    "class_as_time": Case(
        {
            "class_embed_type": "timestep",
            "act_fn": "gelu",
            "add_attention": False,
            "mid_block_scale_factor": 2.0,
            "center_input_sample": True,
        },
        "PNDMScheduler",
        {"beta_start": 0.001, "beta_end": 0.03, "num_train_timesteps": 200},
    ),
    "no_middle": Case(
        {
            "mid_block_type": None,
            "time_embedding_type": "learned",
            "num_train_timesteps": 50,
            "act_fn": "relu",
        },
        "DPMSolverMultistepScheduler",
        {"trained_betas": [0.001 + 0.002 * i for i in range(50)]},
    ),
    "middle_scaled": Case(
        {"mid_block_scale_factor": 1.5, "attn_norm_num_groups": 8, "act_fn": "swish"},
        "DDPMScheduler",
        {"beta_schedule": "sigmoid"},
    ),
    "one_level": Case(
        {
            "block_out_channels": (9,),
            "down_block_types": (ATTN_DOWN,),
            "up_block_types": (ATTN_UP,),
            "norm_num_groups": 3,
            "attention_head_dim": 3,
        },
        "UniPCMultistepScheduler",
        {"prediction_type": "v_prediction"},
    ),
    "learned_variance": Case(
        {"out_channels": 6}, "DDPMScheduler", {"variance_type": "learned_range"}
    ),
    "score": Case(
        {
            "time_embedding_type": "fourier",
            "block_out_channels": (8,),
            "down_block_types": (DOWN,),
            "up_block_types": (UP,),
        },
        "ScoreSdeVeScheduler",
        {"sigma_max": 50.0},
    ),
    # NCSN++'s: an image beside the features, resampled with (1, 3, 3, 1).
    "skips": Case(
        {
            "time_embedding_type": "fourier",
            "block_out_channels": (16, 32, 32),
            "down_block_types": ("SkipDownBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"),
            "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D", "SkipUpBlock2D"),
            "mid_block_scale_factor": 1.41421356,
            "attention_head_dim": None,
        },
        "ScoreSdeVeScheduler",
    ),
    "flow": Case({}, "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "edm": Case({}, "EDMEulerScheduler", {"sigma_data": 0.7}),
    "edm_v": Case({}, "EDMDPMSolverMultistepScheduler", {"prediction_type": "v_prediction"}),
}
RECORDED = ("ddpm", "adm", "skips", "flow")
WITH_WEIGHTS = "ddpm"  # the recorded case that has them in its folder


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights by PyTorch's names, float16, drawn by name: they needn't be kept."""
    arrays = {}
    for name, shape in shapes.items():
        array = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        if name == "time_proj.weight":
            array *= 16
        elif len(shape) > 1:
            array /= np.sqrt(np.prod(shape[1:]))
        else:
            array = 0.1 * array + ("norm" in name and name.endswith("weight"))
        arrays[name] = array.astype(np.float16)
    return arrays


def build(name: str) -> tuple[Any, Any]:
    """Network, its weights drawn, and scheduler of a case, of that package's."""
    import diffusers
    import torch

    case = CASES[name]
    unet = diffusers.UNet2DModel(**case.kwargs).eval()
    shapes = {key: tuple(array.shape) for key, array in unet.state_dict().items()}
    unet.load_state_dict({key: torch.tensor(each) for key, each in weights(shapes).items()})
    unet = unet.float()
    return unet, getattr(diffusers, case.scheduler)(**case.settings)


def labels(name: str, batch: int) -> np.ndarray | None:
    """Labels as that package takes them."""
    kwargs, rng = CASES[name].kwargs, np.random.default_rng(1)
    kind = kwargs.get("class_embed_type")
    if kind == "timestep":
        return rng.uniform(0, 10, batch).astype(np.float32)
    if kind == "identity":
        return rng.standard_normal((batch, kwargs["time_embedding_dim"]), np.float32)
    classes = kwargs.get("num_class_embeds")
    return None if classes is None else rng.integers(0, classes, batch)


def noise_levels(scheduler: Any) -> np.ndarray:
    """[B] σ, float64, at which a case is compared; those of a table are its own."""
    if hasattr(scheduler, "alphas_cumprod"):
        alphas = scheduler.alphas_cumprod.double().numpy()
        sigma = np.sqrt((1 - alphas) / np.maximum(alphas, 1e-300))
        last = len(sigma) - 1 - bool(scheduler.config.get("rescale_betas_zero_snr"))
        return sigma[[0, 1, last // 10, last // 2, last - 1, last]]
    return np.asarray([0.02, 0.3, 1.0, 8.0, 40.0])


def output(unet: Any, x: Any, t: Any, given: Any) -> Any:
    """Output of that package's network, in float64 where it can: labels as times are float32."""
    import torch

    unet = unet.float() if unet.config.class_embed_type == "timestep" else unet.double()
    kwargs = {} if given is None else {"class_labels": torch.tensor(given)}
    with torch.no_grad():
        return unet(x.to(unet.dtype), t, **kwargs).sample.double()


def denoised(unet: Any, scheduler: Any, y: np.ndarray, sigma: np.ndarray, given: Any) -> np.ndarray:
    """D(y; σ) in float64 by that package's network and its scheduler's numbers, channels last."""
    import torch

    kind = type(scheduler).__name__
    shape = (-1, 1, 1, 1)
    level = torch.tensor(sigma).reshape(shape)
    y_first = torch.tensor(np.moveaxis(y, -1, 1)).double()

    def net(x: Any, t: Any) -> Any:
        return output(unet, x, t, given)[:, : x.shape[1]]

    if hasattr(scheduler, "alphas_cumprod"):
        alphas = scheduler.alphas_cumprod.double()
        levels = ((1 - alphas) / alphas).sqrt()
        t = torch.tensor([int(torch.argmin((levels - each).abs())) for each in sigma])
        a, s = alphas[t].sqrt().reshape(shape), (1 - alphas[t]).sqrt().reshape(shape)
        x = a * y_first
        out = net(x, t)
        d = {
            "epsilon": lambda: (x - s * out) / a,
            "sample": lambda: out,
            "v_prediction": lambda: a * x - s * out,
        }[scheduler.config.prediction_type]()
    elif kind == "ScoreSdeVeScheduler":
        d = y_first + level**2 * net(y_first, level.flatten())
    elif kind.startswith("FlowMatch"):
        t = level / (1 + level)
        x = (1 - t) * y_first
        times = t.flatten() * scheduler.config.num_train_timesteps
        d = x - t * net(x, times)
    else:
        x = scheduler.precondition_inputs(y_first, level)
        out = net(x, scheduler.precondition_noise(level).flatten())
        d = scheduler.precondition_outputs(y_first, out, level)
    return np.moveaxis(d.numpy(), 1, -1)


def inputs(name: str, sigma: np.ndarray) -> np.ndarray:
    """[B, H, W, C] y, float32."""
    rng = np.random.default_rng(2)
    shape = (len(sigma), *CASES[name].shape)
    clean = 0.5 * rng.standard_normal(shape)
    noise = sigma[:, None, None, None] * rng.standard_normal(shape)
    return (clean + noise).astype(np.float32)


def save(unet: Any, scheduler: Any, folder: Path, **kwargs: Any) -> None:
    """Write a pipeline's folder."""
    unet.save_pretrained(folder / "unet", **kwargs)
    scheduler.save_pretrained(folder / "scheduler")


def tables() -> dict[str, dict[str, Any]]:
    """Settings of schedulers over a table, by name."""
    schedules = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
    settings = {each: {"beta_schedule": each, "num_train_timesteps": 100} for each in schedules}
    settings["zero_snr"] = {"rescale_betas_zero_snr": True, "num_train_timesteps": 100}
    settings["trained"] = {"trained_betas": [0.01, 0.02, 0.5]}
    return settings


def record(root: Path) -> None:
    """Write the cases `RECORDED`, and tables of schedulers."""
    import diffusers
    import torch

    for name in RECORDED:
        unet, scheduler = build(name)
        save(unet.to(torch.float16), scheduler, root / name)
        if name != WITH_WEIGHTS:
            (root / name / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        unet = unet.to(torch.float32)
        sigma, given = noise_levels(scheduler), labels(name, 6)
        y = inputs(name, sigma)
        arrays = {"y": y, "sigma": sigma, "D": denoised(unet, scheduler, y, sigma, given)}
        if given is not None:
            arrays["labels"] = given
        np.savez_compressed(root / name / "denoised.npz", **arrays)
    made = {name: diffusers.DDPMScheduler(**kwargs) for name, kwargs in tables().items()}
    recorded = {name: scheduler.alphas_cumprod.numpy() for name, scheduler in made.items()}
    np.savez_compressed(root / "alphas_cumprod.npz", **recorded)


if __name__ == "__main__":
    record(Path(sys.argv[1]))
