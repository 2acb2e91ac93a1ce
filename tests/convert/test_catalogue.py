import pytest

from diffjax.convert import catalogue, edm
from tests.support import golden_cases


def test_every_released_network_is_listed():
    assert set(catalogue.RELEASED) == {
        *(f"edm-cifar10-32x32-{c}-{a}" for c in ("uncond", "cond") for a in ("vp", "ve")),
        *(f"edm-{d}-64x64-uncond-{a}" for d in ("ffhq", "afhqv2") for a in ("vp", "ve")),
        "edm-imagenet-64x64-cond-adm",
    }
    for name, released in catalogue.RELEASED.items():
        assert released.url == f"https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/{name}.pkl"


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("edm-cifar10-32x32-uncond-vp", "full_cifar10_uncond_ddpmpp"),
        ("edm-cifar10-32x32-cond-vp", "full_cifar10_cond_ddpmpp"),
        ("edm-ffhq-64x64-uncond-vp", "full_ffhq_afhq64_ddpmpp"),
        ("edm-afhqv2-64x64-uncond-vp", "full_ffhq_afhq64_ddpmpp"),
        ("edm-imagenet-64x64-cond-adm", "full_imagenet64_cond_adm"),
    ],
)
def test_the_arguments_give_the_published_shapes(name, case):
    expected = golden_cases.state_dicts(golden_cases.OWN)[case]
    assert edm.state_dict_shapes(catalogue.lookup(name).init_kwargs) == expected


@pytest.mark.parametrize("name", [n for n in catalogue.RELEASED if n.endswith("-ve")])
def test_ve_networks_are_ncsnpp(name):
    shapes = edm.state_dict_shapes(catalogue.lookup(name).init_kwargs)
    resolution = catalogue.lookup(name).init_kwargs["img_resolution"]
    half = f"{resolution // 2}x{resolution // 2}"
    assert shapes["model.map_noise.freqs"] == (128,)
    assert shapes[f"model.enc.{half}_aux_residual.resample_filter"] == (1, 1, 4, 4)
    assert shapes[f"model.enc.{half}_aux_residual.weight"][1] == 3


def test_an_unknown_name_gets_the_nearest_known_one():
    with pytest.raises(ValueError, match="the nearest is 'edm-cifar10-32x32-uncond-vp'"):
        catalogue.lookup("edm-cifar10-uncond-vp")
    with pytest.raises(ValueError, match="the nearest is 'edm-"):
        catalogue.lookup("")


def test_a_published_pair_is_told_as_its_two_networks():
    with pytest.raises(
        ValueError, match=r"pair of networks: name 'edm2-img512-s-2147483-0.025', g"
    ):
        catalogue.lookup("edm2-img512-s-guid-fid")
