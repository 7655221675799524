"""The kernels around a verify and a draft extend of chains give what torch gives, to the bit."""

from tests.support import chain_reference


def test_each_is_torch_s_to_the_bit() -> None:
    assert chain_reference.compare("cpu", (1, 3), 4500, 48) == 2 * 4 * 8


def test_of_long_requests_and_of_many() -> None:
    assert chain_reference.compare_long("cpu") == 3
