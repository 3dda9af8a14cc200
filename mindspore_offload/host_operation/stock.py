"""The stock host operation: MindSpore's own AdamNoUpdateParam, one launch a parameter, and an AssignAdd after it."""

from mindspore import ParameterTuple, Tensor, nn, ops
from mindspore import dtype as mstype
from mindspore.ops import composite as C
from mindspore.ops import functional as F

_update_parameter = C.MultitypeFuncGraph("update_parameter")


class StockUpdate(nn.Cell):
    """See `mindspore_offload.host_operation` for the interface."""

    def __init__(self, bucket, use_locking, use_nesterov, unscale):
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(bucket.parameters)
        self.moment1 = ParameterTuple(bucket.moment1)
        self.moment2 = ParameterTuple(bucket.moment2)
        self.rows, self.decays = bucket.rows, bucket.decays
        self.start, self.stop = bucket.start, bucket.stop
        self.unscale = unscale
        self.adam = ops.AdamNoUpdateParam(use_locking, use_nesterov).set_device("CPU")
        # AdamNoUpdateParam wants to correct the bias itself, but the learning rate that it gets is corrected already.
        self.no_power = Tensor(0.0, mstype.float32)
        self.unstack = ops.Unstack().set_device("CPU")
        self.map_reverse = C.Map(None, True)

    def construct(self, coefficients, gradients):
        rows = ()
        for row in self.unstack(coefficients):
            rows += (self.unstack(row),)
        return self.map_reverse(
            F.partial(_update_parameter, self.adam, self.no_power, rows, self.unscale),
            self.rows,
            self.decays,
            self.parameters,
            self.moment1,
            self.moment2,
            gradients[self.start : self.stop],
        )


@_update_parameter.register(
    "Function", "Tensor", "Tuple", "Bool", "Number", "Bool", "Tensor", "Tensor", "Tensor", "Tensor"
)
def _update(adam, no_power, rows, unscale, row, decay, parameter, moment1, moment2, gradient):
    """The operands of the decay are on the device, so it is computed there, as the documented optimizer does."""
    learning_rate, weight_decay, beta1, beta2, eps, gradient_scale, _ = rows[row]
    if decay:
        gradient = gradient + parameter * weight_decay
    if unscale:
        gradient = gradient * gradient_scale
    if F.shape(parameter) != ():
        delta = adam(moment1, moment2, no_power, no_power, learning_rate, beta1, beta2, eps, gradient)
        return F.depend(True, F.assign_add(parameter, delta))
    # AdamNoUpdateParam refuses tensors without a dimension: it gets one here, and the moments are written back.
    m, v, g = F.reshape(moment1, (1,)), F.reshape(moment2, (1,)), F.reshape(gradient, (1,))
    delta = adam(m, v, no_power, no_power, learning_rate, beta1, beta2, eps, g)
    F.assign(moment1, F.reshape(F.depend(m, delta), ()))
    F.assign(moment2, F.reshape(F.depend(v, delta), ()))
    return F.depend(True, F.assign_add(parameter, F.reshape(delta, ())))
