"""What the optimizer accepts and refuses, and how it says so."""

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from mindspore import dtype as mstype
from nets import parameters_of

from mindspore_offload import AdamOffload


@pytest.fixture
def parameters():
    return [Parameter(Tensor(np.ones(3, np.float32)), name="weight")]


WRONG = {
    "beta1-int": ({"beta1": 1}, TypeError, "'beta1' must be a float"),
    "beta1-zero": ({"beta1": 0.0}, ValueError, r"'beta1' must be in the range \(0.0, 1.0\), but got 0.0"),
    "beta2-one": ({"beta2": 1.0}, ValueError, r"'beta2' must be in the range \(0.0, 1.0\), but got 1.0"),
    "beta2-single": ({"beta2": np.float32(0.9)}, TypeError, "'beta2' must be a float"),
    "eps-zero": ({"eps": 0.0}, ValueError, "'eps' must be in the range"),
    "eps-int": ({"eps": 1}, TypeError, "'eps' must be a float"),
    "use_locking": ({"use_locking": 1}, TypeError, "'use_locking' must be a bool"),
    "use_nesterov": ({"use_nesterov": None}, TypeError, "'use_nesterov' must be a bool"),
    "weight_decay-negative": ({"weight_decay": -0.1}, ValueError, "weight_decay"),
    "weight_decay-text": ({"weight_decay": "0.1"}, TypeError, "Weight_decay"),
    "loss_scale-zero": ({"loss_scale": 0.0}, ValueError, "loss_scale"),
    "learning_rate-negative": ({"learning_rate": -0.1}, ValueError, "learning rate"),
    "learning_rate-none": ({"learning_rate": None}, TypeError, "learning_rate"),
    "host_kernel": ({"host_kernel": "gpu"}, ValueError, r"'host_kernel' must be one of \['auto', 'native', 'stock'\]"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_refused(arguments, error, message, parameters):
    with pytest.raises(error, match=message):
        AdamOffload(parameters, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [case[0] for name, case in WRONG.items() if name != "host_kernel"],
    ids=[name for name in WRONG if name != "host_kernel"],
)
def test_the_replaced_optimizer_refuses_them_too(arguments, parameters):
    error = next(case[1] for case in WRONG.values() if case[0] is arguments)
    with pytest.raises(error):
        nn.AdamOffload(parameters, **arguments)


def test_signature_is_that_of_the_replaced_optimizer(parameters):
    optimizer = AdamOffload(parameters, 0.1, 0.8, 0.99, 1e-6, False, True, 0.01, 2.0)
    assert isinstance(optimizer, nn.Optimizer)
    assert optimizer.params is optimizer.parameters
    assert [float(value.asnumpy()) for value in (optimizer.beta1, optimizer.beta2, optimizer.eps)] == pytest.approx(
        [0.8, 0.99, 1e-6]
    )
    assert float(optimizer.weight_decay.asnumpy()) == pytest.approx(0.02)  # stored times loss_scale
    assert (optimizer.loss_scale, float(optimizer.reciprocal_scale.asnumpy())) == (2.0, 0.5)


def test_host_kernel_is_keyword_only(parameters):
    with pytest.raises(TypeError):
        AdamOffload(parameters, 1e-3, 0.9, 0.999, 1e-8, False, False, 0.0, 1.0, "stock")


def ones(shape=(3,), dtype=np.float32):
    return Tensor(np.ones(shape, dtype))


BAD_GRADIENTS = {
    "longer": ((ones(4), ones()), ValueError, r"'weight0' must have the shape .*, \(3,\), but got \(4,\)"),
    "more-dimensions": ((ones(), ones((3, 1))), ValueError, r"'weight1' must have the shape .* but got \(3, 1\)"),
    "integer": ((ones(), ones(dtype=np.int32)), TypeError, "'weight1' must be of dtype float32, .* but got Int32"),
    "too-few": ((ones(),), RuntimeError, "one gradient for each of the 2 parameters, in their order, but got 1"),
    "too-many": ((ones(), ones(), ones()), RuntimeError, "one gradient for each of the 2 parameters.* but got 3"),
    "none": ((), RuntimeError, "one gradient for each of the 2 parameters.* but got 0"),
    "list": ([ones(), ones()], RuntimeError, "'gradients' must be a tuple"),
}


@pytest.mark.parametrize(("gradients", "error", "message"), BAD_GRADIENTS.values(), ids=BAD_GRADIENTS)
def test_gradients_that_do_not_fit_are_refused(gradients, error, message, host_kernel):
    """State and weights are then as before."""
    parameters = [Parameter(ones(), name=f"weight{i}") for i in range(2)]
    optimizer = AdamOffload(parameters, host_kernel=host_kernel)
    before = parameters_of(optimizer)
    with pytest.raises(error, match=message):
        optimizer(gradients)
    for name, value in parameters_of(optimizer).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


CHANGES = {
    "dtype": (lambda p: p.set_dtype(mstype.float16), "its dtype Float32, but got Float16"),
    "shape": (lambda p: p.set_data(Tensor(np.ones((3, 1), np.float32)), slice_shape=True), r"its shape \(3,\), but"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_parameter_that_changes_after_the_optimizer_is_made_is_refused(change, message, host_kernel):
    parameters = [Parameter(Tensor(np.ones(3, np.float32)), name=name) for name in ("first", "second")]
    optimizer = AdamOffload(parameters, host_kernel=host_kernel)
    change(parameters[1])
    with pytest.raises(TypeError, match=f"the parameter 'second' must keep {message}"):
        optimizer((ones(), Tensor(np.ones(parameters[1].shape, np.float32))))
    np.testing.assert_array_equal(optimizer.moment1[0].asnumpy(), 0)
    assert optimizer.global_step.asnumpy() == 0


@pytest.mark.parametrize("grouped", [False, True], ids=["one", "groups"])
def test_a_weight_decay_that_is_replaced_before_the_first_step_counts(grouped, parameters):
    """As in the replaced optimizer. The first moment after a gradient of 0 is a tenth of decay times weight."""
    optimizer = AdamOffload([{"params": parameters, "weight_decay": 0.1}] if grouped else parameters, weight_decay=0.1)
    new = Tensor(0.5, mstype.float32)
    optimizer.weight_decay = (new,) if grouped else new
    optimizer((Tensor(np.zeros(3, np.float32)),))
    np.testing.assert_allclose(optimizer.moment1[0].asnumpy(), 0.05, rtol=1e-6)


def test_gradients_of_16_bits_are_taken(host_kernel):
    weight = Parameter(ones(), name="weight")
    optimizer = AdamOffload([weight], learning_rate=0.5, host_kernel=host_kernel)
    optimizer((Tensor(np.array([1, -2, 0], np.float16)),))
    np.testing.assert_allclose(weight.asnumpy(), [0.5, 1.5, 1.0], rtol=1e-6)
