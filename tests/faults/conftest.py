"""A full run of a fault takes minutes to an hour; the short form keeps to the bound of any test."""

from __future__ import annotations

import pytest

from tests.faults.ledger import results_folder

FULL_TIMEOUT_S = 7200


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bound the tests of a full run."""
    if results_folder() is not None:
        for item in items:
            if item.get_closest_marker("faults"):
                item.add_marker(pytest.mark.timeout(FULL_TIMEOUT_S))
