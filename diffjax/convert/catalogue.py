"""Pretrained networks that the authors of EDM, SiD, DiT, SiT and StyleGAN2-ADA released, by name.

Sources: https://github.com/NVlabs/edm, section "Pre-trained models" and the training commands of
the README, whose weights are NVIDIA's, under CC BY-NC-SA 4.0; `python -m diffjax.convert` fetches
them from there. Those of `edm2_catalogue`. https://github.com/NVlabs/stylegan2-ada-pytorch, the
models of the paper's figure 11b, under NVIDIA's Source Code License.
https://github.com/facebookresearch/DiT, README and download.py, weights under CC BY-NC 4.0, and
https://github.com/willisma/SiT, download.py, code under the MIT license.
https://github.com/mingyuanzhou/SiD, branch sida, "Specific One-step Generators", students that keep
the terms of EDM's weights.
"""

import dataclasses
import difflib
import re
from typing import Any

from diffjax.convert import dit, edm2_catalogue

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


EDM_LICENCE = "CC BY-NC-SA 4.0 (NVIDIA): attribution, no commercial use, share alike"
DIT_LICENCE = "CC BY-NC 4.0 (Meta): attribution, no commercial use"
GAN_LICENCE = "NVIDIA Source Code License: no commercial use"


@dataclasses.dataclass(frozen=True)
class Released:
    """Released network.

    Attributes:
      url: of its pickle.
      init_kwargs: arguments that decide its arrays' shapes, as `models.denoiser.from_edm_kwargs` or
        `stylegan2.build` takes them; where they differ, those in the pickle count.
      method: that made a student, "" for a denoiser or a GAN's generator.
      init_sigma: noise level at which a student is asked; None for others.
    """

    url: str
    init_kwargs: dict[str, Any]
    method: str = ""
    init_sigma: float | None = None


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

_HUB = "https://huggingface.co/UT-Austin-PML"
_SID = f"{_HUB}/SiD/resolve/main"
_SIDA = f"{_HUB}/SiDA/resolve/main/EDM_distillation"


def _student(method: str, url: str, teacher: str) -> Released:
    return Released(f"{url}.pkl", RELEASED[teacher].init_kwargs, method, init_sigma=2.5)


# One-step students of the networks above: SiD's, and SiDA's, whose training saw data.
STUDENTS: dict[str, Released] = {
    f"{method}-{data}": _student(method, url, teacher)
    for data, teacher, urls in (
        (
            "cifar10-32x32-uncond",
            "edm-cifar10-32x32-uncond-vp",
            (
                f"{_SID}/cifar10-uncond/alpha1.2/network-snapshot-1.200000-403968",
                f"{_SIDA}/cifar10_uncond_sida_alpha1-217920",
            ),
        ),
        (
            "cifar10-32x32-cond",
            "edm-cifar10-32x32-cond-vp",
            (
                f"{_SID}/cifar10-cond/alpha1.2/network-snapshot-1.200000-713312",
                f"{_SIDA}/cifar10_cond_sida_alpha1-293184",
            ),
        ),
        (
            "imagenet-64x64-cond",
            "edm-imagenet-64x64-cond-adm",
            (
                f"{_SID}/imagenet64/alpha1.2/network-snapshot-1.200000-939176",
                f"{_SIDA}/imgnet64_sida_alpha1-249167",
            ),
        ),
        (
            "ffhq-64x64-uncond",
            "edm-ffhq-64x64-uncond-vp",
            (
                f"{_SID}/ffhq64/alpha1.2/network-snapshot-1.200000-498176",
                f"{_SIDA}/ffhq64_sida_alpha1-185856",
            ),
        ),
        (
            "afhqv2-64x64-uncond",
            "edm-afhqv2-64x64-uncond-vp",
            (
                f"{_SID}/afhq64/alpha1/network-snapshot-1.000000-371712",
                f"{_SIDA}/afhq64-v2_sida_alpha1-127488",
            ),
        ),
    )
    for method, url in zip(("sid", "sida"), urls, strict=True)
}
# EDM2's networks, and one-step students of them.
EDM2: dict[str, Released] = {
    name: Released(url, init_kwargs)
    for name, (url, init_kwargs) in edm2_catalogue.denoisers().items()
}
EDM2_STUDENTS: dict[str, Released] = {
    name: Released(url, init_kwargs, name.partition("-")[0], init_sigma=2.5)
    for name, (url, init_kwargs) in edm2_catalogue.students().items()
}
_DIT_URL = "https://dl.fbaipublicfiles.com/DiT/models"
_SIT_URL = "https://www.dl.dropboxusercontent.com/scl/fi/as9oeomcbub47de5g4be0/SiT-XL-2-256.pt"
# Transformers of ImageNet's latents, whose files don't say what they are of.
TRANSFORMERS: dict[str, Released] = {
    "dit-xl-2-256": Released(f"{_DIT_URL}/DiT-XL-2-256x256.pt", dit.init_kwargs("DiT", "XL", 32)),
    "dit-xl-2-512": Released(f"{_DIT_URL}/DiT-XL-2-512x512.pt", dit.init_kwargs("DiT", "XL", 64)),
    "sit-xl-2-256": Released(
        f"{_SIT_URL}?rlkey=uxzxmpicu46coq3msb17b9ofa&dl=0", dit.init_kwargs("SiT", "XL", 32)
    ),
}
# Networks that are denoisers of ours, by whatever format.
EDM = RELEASED | STUDENTS | EDM2 | EDM2_STUDENTS | TRANSFORMERS

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


def licence(name: str) -> str:
    """Tell the licence of a released network's weights; "" if the name or URL is none of them.

    Args:
      name: in `RELEASED`, `EDM2`, `TRANSFORMERS` or `GENERATORS`, or the URL of one of them.
    """
    of_dit = {name: each for name, each in TRANSFORMERS.items() if name.startswith("dit-")}
    licences = ((RELEASED | EDM2, EDM_LICENCE), (of_dit, DIT_LICENCE), (GENERATORS, GAN_LICENCE))
    for networks, text in licences:
        if name in networks or name in {each.url for each in networks.values()}:
            return text
    return ""


def said(name: str) -> dict[str, Any]:
    """Give the constructor arguments of a released network whose file doesn't say them; else none.

    Args:
      name: in `TRANSFORMERS`, or anything.
    """
    return dict(TRANSFORMERS[name].init_kwargs) if name in TRANSFORMERS else {}


def looks_like_name(source: str) -> bool:
    """Tell whether a text is a released network's name, or was meant to be, by its form alone.

    Args:
      source: a name, path or URL; a file's suffix begins with a letter, a name's number doesn't.
    """
    return source in EDM or not ("/" in source or re.search(r"\.[^\W\d]\w*$", source))


def lookup(name: str) -> Released:
    """Look up a released denoiser by name.

    Raises:
      ValueError: if there is none, with the nearest name that is known; or for a pair of EDM2's,
        with both.
    """
    if name in EDM:
        return EDM[name]
    if pair := edm2_catalogue.GUIDED.get(name):
        raise ValueError(
            f"{name!r} is a pair of networks: name {pair.network!r}, guided from {pair.guide!r} "
            f"with strength {pair.guidance:g} (guidance.negative and guidance.teacher of a config)"
        )
    begun = [each for each in EDM if name and each.startswith(name)]
    nearest = (
        begun
        or difflib.get_close_matches(name, EDM, n=1)
        or difflib.get_close_matches(name, RELEASED, n=1, cutoff=0.0)
    )
    raise ValueError(
        f"{name!r} is no released network; the nearest is {nearest[0]!r}, and "
        "diffjax/convert/catalogue.py lists them all"
    )
