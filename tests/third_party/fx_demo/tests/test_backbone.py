"""Whether the backbone does what its spec says; it must be installed (python -m pip install -e .)."""

import pytest

from fxcli.testing import check_backbone


@pytest.mark.parametrize("image_size_px", [64, 96])
def test_it_keeps_the_contract(image_size_px):
    check_backbone("demo_tiny", image_size_px=image_size_px)
