# SPDX-License-Identifier: Apache-2.0

"""Training of whole nets, with the loss in the same graph, compared with the optimizers that are replaced."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from mindspore.dataset import NumpySlicesDataset
from nets import ManyKinds, assert_same, copy_weights, many_kinds_batches, parameters_of

from mindspore_offload import AdamOffload

UPSTREAM = {"nn.Adam": nn.Adam, "nn.AdamOffload": nn.AdamOffload}


def train(net, optimizer, batches):
    """Trains the net and returns its losses."""
    step = nn.TrainOneStepCell(nn.WithLossCell(net, nn.CrossEntropyLoss()), optimizer).set_train()
    return np.array([step(*batch).asnumpy() for batch in batches])


@pytest.fixture(scope="module")
def initial():
    return ManyKinds()


@pytest.fixture(scope="module")
def upstream(initial):
    """Returns losses and weights of 50 steps with each optimizer that is replaced."""
    results = {}
    for name, optimizer in UPSTREAM.items():
        net = ManyKinds()
        copy_weights(initial, net)
        losses = train(net, optimizer(net.trainable_params(), weight_decay=0.01), many_kinds_batches(50))
        results[name] = losses, parameters_of(net)
    return results


@pytest.fixture
def close_to(upstream):
    """Returns a function that compares losses and weights with a replaced optimizer, to float32 accuracy."""

    def compare(name, losses, weights):
        expected_losses, expected_weights = upstream[name]
        return np.allclose(losses, expected_losses, rtol=1e-6, atol=0) and all(
            np.allclose(weights[key], expected_weights[key], rtol=0, atol=1e-6) for key in expected_weights
        )

    return compare


def test_the_loss_curve_does_not_move(host_kernel, initial, close_to):
    net = ManyKinds()
    copy_weights(initial, net)
    optimizer = AdamOffload(net.trainable_params(), weight_decay=0.01, host_kernel=host_kernel)
    losses = train(net, optimizer, many_kinds_batches(50))
    assert losses[-1] < 0.7 * losses[0]
    for name in UPSTREAM:
        assert close_to(name, losses, parameters_of(net))


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 1.01e-3},
        pytest.param({"weight_decay": 0.011}, marks=pytest.mark.full),
        pytest.param({"eps": 1e-6}, marks=pytest.mark.full),
    ],
    ids=str,
)
def test_a_slightly_different_adam_would_be_noticed(change, initial, close_to):
    net = ManyKinds()
    copy_weights(initial, net)
    optimizer = AdamOffload(net.trainable_params(), **{"weight_decay": 0.01, **change})
    losses = train(net, optimizer, many_kinds_batches(50))
    for name in UPSTREAM:
        assert not close_to(name, losses, parameters_of(net))


class ManyLayers(nn.Cell):
    def __init__(self, layers=50, width=24):
        super().__init__()
        self.layers = nn.SequentialCell([nn.Dense(width, width, has_bias=False) for _ in range(layers)])
        for seed, parameter in enumerate(self.trainable_params()):
            # Orthogonal matrices: many of them pass a signal forward and a gradient back without shrinking it.
            random = np.random.default_rng(seed)
            parameter.set_data(Tensor(np.linalg.qr(random.standard_normal((width, width)))[0].astype(np.float32)))

    def construct(self, x):
        return self.layers(x)


def test_no_weight_is_written_before_it_has_been_read(host_kernel):
    """Training in one graph ends in the same bits as with gradients and update in two graphs.

    In one graph, the update of a late layer could run while earlier layers still need its weights for their gradients.
    In two graphs, this cannot happen.
    """
    data, label = (Tensor(np.random.default_rng(seed).standard_normal((4, 24)), ms.float32) for seed in (1, 2))
    loss = nn.MSELoss()
    together, apart = ManyLayers(), ManyLayers()
    step = nn.TrainOneStepCell(
        nn.WithLossCell(together, loss), AdamOffload(together.trainable_params(), 1e-2, host_kernel=host_kernel)
    )
    optimizer = AdamOffload(apart.trainable_params(), 1e-2, host_kernel=host_kernel)
    gradients = Gradients(nn.WithLossCell(apart, loss), optimizer.parameters)
    for _ in range(5):
        step(data, label)
        optimizer(gradients(data, label))
    assert_same(parameters_of(together), parameters_of(apart))


class Gradients(nn.Cell):
    def __init__(self, net, parameters):
        super().__init__(auto_prefix=False)
        self.net, self.parameters = net, parameters
        self.gradient = ops.GradOperation(get_by_list=True)

    def construct(self, *inputs):
        return self.gradient(self.net, self.parameters)(*inputs)


def test_model_train_on_a_dataset(host_kernel, initial):
    """`Model.train` takes the same steps as a loop over the batches."""
    batches = list(many_kinds_batches(8))
    columns = [np.concatenate([batch[i].asnumpy() for batch in batches]) for i in (0, 1)]
    dataset = NumpySlicesDataset(tuple(columns), shuffle=False).batch(8)
    through_model, through_loop = ManyKinds(), ManyKinds()
    for net in (through_model, through_loop):
        copy_weights(initial, net)

    optimizer = AdamOffload(through_model.trainable_params(), host_kernel=host_kernel)
    ms.Model(through_model, nn.CrossEntropyLoss(), optimizer).train(2, dataset, dataset_sink_mode=False)
    assert optimizer.global_step.asnumpy() == [16]

    train(through_loop, AdamOffload(through_loop.trainable_params(), host_kernel=host_kernel), batches * 2)
    assert_same(parameters_of(through_model), parameters_of(through_loop))
