"""Puts `configs/` into the wheel as `diffjax/configs`; all else is declared in pyproject.toml."""

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Build of the package and of the configs, which lie at the top of the checkout.

    An editable install finds them there. With this mapping it would cease to be a path like any
    other, which is why pyproject.toml doesn't have it.
    """

    def finalize_options(self) -> None:
        """Map the folder once the packages are known."""
        super().finalize_options()
        if not self.editable_mode:
            self.packages = [*self.packages, "diffjax.configs"]
            self.package_dir = {**self.package_dir, "diffjax.configs": "configs"}


setup(cmdclass={"build_py": BuildWithConfigs})
