"""Pretrained networks that EDM's and StyleGAN2-ADA's authors released, by name.

Sources: https://github.com/NVlabs/edm, section "Pre-trained models" and the training commands of
the README, whose weights are NVIDIA's, under CC BY-NC-SA 4.0; `python -m diffjax.convert` fetches
them from there. https://github.com/NVlabs/stylegan2-ada-pytorch, the models of the paper's figure
11b, under NVIDIA's Source Code License.
"""

import dataclasses
import difflib
from typing import Any

_GAN_URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/paper-fig11b-cifar10"
_BASE_URL = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained"

_DDPMPP = {
    "model_type": "SongUNet",
    "embedding_type": "positional",
    "encoder_type": "standard",
    "decoder_type": "standard",
    "channel_mult_noise": 1,
    "resample_filter": [1, 1],
    "model_channels": 128,
    "augment_dim": 9,
}
_NCSNPP = {
    **_DDPMPP,
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
_ADM = {"model_type": "DhariwalUNet", "model_channels": 192, "channel_mult": [1, 2, 3, 4]}

_CIFAR10 = {"img_resolution": 32, "channel_mult": [2, 2, 2], "dropout": 0.13}
_FFHQ = {"img_resolution": 64, "channel_mult": [1, 2, 2, 2], "dropout": 0.05}
_AFHQV2 = {"img_resolution": 64, "channel_mult": [1, 2, 2, 2], "dropout": 0.25}
_IMAGENET = {"img_resolution": 64, "label_dim": 1000, "dropout": 0.10}


@dataclasses.dataclass(frozen=True)
class Released:
    """Released network.

    Attributes:
      url: of its pickle.
      init_kwargs: arguments that decide its arrays' shapes, as `models.denoiser.from_edm_kwargs` or
        `stylegan2.build` takes them; where they differ, those in the pickle count.
    """

    url: str
    init_kwargs: dict[str, Any]


def _released(name: str, network: dict[str, Any], data: dict[str, Any]) -> Released:
    common = {"class_name": "EDMPrecond", "img_channels": 3, "label_dim": 0}
    return Released(f"{_BASE_URL}/{name}.pkl", {**common, **network, **data})


RELEASED: dict[str, Released] = {
    name: _released(name, network, data)
    for name, network, data in (
        ("edm-cifar10-32x32-uncond-vp", _DDPMPP, _CIFAR10),
        ("edm-cifar10-32x32-uncond-ve", _NCSNPP, _CIFAR10),
        ("edm-cifar10-32x32-cond-vp", _DDPMPP, {**_CIFAR10, "label_dim": 10}),
        ("edm-cifar10-32x32-cond-ve", _NCSNPP, {**_CIFAR10, "label_dim": 10}),
        ("edm-ffhq-64x64-uncond-vp", _DDPMPP, _FFHQ),
        ("edm-ffhq-64x64-uncond-ve", _NCSNPP, _FFHQ),
        ("edm-afhqv2-64x64-uncond-vp", _DDPMPP, _AFHQV2),
        ("edm-afhqv2-64x64-uncond-ve", _NCSNPP, _AFHQV2),
        ("edm-imagenet-64x64-cond-adm", _ADM, _IMAGENET),
    )
}

# Those of the least FID, 2.92 without and 2.42 with classes (Karras et al. 2020, figure 11).
GENERATORS: dict[str, Released] = {
    f"stylegan2-cifar10-32x32-{name}": Released(
        f"{_GAN_URL}/cifar10{letter}-cifar-ada-best-fid.pkl",
        {
            **{"z_dim": 512, "c_dim": classes, "w_dim": 512},
            **{"img_resolution": 32, "img_channels": 3, "mapping_kwargs": {"num_layers": 2}},
            "synthesis_kwargs": {"channel_base": 32768, "channel_max": 512, "conv_clamp": 256},
        },
    )
    for name, letter, classes in (("uncond", "u", 0), ("cond", "c", 10))
}


def lookup(name: str) -> Released:
    """Look up a released network by name.

    Raises:
      ValueError: if there is none, with the nearest name that is known.
    """
    if name in RELEASED:
        return RELEASED[name]
    nearest = difflib.get_close_matches(name, RELEASED, n=1, cutoff=0.0)[0]
    raise ValueError(
        f"{name!r} is no released network; the nearest is {nearest!r}, and "
        "diffjax/convert/catalogue.py lists them all"
    )
