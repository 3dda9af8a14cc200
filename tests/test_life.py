# SPDX-License-Identifier: Apache-2.0

"""Optimizers in a user's program: several at once, frozen parameters, loss scaling, mixed precision, forks."""

import copy
import os

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, ParameterTuple, Tensor, amp, jit, nn, ops
from nets import ManyKinds, assert_same, copy_weights, many_kinds_batches, parameters_of

from mindspore_offload import AdamOffload


def train_step(net, optimizer):
    return nn.TrainOneStepCell(nn.WithLossCell(net, nn.CrossEntropyLoss()), optimizer).set_train()


def two_equal_nets():
    one, other = ManyKinds(), ManyKinds()
    copy_weights(one, other)
    return one, other


class StepWithTwo(nn.Cell):
    """A graph in which each of two optimizers updates one half of the parameters."""

    def __init__(self, net, first, second):
        super().__init__(auto_prefix=False)
        self.loss, self.first, self.second = nn.WithLossCell(net, nn.CrossEntropyLoss()), first, second
        self.split = len(first.parameters)
        self.parameters = ParameterTuple([*first.parameters, *second.parameters])
        self.gradient = ops.GradOperation(get_by_list=True)

    def construct(self, *batch):
        gradients = self.gradient(self.loss, self.parameters)(*batch)
        return self.first(gradients[: self.split]), self.second(gradients[self.split :])


def test_two_optimizers_on_the_halves_of_a_net_are_one(host_kernel):
    whole, halves = two_equal_nets()
    step = train_step(whole, AdamOffload(whole.trainable_params(), host_kernel=host_kernel))
    parameters = halves.trainable_params()
    optimizers = [AdamOffload(half, host_kernel=host_kernel) for half in (parameters[:4], parameters[4:])]
    for optimizer, suffix in zip(optimizers, "ab"):  # names must be unique in a net
        for state in (optimizer.global_step, optimizer.learning_rate, optimizer.beta1_power, optimizer.beta2_power):
            state.name += suffix
    two = StepWithTwo(halves, *optimizers).set_train()
    for batch in many_kinds_batches(3):
        step(*batch)
        two(*batch)
    assert_same(parameters_of(halves), parameters_of(whole))


def test_one_optimizer_in_two_nets(host_kernel):
    """Two graphs that share the net and the optimizer take turns and share the state."""
    one, other = two_equal_nets()
    shared = AdamOffload(one.trainable_params(), host_kernel=host_kernel)
    steps = [train_step(one, shared), train_step(one, shared)]
    expected = train_step(other, AdamOffload(other.trainable_params(), host_kernel=host_kernel))
    for i, batch in enumerate(many_kinds_batches(4)):
        steps[i % 2](*batch)
        expected(*batch)
    assert shared.global_step.asnumpy() == [4]
    assert_same(parameters_of(one), parameters_of(other))


def test_frozen_parameters_stay(host_kernel):
    net = ManyKinds()
    net.embedding.embedding_table.requires_grad = False
    before = parameters_of(net)
    optimizer = AdamOffload(net.trainable_params(), host_kernel=host_kernel)
    step = train_step(net, optimizer)
    for batch in many_kinds_batches(2):
        step(*batch)
    name = net.embedding.embedding_table.name
    assert f"moment1.{name}" not in parameters_of(optimizer)
    after = parameters_of(net)
    np.testing.assert_array_equal(after[name], before[name])
    assert (after["head.weight"] != before["head.weight"]).any()


def one_weight(value=1.0, size=3):
    return Parameter(Tensor(np.full(size, value, np.float32)), name="weight")


def test_graph_and_pynative_mode_take_turns(host_kernel):
    turning, steady = one_weight(), one_weight()
    optimizers = [AdamOffload([weight], 0.1, host_kernel=host_kernel) for weight in (turning, steady)]
    for i in range(4):
        gradient = (Tensor([1.0, -2.0, 0.5 * i], ms.float32),)
        ms.set_context(mode=ms.PYNATIVE_MODE if i % 2 else ms.GRAPH_MODE)
        optimizers[0](gradient)
        ms.set_context(mode=ms.GRAPH_MODE)
        optimizers[1](gradient)
    assert_same({"weight": turning.asnumpy()}, {"weight": steady.asnumpy()})


class AccumulatingStep(nn.Cell):
    """Sums the gradients of two batches before an update, as the training guides of MindSpore do."""

    def __init__(self, optimizer):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.sums = optimizer.parameters.clone(prefix="sum", init="zeros")
        self.count = Parameter(Tensor(0, ms.int32), name="count")
        self.map = ops.HyperMap()

    def construct(self, gradients):
        self.map(ops.assign_add, self.sums, gradients)
        self.count += 1
        if self.count % 2 == 0:
            self.optimizer(self.sums)
            self.map(ops.assign, self.sums, self.map(ops.zeros_like, self.sums))
        return True


