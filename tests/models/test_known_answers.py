"""The start-up test passes here, and refuses kernels that differ."""

from __future__ import annotations

import pytest

from osoa_pl.errors import PortabilityError
from osoa_pl.models import compiled_head, known_answers


@pytest.mark.parametrize("channels", [1, 3])
def test_compiled_kernels_pass(channels):
    known_answers.check_compiled.__wrapped__(channels)


def test_a_wrong_kernel_is_refused(monkeypatch):
    right = compiled_head.gradient_rows

    def wrong(*arguments):
        right(*arguments)
        arguments[-1][0, 0] += 1.0

    monkeypatch.setattr(compiled_head, "gradient_rows", wrong)
    with pytest.raises(PortabilityError, match="differ from the eager path"):
        known_answers.check_compiled.__wrapped__(1)
