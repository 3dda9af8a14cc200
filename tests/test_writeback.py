# SPDX-License-Identifier: Apache-2.0

"""Writebacks with parameters of all dtypes: exact masters, special values, shared gradients; and the choice of one."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, context
from rounding import rounded
from steps import DTYPES, PLACES, as_float32, new_parameters

from mindspore_offload import AdamOffload
from mindspore_offload.update import native

DTYPES_16_BIT = {"float16": ms.float16, "bfloat16": ms.bfloat16}


@pytest.fixture(
    params=[place if place != "stock-in_place" else pytest.param(place, marks=pytest.mark.full) for place in PLACES]
)
def place(request):
    return PLACES[request.param]


def test_masters_keep_steps_too_small_for_the_parameter(place):
    """100 steps of 1e-5 from 1. Below 1, the next float16 is 1 - 2^-11, and the next bfloat16 is 1 - 2^-8."""
    weights = [Parameter(Tensor(np.ones(5), dtype), name=name) for name, dtype in DTYPES.items()]
    optimizer = AdamOffload(weights, 1e-5, **place)
    for step in range(100):
        optimizer(tuple(Tensor(np.full(5, 0.5), dtype) for dtype in DTYPES.values()))
        if step == 0:
            assert all((as_float32(weight) == 1).all() for weight in weights[1:])
    expected = weights[0].asnumpy()
    assert (expected < 1 - 9e-4).all()
    for weight, master in zip(weights[1:], optimizer.master):
        np.testing.assert_allclose(master.asnumpy(), expected, rtol=3e-7)
        np.testing.assert_array_equal(as_float32(weight), rounded(master.asnumpy(), weight.dtype))


def test_special_values(place):
    """A NaN or infinite gradient affects only its element. A master may exceed the range of its parameter.

    Subnormal numbers are kept. MindSpore's own operations flush float32 and bfloat16 subnormals to zero.
    """
    smallest_bfloat16 = 1e-39 if place["host_kernel"] == "native" else 1e-37
    starts = [
        np.array([1.0, 2.0, largest, small, 0.0, -0.0], np.float32)
        for largest, small in ((65504.0, 1e-7), (3.3895e38, smallest_bfloat16))
    ]
    weights = [Parameter(Tensor(s).astype(d), name=name) for s, (name, d) in zip(starts, DTYPES_16_BIT.items())]
    before = [as_float32(weight) for weight in weights]
    groups = [{"params": [weight], "lr": rate} for weight, rate in zip(weights, (100.0, 1e36))]
    optimizer = AdamOffload(groups, **place)
    gradient = np.array([np.nan, np.inf, -1.0, 0.0, 0.0, 0.0], np.float32)
    optimizer(tuple(Tensor(gradient).astype(weight.dtype) for weight in weights))
    for weight, master, start in zip(weights, optimizer.master, before):
        after, wide = as_float32(weight), master.asnumpy()
        assert np.isnan(after[:2]).all()
        assert start[2] < wide[2] < np.inf
        assert np.isinf(after[2])
        np.testing.assert_array_equal(after[2:], rounded(wide, weight.dtype)[2:])
        np.testing.assert_array_equal(after[3:], start[3:])


class Sum(ms.nn.Cell):
    """The terms have one gradient Tensor in common, or for each dtype one."""

    def __init__(self, parameters):
        super().__init__()
        self.parameters = ms.ParameterTuple(parameters)

    def construct(self, factor):
        total = 0
        for parameter in self.parameters:
            total = total + parameter.astype(ms.float32)
        return (total * factor).sum()


def test_parameters_that_share_a_gradient(place):
    parameters = new_parameters([dtype for dtype in DTYPES for _ in range(3)], size=9)
    before = [as_float32(parameter) for parameter in parameters]
    net = Sum(parameters)
    ms.nn.TrainOneStepCell(net, AdamOffload(parameters, 0.5, **place))(Tensor(np.ones(9), ms.float32))
    for parameter, value in zip(parameters, before):
        np.testing.assert_allclose(as_float32(parameter), value - 0.5, atol=1e-2)


class TestChoice:
    @pytest.fixture
    def weight(self):
        return [Parameter(Tensor(np.ones(3, np.float32)), name="weight")]

    @pytest.fixture
    def pretend(self, monkeypatch):
        """Makes a device target and a jit level appear to be set."""
        real = context.get_context

        def pretend(**settings):
            monkeypatch.setattr(context, "get_context", lambda key: settings[key] if key in settings else real(key))

        return pretend

    @pytest.fixture
    def accelerator(self, pretend):
        pretend(device_target="Ascend")

    def test_an_unknown_writeback_is_refused(self, weight):
        with pytest.raises(
            ValueError, match=r"'writeback' must be one of \['auto', 'in_place', 'assign'\], but got 'x'"
        ):
            AdamOffload(weight, writeback="x")

    def test_auto_is_in_place_on_the_cpu(self, weight):
        assert AdamOffload(weight).writeback == "in_place"

    @pytest.mark.usefixtures("accelerator")
    def test_auto_is_assign_elsewhere(self, weight):
        assert AdamOffload(weight).writeback == "assign"

    @pytest.mark.usefixtures("accelerator")
    def test_in_place_is_refused_elsewhere(self, weight):
        with pytest.raises(
            ValueError, match=r"'auto' or 'assign' where the device target is 'Ascend', not 'CPU', but got 'in_place'"
        ):
            AdamOffload(weight, writeback="in_place")

    @pytest.mark.parametrize("target", ["CPU", "GPU", "Ascend"])
    def test_auto_is_native_on_every_target(self, weight, target, pretend):
        pretend(device_target=target)
        assert [type(cell).__module__ for cell in AdamOffload(weight)._step.updates] == [native.__name__]

    def test_o2_is_refused_on_ascend(self, weight, pretend):
        pretend(device_target="Ascend", jit_level="O2")
        with pytest.raises(RuntimeError, match=r"the jit_level must be 'O0' or 'O1', but got 'O2'.*jit_config="):
            AdamOffload(weight)

    def test_bfloat16_is_refused_on_gpu(self, pretend):
        weights = new_parameters(["float32", "bfloat16"])
        pretend(device_target="GPU")
        with pytest.raises(TypeError, match=r"must be of dtype float32 or float16 on a GPU, but got bfloat16"):
            AdamOffload(weights)

    @pytest.mark.parametrize("target", ["GPU", "Ascend"])
    def test_stock_is_refused_on_accelerators(self, weight, target, pretend):
        pretend(device_target=target)
        with pytest.raises(
            RuntimeError, match=rf"the device target must be 'CPU' for the stock host operation, but got '{target}'"
        ):
            AdamOffload(weight, host_kernel="stock")