def test_gradient_accumulation(host_kernel):
    accumulated, summed = one_weight(), one_weight()
    step = AccumulatingStep(AdamOffload([accumulated], 0.1, host_kernel=host_kernel))
    optimizer = AdamOffload([summed], 0.1, host_kernel=host_kernel)
    for _ in range(2):
        for gradient in ([1.0, 2.0, 3.0], [0.5, -4.0, 1.0]):
            step((Tensor(gradient, ms.float32),))
        optimizer((Tensor([1.5, -2.0, 4.0], ms.float32),))
    assert step.optimizer.global_step.asnumpy() == [2]
    assert_same({"weight": accumulated.asnumpy()}, {"weight": summed.asnumpy()})


def test_fixed_loss_scale_through_model(host_kernel):
    """Compares moments too: Adam divides a missing unscaling out, so it would hardly show in the weights."""
    nets, states = two_equal_nets(), []
    columns = [np.concatenate(column) for column in zip(*([x.asnumpy() for x in b] for b in many_kinds_batches(3)))]
    for net, scale in zip(nets, (1024.0, 1.0)):
        data = ms.dataset.NumpySlicesDataset(tuple(columns), shuffle=False).batch(8)
        optimizer = AdamOffload(net.trainable_params(), loss_scale=scale, host_kernel=host_kernel)
        manager = amp.FixedLossScaleManager(scale, drop_overflow_update=False)
        ms.Model(net, nn.CrossEntropyLoss(), optimizer, loss_scale_manager=manager).train(
            1, data, dataset_sink_mode=False
        )
        states.append(parameters_of(optimizer))
    for name, value in states[0].items():
        np.testing.assert_allclose(value, states[1][name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert np.abs(states[1]["moment1.head.weight"]).max() > 1e-3  # so a factor of 1024 would exceed the tolerance


class SkippingStep(nn.Cell):
    """Dynamic loss scaling: a step whose gradients are not finite is skipped."""

    def __init__(self, optimizer, scaler):
        super().__init__(auto_prefix=False)
        self.optimizer, self.scaler = optimizer, scaler

    @jit
    def construct(self, gradients):
        finite = amp.all_finite(gradients)
        if finite:
            self.optimizer(self.scaler.unscale(gradients))
        self.scaler.adjust(finite)
        return finite


def test_dynamic_loss_scale_skips_a_step(host_kernel):
    weight = one_weight()
    scaler = amp.DynamicLossScaler(1024, 2, 100)
    step = SkippingStep(AdamOffload([weight], 0.1, host_kernel=host_kernel), scaler)
    assert step((Tensor([1.0, 2.0, 3.0], ms.float32),))
    before = parameters_of(step.optimizer)
    assert before["global_step"] == [1]
    assert not step((Tensor([1.0, np.inf, 3.0], ms.float32),))
    for name, value in parameters_of(step.optimizer).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    assert float(scaler.scale_value.asnumpy()) == 512


def test_mixed_precision_o2(host_kernel):
    """O2 computes in float16 with float32 weights. The loss curve is the same as with nn.AdamOffload."""
    losses = []
    for make in (lambda p: AdamOffload(p, host_kernel=host_kernel), nn.AdamOffload):
        ms.set_seed(4)
        net = amp.auto_mixed_precision(nn.SequentialCell(nn.Dense(6, 9), nn.ReLU(), nn.Dense(9, 3)), "O2")
        step = train_step(net, make(net.trainable_params()))
        random = np.random.default_rng(6)
        batches = [(random.standard_normal((8, 6)), random.integers(0, 3, 8)) for _ in range(5)]
        losses.append([float(step(Tensor(x, ms.float32), Tensor(y, ms.int32)).asnumpy()) for x, y in batches])
    assert losses[0][-1] != losses[0][0]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


class SparseLookup(nn.Cell):
    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingLookup(10, 4, target="CPU", sparse=True)

    def construct(self, indices):
        return self.embedding(indices).sum()


def test_row_sparse_gradients_are_refused(host_kernel):
    net = SparseLookup()
    before = parameters_of(net)
    optimizer = AdamOffload(net.trainable_params(), host_kernel=host_kernel)
    with pytest.raises(RuntimeError, match=r"gradient of 'embedding.embedding_table' must be dense.*sparse=False"):
        nn.TrainOneStepCell(net, optimizer)(Tensor([1, 2], ms.int32))
    assert optimizer.global_step.asnumpy() == [0]
    assert_same(parameters_of(net), before)


def test_deepcopy_is_refused_as_by_the_replaced_optimizer():
    for optimizer in (AdamOffload([one_weight()]), nn.AdamOffload([one_weight()])):
        with pytest.raises(TypeError):
            copy.deepcopy(optimizer)
    with pytest.raises(TypeError, match=r"'AdamOffload', the optimizer must not be copied.*make a new optimizer"):
        copy.deepcopy(AdamOffload([one_weight()]))


def test_a_fork_after_the_first_step(host_kernel):
    """Data loaders fork. The parent continues to train, and a child that doesn't train can exit."""
    weight = one_weight(size=100_000)
    optimizer = AdamOffload([weight], 0.1, host_kernel=host_kernel)
    gradient = (Tensor(np.ones(100_000, np.float32)),)
    optimizer(gradient)
    child = os.fork()
    if child == 0:
        os._exit(0 if weight.asnumpy().shape == (100_000,) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    optimizer(gradient)
    np.testing.assert_allclose(weight.asnumpy(), 0.8, rtol=1e-5)
