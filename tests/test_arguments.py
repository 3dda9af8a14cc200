# SPDX-License-Identifier: Apache-2.0

"""Arguments and gradients: accepted ones, refused ones, and the messages of the errors."""

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from mindspore import dtype as mstype
from nets import parameters_of

from mindspore_offload import AdamOffload, AdamWOffload


@pytest.fixture
def parameters():
    return [Parameter(Tensor(np.ones(3, np.float32)), name="weight")]


WRONG = {
    "beta1-int": ({"beta1": 1}, TypeError, "'beta1' must be a float"),
    "beta1-zero": (
        {"beta1": 0.0},
        ValueError,
        "'beta1' must be a float, greater than 0 and less than 1 in float32, but got 0.0",
    ),
    "beta2-one": (
        {"beta2": 1.0},
        ValueError,
        "'beta2' must be a float, greater than 0 and less than 1 in float32, but got 1.0",
    ),
    "beta2-single": ({"beta2": np.float32(0.9)}, TypeError, "'beta2' must be a float"),
    "eps-zero": ({"eps": 0.0}, ValueError, "'eps' must be a float, greater than 0 and finite in float32, but got 0.0"),
    "eps-int": ({"eps": 1}, TypeError, "'eps' must be a float"),
    "use_locking": ({"use_locking": 1}, TypeError, "'use_locking' must be a bool"),
    "use_nesterov": ({"use_nesterov": None}, TypeError, "'use_nesterov' must be a bool"),
    "weight_decay-negative": ({"weight_decay": -0.1}, ValueError, "weight_decay"),
    "weight_decay-text": ({"weight_decay": "0.1"}, TypeError, "'weight_decay' must consist of real .* float"),
    "loss_scale-complex": ({"loss_scale": 2j}, TypeError, "'loss_scale' must consist of real numbers, but got 2j"),
    "loss_scale-zero": ({"loss_scale": 0.0}, ValueError, "loss_scale"),
    "learning_rate-negative": ({"learning_rate": -0.1}, ValueError, "learning_rate"),
    "learning_rate-complex": ({"learning_rate": 1 + 2j}, TypeError, r"'learning_rate' must .* but got \(1\+2j\)"),
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
def test_the_replaced_optimizer_refuses_the_same_arguments(arguments, parameters):
    error = next(case[1] for case in WRONG.values() if case[0] is arguments)
    with pytest.raises(error):
        nn.AdamOffload(parameters, **arguments)


WEIGHT = Parameter(Tensor(np.ones(3, np.float32)), name="grouped")


def group(**settings):
    return {"params": [{"params": [WEIGHT], **settings}]}


# The replaced optimizer takes these, and computes NaN or nothing.
NOT_HELD = {
    "eps-underflows": ({"eps": 1e-50}, "eps", "1e-50"),
    "eps-overflows": ({"eps": 1e39}, "eps", r"1e\+39"),
    "beta1-rounds-to-1": ({"beta1": 0.99999999}, "beta1", "0.99999999"),
    "beta2-underflows": ({"beta2": 1e-40}, "beta2", "1e-40"),
    "loss_scale-overflows": ({"loss_scale": 1e39}, "loss_scale", r"1e\+39"),
    "learning_rate-infinite": ({"learning_rate": float("inf")}, "learning_rate", "inf"),
    "learning_rate-nan": ({"learning_rate": float("nan")}, "learning_rate", "nan"),
    "learning_rate-Tensor": ({"learning_rate": Tensor(-1.0, mstype.float32)}, "learning_rate", "-1.0"),
    "learning_rate-Tensor-of-rates": ({"learning_rate": Tensor([0.1, np.nan], mstype.float32)}, "learning_rate", "nan"),
    "learning_rate-list": ({"learning_rate": [0.1, -0.1]}, "learning_rate", "-0.1"),
    "learning_rate-tuple": ({"learning_rate": (0.1, 1e-46)}, "learning_rate", "1e-46"),
    "learning_rate-generator": ({"learning_rate": (rate for rate in (0.1, 1e39))}, "learning_rate", r"1e\+39"),
    "weight_decay-overflows": ({"weight_decay": 1e39}, "weight_decay", r"1e\+39"),
    "weight_decay-huge-int": ({"weight_decay": 10**39}, "weight_decay", "1000000000"),
    "max_grad_norm-underflows": ({"max_grad_norm": 1e-46}, "max_grad_norm", "1e-46"),
    "group-lr": (group(lr=1e-46), "lr", "1e-46"),
    "group-lr-list": (group(lr=[0.1, float("nan")]), "lr", "nan"),
    "group-weight_decay": (group(weight_decay=1e39), "weight_decay", r"1e\+39"),
}


@pytest.mark.parametrize(("arguments", "name", "value"), NOT_HELD.values(), ids=NOT_HELD)
def test_numbers_that_float32_does_not_hold_are_refused(arguments, name, value, parameters):
    with pytest.raises(ValueError, match=rf"'AdamOffload', the argument '{name}' must .* but got {value}"):
        AdamOffload(**{"params": parameters, **arguments})


# As a YAML file gives them: there, 1e-4 without a dot is text.
TEXTS = {
    "rate": ({"learning_rate": "1e-4"}, "learning_rate", "'1e-4' of type str"),
    "digits": ({"learning_rate": "15"}, "learning_rate", "'15' of type str"),
    "bytes": ({"learning_rate": b"15"}, "learning_rate", "b'15' of type bytes"),
    "list": ({"learning_rate": [0.1, "1e-4"]}, "learning_rate", "'1e-4'|'0.1'"),
    "array": ({"learning_rate": np.array(["15"])}, "learning_rate", "'15' of type str"),
    "loss_scale": ({"loss_scale": "1024"}, "loss_scale", "'1024' of type str"),
    "group-lr": (group(lr="15"), "lr", "'15' of type str"),
    "group-weight_decay": (group(weight_decay="1e-2"), "weight_decay", "'1e-2' of type str"),
}


@pytest.mark.parametrize(("arguments", "name", "value"), TEXTS.values(), ids=TEXTS)
def test_text_is_no_number(arguments, name, value, parameters):
    with pytest.raises(TypeError, match=rf"the argument '{name}' must consist of real numbers, but got ({value})"):
        AdamOffload(**{"params": parameters, **arguments})


@pytest.mark.parametrize("optimizer_class", [AdamOffload, AdamWOffload])
@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ("lr", "write learning_rate"),
        ("betas", "write beta1 and beta2"),
        ("use_offload", "always offloads"),
        ("use_lazy", "have to be dense"),
        ("use_amsgrad", "AMSGrad is not supported"),
    ],
)
def test_keywords_of_other_optimizers_are_explained(keyword, message, optimizer_class, parameters):
    with pytest.raises(
        TypeError, match=f"For '{optimizer_class.__name__}', there is no argument '{keyword}'.*{message}"
    ):
        optimizer_class(parameters, **{keyword: 0.1})


