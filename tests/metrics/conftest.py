"""Numbers of torch-fidelity for the arrays that come with them."""

import pytest

from tests.support import golden_cases


@pytest.fixture(scope="session", params=golden_cases.cases("metrics"))
def golden(request) -> golden_cases.Case:
    """Rows of features a and b, logits, and in `meta["results"]` what torch-fidelity made of them.

    Those of this repository are [1500, 48], [1200, 48] and [1500, 50], and were rounded to 14
    significant bits after it ran, to be small: that moves its numbers by less than a hundredth of
    the tolerances here.
    """
    return golden_cases.Case(request.param)


@pytest.fixture(scope="session")
def results(golden):
    return golden.meta["results"]


@pytest.fixture(scope="session")
def features(golden):
    return golden.raw("features_a"), golden.raw("features_b")
