# SPDX-License-Identifier: Apache-2.0

"""Parameters that are not what the net trains: frozen ones in the optimizer's list, and replaced ones."""

import _thread
import copy

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from mindspore_offload import AdamOffload
from mindspore_offload.errors import warn

X, Y = Tensor(np.ones((2, 3), np.float32)), Tensor(np.ones((2, 1), np.float32))


def training_cell(net, optimizer):
    return nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimizer)


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def test_a_replaced_parameter_is_refused(mode):
    ms.set_context(mode=mode)
    net = nn.SequentialCell(nn.Dense(3, 2), nn.Dense(2, 1))
    optimizer = AdamOffload(net.trainable_params())
    net[0].weight = Parameter(Tensor(np.ones((2, 3), np.float32)), name="0.weight")
    before = [parameter.asnumpy().copy() for parameter in optimizer.get_parameters()]
    with pytest.raises(ValueError, match=r"'0.weight' must be that of the net, .*make the optimizer after the last"):
        training_cell(net, optimizer)(X, Y)
    ms.set_context(mode=ms.GRAPH_MODE)
    after = [parameter.asnumpy() for parameter in optimizer.get_parameters()]  # MindSpore has changed some names
    assert all(map(np.array_equal, after, before))


class Distillation(nn.Cell):
    """A teacher whose parameters have the names of the student's, and would be trainable."""

    def __init__(self, student, teacher):
        super().__init__(auto_prefix=False)
        self.student, self.teacher, self.loss = student, teacher, nn.MSELoss()

    def construct(self, x):
        return self.loss(self.student(x), self.teacher(x))


def test_other_parameters_of_the_same_names_are_no_replacement():
    student = nn.Dense(3, 1)
    teacher = copy.deepcopy(student)
    teacher.weight.set_data(Tensor(np.ones((1, 3), np.float32)))
    optimizer = AdamOffload(student.trainable_params())
    before = student.weight.asnumpy().copy()
    nn.TrainOneStepCell(Distillation(student, teacher), optimizer)(X)
    assert (student.weight.asnumpy() != before).all()
    assert (teacher.weight.asnumpy() == 1).all()


def frozen_net():
    net = nn.SequentialCell(nn.Dense(3, 2), nn.Dense(2, 1))
    net[0].weight.requires_grad = net[0].bias.requires_grad = False
    return net


def test_a_frozen_parameter_that_would_decay_is_refused():
    with pytest.raises(ValueError, match=r"'0.weight' must not be frozen .* net.trainable_params\(\)"):
        AdamOffload(list(frozen_net().get_parameters()), weight_decay=0.1)


def test_a_frozen_parameter_without_decay_is_warned_of_once():
    """At the line of the user."""
    net = frozen_net()
    groups = [{"params": list(net[0].get_parameters())}, {"params": net.trainable_params(), "weight_decay": 0.1}]
    with pytest.warns(UserWarning, match=r"2 of the parameters are frozen .*, such as '0.weight', but each") as warned:
        AdamOffload(groups)
    assert [warning.filename for warning in warned] == [__file__]


def warn_in_a_thread(message):
    """Returns after the thread has warned. Unlike a thread of `threading`, it has no frame below the function."""
    done = _thread.allocate_lock()
    names = {"__name__": "mindspore_offload.thread", "warn": warn, "done": done}
    exec("def run(message):\n    warn(message)\n    done.release()", names)
    done.acquire()
    _thread.start_new_thread(names["run"], (message,))
    assert done.acquire(timeout=10)


def test_a_warning_without_a_line_of_the_user_is_given_too():
    """In the threads in which MindSpore compiles, all frames may be ours."""
    with pytest.warns(UserWarning, match="from a thread"):
        warn_in_a_thread("from a thread")
