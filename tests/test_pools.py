"""Work done side by side comes back in order, drawn only when its turn has come."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from networks import stack
from torch import nn

import nrc_probe
from nrc_probe import scoring
from nrc_probe.pools import side_by_side


@pytest.mark.parametrize("threads", [1, 3])
def test_outcomes_keep_the_order_of_their_items(threads):
    def work(item):
        time.sleep(0.002 * (10 - item))
        return item**2

    assert list(side_by_side(work, range(10), threads)) == [item**2 for item in range(10)]


def test_items_are_drawn_by_the_caller_and_few_at_a_time():
    drawn, drew = [], []

    def items():
        for item in range(20):
            drawn.append(item)
            drew.append(threading.current_thread())
            yield item

    first = next(side_by_side(lambda item: item, items(), 3))
    assert (first, len(drawn)) == (0, 4)
    assert set(drew) == {threading.current_thread()}


def test_what_goes_wrong_in_a_thread_is_raised_to_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(lambda item: 1 // item, [2, 1, 0, 1], 2))


def test_layers_scored_side_by_side_score_the_same(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(*stack([6, 150, 40, 200, 3], nn.ReLU))
    x, y = torch.randn(400, 6), torch.randn(400, 3)

    def rows(together):
        monkeypatch.setattr(scoring, "_layers_together", lambda *_: together)
        result = nrc_probe.analyze(model, (x, y), heldout=(x[:50], y[:50]))
        return result.to_rows()

    threads = torch.get_num_threads()
    for one, other in zip(rows(1), rows(3), strict=True):
        numbers = [key for key, value in one.items() if isinstance(value, float)]
        assert len(numbers) > 10
        for key in numbers:  # BLAS rounds by where its arrays happen to lie in memory
            assert one[key] == pytest.approx(other[key], rel=1e-9, abs=1e-12, nan_ok=True), key
        words = one.keys() - numbers
        assert {key: one[key] for key in words} == {key: other[key] for key in words}
    assert torch.get_num_threads() == threads


def test_wide_layers_are_decomposed_one_at_a_time(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    wide, narrow = (type("", (), {"width": width}) for width in (8192, 512))
    assert scoring._layers_together([narrow, narrow], 4) == 4
    assert scoring._layers_together([narrow, wide], 4) == 1
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    assert scoring._layers_together([narrow], 4) == 1
