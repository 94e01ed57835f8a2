"""Products beside a forward pass are the products, and leave nothing behind."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from nrc_probe import products
from nrc_probe.moments import MomentAccumulator
from nrc_probe.products import Lane, Rows, lanes_beside_torch

CPU = torch.device("cpu")


def rows_of(n, width, dtype=torch.float64):
    """Rows that are `width` wide with their column of ones, and the total that they go to."""
    H, Y = torch.randn(n, width - 2), torch.randn(n, 1)
    return Rows(H, Y, torch.ones(width - 1, dtype=dtype)), torch.zeros(width, width, dtype=torch.float64)


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
@pytest.mark.parametrize("blas", [True, False])
def test_both_ways_to_multiply_give_the_upper_triangle(blas, width, dtype, monkeypatch):
    monkeypatch.setattr(products, "_by_blas", lambda _: blas)
    rows = torch.randn(40, width, dtype=dtype)
    total = torch.ones(width, width, dtype=torch.float64)
    products.add_upper_product(rows, total)
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
        lanes[0].add(*rows_of(2, 3))
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
        lanes[0].add(*rows_of(200, 90))
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, torch.float64])
def test_rows_are_written_shifted_with_ones_at_the_end(kind, dtype):
    H, Y, shift = (torch.randn(9, 4) + 1e3).to(kind), torch.randn(9, 2).double(), torch.randn(6).to(dtype)
    out = torch.empty(5, 7, dtype=dtype)
    Rows(H, Y, shift).write(3, out)
    expected = torch.cat([H.double(), Y], 1)[3:8] - shift
    close = 1e-12 if dtype == torch.float64 else 1e-3
    torch.testing.assert_close(out[:, :6].double(), expected.double(), rtol=0, atol=close)
    assert (out[:, 6] == 1).all()


def test_float64_features_far_from_zero_keep_their_digits_in_float32_products():
    H, Y = 1e9 + torch.rand(6, 3, dtype=torch.float64), torch.zeros(6, 1)
    out = torch.empty(6, 5)
    Rows(H, Y, torch.full((4,), 1e9)).write(0, out)
    assert (out[:, :3].double() - (H - 1e9)).abs().max() < 1e-6


class Held:
    """A thread whose work waits until it is let go."""

    def __init__(self):
        self.pool, self.go = ThreadPoolExecutor(1), threading.Event()
        self.pool.submit(self.go.wait)

    def submit(self, *work):
        return self.pool.submit(*work)


def test_a_caller_multiplies_what_a_busy_lane_has_no_room_for():
    thread = Held()
    lane, sums = Lane(thread), [rows_of(30, 8) for _ in range(5)]
    for rows, total in sums:
        lane.add(rows, total)
    waiting = [not total.any() for _, total in sums]
    assert waiting == [True] * products._AHEAD + [False] * (5 - products._AHEAD)
    thread.go.set()
    lane.wait()
    assert all(total.any() for _, total in sums)


def test_who_waits_makes_the_products_that_the_lane_has_not_begun():
    thread = Held()
    lane, sums = Lane(thread), [rows_of(30, 8) for _ in range(products._AHEAD)]
    for rows, total in sums:
        lane.add(rows, total)
    lane.wait()  # the thread is still held
    for rows, total in sums:
        again = torch.zeros_like(total)
        Lane().add(rows, again)
        assert torch.equal(torch.triu(total), torch.triu(again))
    thread.go.set()


def test_products_of_one_total_are_never_added_out_of_turn():
    thread = Held()
    lane, (rows, total) = Lane(thread), rows_of(30, 8)
    threading.Timer(0.1, thread.go.set).start()
    for _ in range(6):
        lane.add(rows, total)  # waits for its own, whatever the order of threads
    lane.wait()
    at_once, again = rows_of(30, 8)[1], Lane()
    for _ in range(6):
        again.add(rows, at_once)
    assert torch.equal(torch.triu(total), torch.triu(at_once))


@pytest.mark.usefixtures("four_threads")
def test_a_lane_keeps_a_bounded_number_of_buffers():
    many = [rows_of(1000, 50) for _ in range(20)]
    with lanes_beside_torch(CPU) as (lane, _):
        for rows, total in many:
            lane.add(rows, total)
        lane.wait()
    assert len(lane._free) <= products._AHEAD


@pytest.mark.usefixtures("four_threads")
def test_what_goes_wrong_in_a_lane_is_raised_to_who_waits(monkeypatch):
    def fails(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(products, "add_upper_product", fails)
    with pytest.raises(MemoryError, match="no room"), lanes_beside_torch(CPU) as (lane, _):
        lane.add(*rows_of(2, 3))


def test_numpy_takes_the_symmetric_update():
    # what numpy promises nowhere: a whole product would give the two triangles in different roundings
    rows = np.random.default_rng(0).standard_normal((501, 203))
    product = rows.T @ rows
    assert np.array_equal(product, product.T)
