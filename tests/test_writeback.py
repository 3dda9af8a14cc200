# SPDX-License-Identifier: Apache-2.0

"""Both writebacks with parameters of all dtypes: same bits, exact masters, changes outside the optimizer."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, context, ops
from nets import assert_same
from test_update import SCENARIOS, rounded, scenario_data

from mindspore_offload import AdamOffload
from mindspore_offload.update import native

DTYPES = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}
DTYPES_16_BIT = ["float16", "bfloat16"]


@pytest.fixture(params=["in_place", "assign"])
def writeback(request):
    return request.param


def new_parameters(dtypes, size=1001):
    random = np.random.default_rng(2)
    weights = [random.standard_normal(size).astype(np.float32) for _ in dtypes]
    return [Parameter(Tensor(w).astype(DTYPES[d]), name=f"weight{i}") for i, (w, d) in enumerate(zip(weights, dtypes))]


def take_steps(optimizer, steps, seed=4):
    random = np.random.default_rng(seed)
    for _ in range(steps):
        gradients = [random.standard_normal(p.shape).astype(np.float32) for p in optimizer.parameters]
        optimizer(tuple(Tensor(g).astype(p.dtype) for g, p in zip(gradients, optimizer.parameters)))


def values(cell):
    """Returns the values of all parameters by name, as float32, because numpy has no bfloat16."""
    return {p.name: p.float().asnumpy().copy() for p in cell.get_parameters()}


@pytest.mark.parametrize("scenario", ["default", "decay+nesterov", "decay+loss-scale"])
def test_both_writebacks_end_in_the_same_bits(scenario, host_kernel):
    """Compares after 100 steps. In place, the stock operation rounds the last few elements of a tensor differently."""
    _, _, settings = scenario_data(**SCENARIOS[scenario])
    ends = []
    for writeback in ("in_place", "assign"):
        parameters = new_parameters(["float32", "float16", "float32", "bfloat16"])
        optimizer = AdamOffload(parameters, host_kernel=host_kernel, writeback=writeback, **settings)
        assert optimizer.writeback == writeback
        take_steps(optimizer, 100)
        ends.append(values(optimizer))
    if host_kernel == "native":
        assert_same(*ends)
    else:
        for name, value in ends[0].items():
            unit = 2**-7 if name == "weight3" else 2**-10 if name == "weight1" else 1e-5
            np.testing.assert_allclose(value, ends[1][name], rtol=unit, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES_16_BIT)
def test_masters_keep_steps_too_small_for_the_parameter(dtype, host_kernel, writeback):
    """100 steps of 1e-5 from 1. Below 1, the next float16 is 1 - 2^-11, and the next bfloat16 is 1 - 2^-8."""
    ends = {}
    for kind in ("float32", dtype):
        weight = Parameter(Tensor(np.ones(5), DTYPES[kind]), name="weight")
        optimizer = AdamOffload([weight], 1e-5, host_kernel=host_kernel, writeback=writeback)
        for step in range(100):
            optimizer((Tensor(np.full(5, 0.5), DTYPES[kind]),))
            if step == 0 and kind == dtype:
                assert (weight.float().asnumpy() == 1).all()
        ends[kind] = (optimizer.master[0] if kind == dtype else weight).asnumpy()
        if kind == dtype:
            np.testing.assert_array_equal(weight.float().asnumpy(), rounded(ends[kind], DTYPES[dtype]))
    np.testing.assert_allclose(ends[dtype], ends["float32"], rtol=3e-7)
    assert (ends["float32"] < 1 - 9e-4).all()


def set_data(parameter, value):
    parameter.set_data(Tensor(value).astype(parameter.dtype))


def load_into_net(parameter, value):
    loaded = Parameter(Tensor(value).astype(parameter.dtype), name=parameter.name)
    ms.load_param_into_net(_Holder(parameter), {parameter.name: loaded}, strict_load=True)


class _Holder(ms.nn.Cell):
    def __init__(self, parameter):
        super().__init__()
        self.parameter = parameter


@pytest.mark.parametrize("change", [set_data, load_into_net])
@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_changed_outside_win(dtype, steps_before, change, host_kernel, writeback):
    """Changed elements replace their masters; unchanged elements keep theirs."""
    ends = {}
    for changed in (False, True):
        (parameter,) = new_parameters([dtype])
        optimizer = AdamOffload([parameter], 1e-3, host_kernel=host_kernel, writeback=writeback)
        take_steps(optimizer, steps_before)
        if changed:
            value = parameter.float().asnumpy().copy()
            value[::3] = 5.0
            change(parameter, value)
        take_steps(optimizer, 1, seed=9)
        wide = optimizer.master[0] if dtype != "float32" else parameter
        ends[changed] = wide.asnumpy().copy()
        np.testing.assert_array_equal(parameter.float().asnumpy(), rounded(ends[changed], DTYPES[dtype]))
    np.testing.assert_allclose(ends[True][::3], 5.0, atol=4e-3)
    assert np.mean(ends[True][::3] != 5.0) > 0.99
    kept = np.arange(len(ends[True])) % 3 != 0
    np.testing.assert_allclose(ends[True][kept], ends[False][kept], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES_16_BIT)
def test_special_values(dtype, host_kernel, writeback):
    """A NaN or infinite gradient affects only its element. A master may exceed the range of its parameter.

    Subnormal numbers are kept. MindSpore's own operations flush float32 and bfloat16 subnormals to zero.
    """
    largest = {"float16": 65504.0, "bfloat16": 3.3895e38}[dtype]
    small = 1e-7 if dtype == "float16" else 1e-39 if host_kernel == "native" else 1e-37
    start = np.array([1.0, 2.0, largest, small, 0.0, -0.0], np.float32)
    parameter = Parameter(Tensor(start).astype(DTYPES[dtype]), name="weight")
    before = parameter.float().asnumpy()
    optimizer = AdamOffload(
        [parameter], 1e36 if dtype == "bfloat16" else 100.0, host_kernel=host_kernel, writeback=writeback
    )
    gradient = np.array([np.nan, np.inf, -1.0, 0.0, 0.0, 0.0], np.float32)
    optimizer((Tensor(gradient).astype(DTYPES[dtype]),))
    after, master = parameter.float().asnumpy(), optimizer.master[0].asnumpy()
    assert np.isnan(after[:2]).all()
    assert before[2] < master[2] < np.inf
    assert np.isinf(after[2])
    np.testing.assert_array_equal(after[2:], rounded(master, DTYPES[dtype])[2:])
    np.testing.assert_array_equal(after[3:], before[3:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_that_share_a_gradient(dtype, host_kernel, writeback):
    """The terms of a sum have one gradient Tensor in common. Each parameter takes its own step."""
    parameters = new_parameters([dtype] * 3, size=9)
    before = [parameter.float().asnumpy().copy() for parameter in parameters]
    net = _Sum(parameters)
    optimizer = AdamOffload(parameters, 0.5, host_kernel=host_kernel, writeback=writeback)
    ms.nn.TrainOneStepCell(net, optimizer)(Tensor(np.ones(9), ms.float32))
    for parameter, value in zip(parameters, before):
        np.testing.assert_allclose(parameter.float().asnumpy(), value - 0.5, atol=1e-2)


class _Sum(ms.nn.Cell):
    def __init__(self, parameters):
        super().__init__()
        self.parameters = ms.ParameterTuple(parameters)

    def construct(self, factor):
        first, second, third = self.parameters
        total = first.astype(ms.float32) + second.astype(ms.float32) + third.astype(ms.float32)
        return (total * factor).sum()


def test_stock_without_deprecated_operations(writeback, monkeypatch):
    """The result is the same in a release of MindSpore that has removed them."""
    ends = []
    for removed in (False, True):
        if removed:
            for name in ("AdamNoUpdateParam", "FusedCastAdamWeightDecay"):
                monkeypatch.delattr(ops, name)
        optimizer = AdamOffload(new_parameters(["float32", "float16"]), host_kernel="stock", writeback=writeback)
        take_steps(optimizer, 3)
        ends.append(values(optimizer))
    assert_same(*ends)


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
        with pytest.raises(ValueError, match=r"'in_place' only where the device target is 'CPU', but it is 'Ascend'"):
            AdamOffload(weight, writeback="in_place")

    @pytest.mark.parametrize("target", ["CPU", "GPU", "Ascend"])
    def test_auto_is_native_on_every_target(self, weight, target, pretend):
        pretend(device_target=target)
        assert [type(cell).__module__ for cell in AdamOffload(weight)._updates] == [native.__name__]

    def test_o2_is_refused_on_ascend(self, weight, pretend):
        pretend(device_target="Ascend", jit_level="O2")
        with pytest.raises(RuntimeError, match=r"the jit_level must be 'O0' or 'O1', but it is 'O2'.*jit_config="):
            AdamOffload(weight)

    def test_bfloat16_is_refused_on_gpu(self, pretend):
        weights = new_parameters(["float32", "bfloat16"])
        pretend(device_target="GPU")
        with pytest.raises(TypeError, match=r"on a GPU must be of dtype float32 or float16, but got bfloat16"):
            AdamOffload(weights)

    @pytest.mark.parametrize("target", ["GPU", "Ascend"])
    def test_stock_is_refused_on_accelerators(self, weight, target, pretend):
        pretend(device_target=target)
        with pytest.raises(RuntimeError, match=rf"needs the device target 'CPU', but it is '{target}'"):
            AdamOffload(weight, host_kernel="stock")

    @pytest.mark.parametrize("mode", ["semi_auto_parallel", "auto_parallel"])
    def test_other_parallel_modes_are_refused(self, weight, mode):
        context.set_auto_parallel_context(parallel_mode=mode)
        try:
            with pytest.raises(RuntimeError, match=rf"must be 'stand_alone' or 'data_parallel', but it is '{mode}'"):
                AdamOffload(weight)
        finally:
            context.reset_auto_parallel_context()
