"""Pictures of samples: images as they are, other examples by a preview or their rank."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffjax.files import images, previews
from diffjax.runs.decoders import Decoder
from diffjax.runs.networks import Denoiser
from diffjax.runs.user_function import RefusedError

# Points and numbers drawn together, which only many of show a distribution.
_POINTS = 2048


class PreviewError(RefusedError):
    """Error of a user's preview, which raises or returns something else than a picture."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures of a network's samples.

    Attributes:
      denoiser: what says how its examples are drawn, or the decoder that makes images of them.
      rows: of a grid.
      columns: of a grid.
    """

    denoiser: Denoiser | Decoder
    rows: int
    columns: int

    @property
    def count(self) -> int:
        """Number of samples of a picture."""
        is_point = self.denoiser.shape in ((1,), (2,))
        return max(self.rows * self.columns, _POINTS if is_point else 1)

    @property
    def exist(self) -> bool:
        """Whether samples have pictures: by a preview, or by their shape."""
        denoiser = self.denoiser
        if denoiser.is_latent:  # whose picture is the decoder's, and of them alone a riddle
            return False
        is_shown = denoiser.holds_images or denoiser.preview is not None
        return is_shown or previews.has_picture(denoiser.shape)

    @property
    def exist_for_each(self) -> bool:
        """Whether a sample by itself is an image, or has a preview."""
        denoiser = self.denoiser
        is_shown = denoiser.holds_images or denoiser.preview is not None
        return self.exist and (is_shown or previews.is_image(denoiser.shape))

    def grid(self, samples: np.ndarray, *, shrink: int = 1, padding: int = 1) -> np.ndarray | None:
        """Draw samples together.

        Args:
          samples: [N, *shape], uint8 images of our own networks, else float32.
          shrink: images are drawn smaller by this factor than to be about 64 pixels wide.
          padding: pixels between images.

        Returns:
          [H, W, 1 or 3] uint8, or None if examples of this shape have no picture.

        Raises:
          PreviewError: of the user's preview.
        """
        if self.denoiser.holds_images:
            scale = max(1, images.visible_scale(samples.shape[1]) // shrink)
            return images.grid(samples, columns=self.columns, scale=scale, padding=padding)
        if self.denoiser.preview is not None:
            return self._previewed(samples)
        if not self.exist:
            return None
        picture = previews.picture(
            samples,
            sigma_data=self.denoiser.sigma_data,
            # Of curves as many as are told apart, of points all.
            examples=self.count if previews.is_image(self.denoiser.shape) else None,
            columns=self.columns,
        )
        return None if picture is None else previews.as_pixels(picture)

    def panels(self, panels: Sequence[tuple[str, np.ndarray]]) -> np.ndarray | None:
        """Draw sets of samples side by side, each under its caption.

        Args:
          panels: pairs of a caption and samples, as `grid` takes them.

        Returns:
          [H, W, 1 or 3] uint8, or None if examples of this shape have no picture.

        Raises:
          PreviewError: of the user's preview.
        """
        if self.denoiser.holds_images:
            return images.labelled_panels(panels, columns=self.columns, padding=4)
        drawn = [(caption, self.grid(samples)) for caption, samples in panels]
        shown = [(caption, pixels[None]) for caption, pixels in drawn if pixels is not None]
        return images.labelled_panels(shown, padding=0, scale=1) if shown else None

    def each(self, samples: np.ndarray) -> np.ndarray | list[np.ndarray] | None:
        """Draw each sample by itself.

        Args:
          samples: as `grid` takes them.

        Returns:
          N arrays [H, W, 1 or 3] uint8, or None if an example of this shape is no image.

        Raises:
          PreviewError: of the user's preview.
        """
        if self.denoiser.holds_images:
            return samples
        if self.denoiser.preview is not None:
            return [self._previewed(samples[i : i + 1]) for i in range(len(samples))]
        if not self.exist:
            return None
        return previews.as_images(samples, sigma_data=self.denoiser.sigma_data)

    def _previewed(self, samples: np.ndarray) -> np.ndarray:
        name = getattr(self.denoiser, "name", "the teacher")
        what = f"{name}: preview of float32 {list(samples.shape)}"
        preview: Any = self.denoiser.preview
        try:
            made: Any = preview(samples.copy())
        except Exception as error:  # a user's function may fail in any way
            text = " ".join(str(error).split())
            raise PreviewError(f"{what} fails with {type(error).__name__}: {text}") from error
        try:
            return previews.as_pixels(made)
        except ValueError as error:
            raise PreviewError(f"{what} returned {error}") from error
