"""Products beside a forward pass are the products, and leave nothing behind."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from nrc_probe import products
from nrc_probe.moments import MomentAccumulator
from nrc_probe.products import Lane, lanes_beside_torch

CPU = torch.device("cpu")


@pytest.fixture
def four_threads(monkeypatch):
    """Torch on four threads, BLAS on one: two lanes."""
    used = torch.get_num_threads()
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(used)


@pytest.mark.parametrize("width", [3, 128, 130, 301])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("add", [products._add_by_blas, products._add_by_blocks])
def test_both_ways_to_multiply_give_the_upper_triangle(add, width, dtype):
    rows = torch.randn(40, width, dtype=dtype)
    total = torch.ones(width, width, dtype=torch.float64)
    add(rows, total)
    expected = torch.triu(rows.double().T @ rows.double() + 1)
    close = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(torch.triu(total), expected, rtol=close, atol=10 * close)


@pytest.mark.usefixtures("four_threads")
def test_lanes_and_torch_share_the_threads_and_torch_has_all_of_them_afterwards():
    with lanes_beside_torch(CPU) as lanes:
        assert len(lanes) == 2
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
def test_there_is_one_lane_and_no_thread_where_blas_has_several(monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    before = threading.active_count()
    with lanes_beside_torch(CPU) as lanes:
        lanes[0].add(lanes[0].room(2, 2, like=torch.empty(0)), torch.zeros(2, 2, dtype=torch.float64))
        assert (len(lanes), threading.active_count(), torch.get_num_threads()) == (1, before, 4)


@pytest.mark.usefixtures("four_threads")
def test_no_thread_outlives_its_lanes_even_after_an_error():
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        _interrupted()
    assert threading.active_count() == before
    assert torch.get_num_threads() == 4


def _interrupted():
    with lanes_beside_torch(CPU) as lanes:
        lanes[0].add(lanes[0].room(200, 90, like=torch.empty(0)), torch.zeros(90, 90, dtype=torch.float64))
        raise KeyboardInterrupt


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_moments_made_beside_are_those_made_at_once_to_the_last_digit(precision):
    widths = (40, 7, 300, 40)
    H = [torch.randn(900, d) + 5 for d in widths]
    Y = torch.randn(900, 2)

    def moments(lanes):
        sums = [
            MomentAccumulator(d, 2, precision=precision, lane=lanes[i % len(lanes)])
            for i, d in enumerate(widths)
        ]
        for start in range(0, 900, 90):
            for one, features in zip(sums, H, strict=True):
                one.update(features[start : start + 90], Y[start : start + 90])
        return [one.finish() for one in sums]

    at_once = moments([Lane()])
    with lanes_beside_torch(CPU) as lanes:
        beside = moments(lanes)
    for one, other in zip(at_once, beside, strict=True):
        assert torch.equal(one.scatter_hh, other.scatter_hh)
        assert torch.equal(one.scatter_hy, other.scatter_hy)


@pytest.mark.usefixtures("four_threads")
def test_a_lane_lends_a_bounded_number_of_buffers():
    total = torch.zeros(50, 50, dtype=torch.float64)
    with lanes_beside_torch(CPU) as (lane, _):
        places = set()
        for _ in range(20):
            rows = lane.room(1000, 50, like=torch.empty(0, dtype=torch.float64))
            places.add(rows.data_ptr())
            lane.add(rows, total)
    assert len(places) <= products._AHEAD


@pytest.mark.usefixtures("four_threads")
def test_what_goes_wrong_in_a_lane_is_raised_to_who_waits(monkeypatch):
    def fails(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(products, "add_upper_product", fails)
    with pytest.raises(MemoryError, match="no room"), lanes_beside_torch(CPU) as (lane, _):
        lane.add(lane.room(2, 2, like=torch.empty(0)), torch.zeros(2, 2))


def test_numpy_takes_the_symmetric_update():
    # what numpy promises nowhere: a whole product would give the two triangles in different roundings
    rows = np.random.default_rng(0).standard_normal((501, 203))
    product = rows.T @ rows
    assert np.array_equal(product, product.T)