def test_the_decay_of_adam_weight_decay_in_sixth_place_is_explained(parameters):
    with pytest.raises(TypeError, match=r"'use_locking' must be a bool, but got 0.01 .* weight_decay="):
        AdamWOffload(parameters, 1e-3, 0.9, 0.999, 1e-6, 0.01)


@pytest.mark.parametrize("scale", [Tensor(2.0, mstype.float32), Parameter(Tensor([2.0, 2.0]), name="scale")], ids=type)
def test_a_loss_scale_that_is_no_single_parameter_is_refused(scale, parameters):
    with pytest.raises(
        TypeError, match=r"'loss_scale' must be a float, or a Parameter .* but got a (Tensor|Parameter)"
    ):
        AdamOffload(parameters, loss_scale=scale)


class ReturnsNumber(nn.learning_rate_schedule.LearningRateSchedule):
    def construct(self, global_step):
        return 0.5


@pytest.mark.parametrize("grouped", [False, True], ids=["one", "groups"])
def test_a_schedule_may_return_a_number(grouped, parameters):
    rate = ReturnsNumber()
    optimizer = AdamOffload([{"params": parameters, "lr": rate}] if grouped else parameters, rate, weight_decay=rate)
    optimizer((ones(),))
    np.testing.assert_allclose(parameters[0].asnumpy(), 0.5, atol=1e-5)
    np.testing.assert_allclose(optimizer.moment1[0].asnumpy(), 0.15, rtol=1e-6)


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
    "None-among-them": ((ones(), None), TypeError, "'weight1' must be a Tensor, but got None"),
    "number-among-them": ((1.0, ones()), TypeError, "'weight0' must be a Tensor, but got"),
}


@pytest.fixture(scope="module")
def optimizer():
    return AdamOffload([Parameter(ones(), name=f"weight{i}") for i in range(2)])


@pytest.mark.parametrize(("gradients", "error", "message"), BAD_GRADIENTS.values(), ids=BAD_GRADIENTS)
def test_gradients_that_do_not_fit_are_refused(gradients, error, message, optimizer):
    """State and weights stay as they were."""
    before = parameters_of(optimizer)
    with pytest.raises(error, match=message):
        optimizer(gradients)
    for name, value in parameters_of(optimizer).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


CHANGES = {
    "dtype": (
        lambda p: p.set_dtype(mstype.float16),
        r"its shape \(3,\) and its dtype Float32, but got \(3,\) and Float16",
    ),
    "shape": (
        lambda p: p.set_data(Tensor(np.ones((3, 1), np.float32)), slice_shape=True),
        r"its shape \(3,\) and its dtype Float32, but got \(3, 1\)",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_parameter_whose_dtype_or_shape_changes_later_is_refused(change, message):
    parameters = [Parameter(Tensor(np.ones(3, np.float32)), name=name) for name in ("first", "second")]
    optimizer = AdamOffload(parameters)
    change(parameters[1])
    with pytest.raises(TypeError, match=f"the parameter 'second' must keep {message}"):
        optimizer((ones(), Tensor(np.ones(parameters[1].shape, np.float32))))
    np.testing.assert_array_equal(optimizer.moment1[0].asnumpy(), 0)
    assert optimizer.global_step.asnumpy() == 0


@pytest.mark.parametrize("grouped", [False, True], ids=["one", "groups"])
def test_a_weight_decay_replaced_before_the_first_step_is_used(grouped, parameters):
    """The replaced optimizer uses it too. After a gradient of 0, the first moment is a tenth of decay times weight."""
    optimizer = AdamOffload([{"params": parameters, "weight_decay": 0.1}] if grouped else parameters, weight_decay=0.1)
    new = Tensor(0.5, mstype.float32)
    optimizer.weight_decay = (new,) if grouped else new
    optimizer((Tensor(np.zeros(3, np.float32)),))
    np.testing.assert_allclose(optimizer.moment1[0].asnumpy(), 0.05, rtol=1e-6)
