"""Networks of EDM2 that were released, and how their authors guide them.

Sources: https://github.com/NVlabs/edm2, "Using pre-trained models" of the README and the presets of
generate_images.py, whose weights are NVIDIA's, under CC BY-NC-SA 4.0. Students of them are of
https://github.com/mingyuanzhou/SiD, branch sida, and lie on the Hugging Face hub.
"""

import dataclasses
from typing import Any

_URL = "https://nvlabs-fi-cdn.nvidia.com/edm2/posthoc-reconstructions"
_HUB = "https://huggingface.co/UT-Austin-PML/SiDA/resolve/main/EDM2_distillation"

# Channels of the first level, and dropout.
SIZES = {
    "xxs": (64, 0.0),
    "xs": (128, 0.0),
    "s": (192, 0.0),
    "m": (256, 0.1),
    "l": (320, 0.1),
    "xl": (384, 0.1),
    "xxl": (448, 0.1),
}
# Size -> thousands of images, and the averages' σ_rel of least FID and least FD by DINOv2.
_IMG512 = {
    "xs": ("2147483", "0.135", "0.200"),
    "s": ("2147483", "0.130", "0.190"),
    "m": ("2147483", "0.100", "0.155"),
    "l": ("1879048", "0.085", "0.155"),
    "xl": ("1342177", "0.085", "0.155"),
    "xxl": ("0939524", "0.070", "0.150"),
}
_IMG64 = {
    "s": ("1073741", "0.075"),
    "m": ("2147483", "0.060"),
    "l": ("1073741", "0.040"),
    "xl": ("0671088", "0.040"),
}


@dataclasses.dataclass(frozen=True)
class Guided:
    """Pair of released networks with which the authors sample.

    Attributes:
      network: name of the network.
      guide: name of the guiding one.
      guidance: g of D_guide + g (D − D_guide).
    """

    network: str
    guide: str
    guidance: float


def _by_classes(size: str, std_fid: str, fid: float, std_dino: str, dino: float) -> dict[str, Any]:
    """Classifier-free guidance by the unconditional XS, with an average of the same length."""
    pairs = {"fid": (std_fid, fid), "dino": (std_dino, dino)}
    return {
        f"edm2-img512-{size}-guid-{measure}": Guided(
            f"edm2-img512-{size}-{_IMG512[size][0]}-{std}",
            f"edm2-img512-xs-uncond-2147483-{std}",
            guidance,
        )
        for measure, (std, guidance) in pairs.items()
    }


GUIDED: dict[str, Guided] = {
    **_by_classes("xs", "0.045", 1.4, "0.150", 1.7),
    **_by_classes("s", "0.025", 1.4, "0.085", 1.9),
    **_by_classes("m", "0.030", 1.2, "0.015", 2.0),
    **_by_classes("l", "0.015", 1.2, "0.035", 1.7),
    **_by_classes("xl", "0.020", 1.2, "0.030", 1.7),
    **_by_classes("xxl", "0.015", 1.2, "0.015", 1.7),
    # Autoguidance, by a smaller network that was trained less.
    **{
        f"edm2-{data}-autog-{measure}": Guided(f"edm2-{data}-{average}", f"edm2-{guide}", guidance)
        for data, measure, average, guide, guidance in (
            ("img512-s", "fid", "2147483-0.070", "img512-xs-0134217-0.125", 2.10),
            ("img512-s", "dino", "2147483-0.120", "img512-xs-0134217-0.165", 2.45),
            ("img512-xxl", "fid", "0939524-0.075", "img512-m-0268435-0.155", 2.05),
            ("img512-xxl", "dino", "0939524-0.130", "img512-m-0268435-0.205", 2.30),
            ("img512-s-uncond", "fid", "2147483-0.070", "img512-xs-uncond-0134217-0.110", 2.85),
            ("img512-s-uncond", "dino", "2147483-0.090", "img512-xs-uncond-0134217-0.125", 2.90),
            ("img64-s", "fid", "1073741-0.045", "img64-xs-0134217-0.110", 1.70),
            ("img64-s", "dino", "1073741-0.105", "img64-xs-0134217-0.175", 2.20),
        )
    },
}

# Method -> size -> the student's file, as its authors' table has it: some names say another method.
_STUDENTS = {
    "sid": {
        "xs": "xs_sid_alpha1-249360",
        "s": "s_sid_alpha1-192010",
        "m": "m_sid_alpha1-226830",
        "l": "l_sid_alpha1-203788",
        "xl": "xl_sid_alpha1-234004",
        "xxl": "xxl_sida_alpha1-077932",
    },
    "sida": {
        "xs": "xs_sida_alpha1-166410",
        "s": "s_sida_alpha1-117764",
        "m": "m_sida_alpha1-115716",
        "l": "l_sida_alpha1-166918",
        "xl": "xl_sid2a_alpha1-024578",
        "xxl": "xxl_sida_alpha1-089816",
    },
    "sid2a": {
        "xs": "xs_sid2a_alpha1-028674",
        "s": "s_sid2a_alpha1-075268",
        "m": "m_sid2a_alpha1-044036",
        "l": "l_sid2a_alpha1-050182",
        "xl": "xl_sid2a_alpha1-079495",
        "xxl": "xxl_sid2a_alpha1-029812",
    },
}


def init_kwargs(data: str, size: str, *, classes: int = 1000) -> dict[str, Any]:
    """Constructor arguments of a released network, as `denoiser.from_edm_kwargs` takes them.

    Args:
      data: "img512" for latents of ImageNet at 512 pixels, [64, 64, 4]; "img64" for its images at
        64 pixels.
      size: in `SIZES`.
      classes: 1000, or 0 for an unconditional network.
    """
    channels, dropout = SIZES[size]
    return {
        "class_name": "Precond",
        "img_resolution": 64,
        "img_channels": {"img512": 4, "img64": 3}[data],
        "label_dim": classes,
        "model_channels": channels,
        "dropout": dropout,
    }


def denoisers() -> dict[str, tuple[str, dict[str, Any]]]:
    """URL and constructor arguments of each released network, by name.

    A name is the file's, such as edm2-img512-s-2147483-0.130: data, size, thousands of images and
    the average's σ_rel. The authors' presets without guidance, such as edm2-img512-s-fid, are names
    of those files too.
    """
    presets = {}
    for size, (images, fid, dino) in _IMG512.items():
        for measure, std in (("fid", fid), ("dino", dino)):
            presets[f"edm2-img512-{size}-{measure}"] = f"edm2-img512-{size}-{images}-{std}"
    for size, (images, std) in _IMG64.items():
        presets[f"edm2-img64-{size}-fid"] = f"edm2-img64-{size}-{images}-{std}"
    files = {
        *presets.values(),
        *(name for each in GUIDED.values() for name in (each.network, each.guide)),
    }
    return {name: _of_file(file) for name, file in presets.items()} | {
        file: _of_file(file) for file in sorted(files)
    }


def students() -> dict[str, tuple[str, dict[str, Any]]]:
    """URL and constructor arguments of each released student, by a name like sid-edm2-img512-s."""
    return {
        f"{method}-edm2-img512-{size}": (
            f"{_HUB}/edm2_img512_{file}.pkl",
            init_kwargs("img512", size),
        )
        for method, files in _STUDENTS.items()
        for size, file in files.items()
    }


def _of_file(name: str) -> tuple[str, dict[str, Any]]:
    _, data, size, *rest = name.split("-")
    classes = 0 if rest[0] == "uncond" else 1000
    return f"{_URL}/{name}.pkl", init_kwargs(data, size, classes=classes)
