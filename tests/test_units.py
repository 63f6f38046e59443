"""Units convert to SI and back, and a unit must measure its quantity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stgraph.errors import InputError
from stgraph.units import QUANTITIES, unit, unit_for

HAND = {"mph": (60, 26.8224), "km/h": (36, 10), "veh/5min": (10, 120), "veh/15min": (10, 40), "mile": (1, 1609.344),
        "degC": (20, 293.15), "degF": (68, 293.15), "hPa": (1013.25, 101_325), "Pa": (7, 7), "mbar": (1, 100),
        "mm": (25, 0.025), "%": (50, 0.5), "min": (2, 120), "kph": (72, 20)}


@pytest.mark.parametrize("name", HAND)
def test_hand_values(name: str) -> None:
    value, si = HAND[name]
    found = unit(name)
    assert value * found.factor + found.offset == pytest.approx(si)


@given(name=st.sampled_from(sorted(HAND)), value=st.floats(-1e6, 1e6))
def test_there_and_back(name: str, value: float) -> None:
    found = unit(name)
    assert ((value * found.factor + found.offset) - found.offset) / found.factor == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_every_quantity_has_its_si_unit(quantity: str) -> None:
    assert unit_for(quantity).si == QUANTITIES[quantity]
    assert unit_for(quantity).factor == 1


def test_refusals_name_the_choices() -> None:
    with pytest.raises(InputError, match="unknown unit") as caught:
        unit("furlong")
    assert "mph" in str(caught.value)
    with pytest.raises(InputError, match="a speed is not measured in veh/h"):
        unit_for("speed", "veh/h")
    with pytest.raises(InputError, match="unknown quantity"):
        unit_for("beauty")
    with pytest.raises(InputError):
        unit("veh/0min")
