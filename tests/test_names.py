# SPDX-License-Identifier: Apache-2.0

"""Names of parameters: those of attributes and states are refused, and all others train."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from mindspore_offload import AdamOffload

SETTINGS = {
    "native": {},
    "everything": {"writeback": "assign", "weight_decay": 0.1, "max_grad_norm": 1e9, "skip_nonfinite": True},
    "stock": {"host_kernel": "stock", "writeback": "assign", "skip_nonfinite": True},
}
STATES = {"global_step", "learning_rate", "beta1_power", "beta2_power", "moment1.other", "moment2.other"}


def parameters_named(names, shape=()):
    return [Parameter(Tensor(np.ones(shape, np.float32)), name=name) for name in names]


def names_in(cell):
    """Returns the names of everything in a cell and in its cells."""
    names = {name for name in (*vars(cell), *cell._cells, *cell._params) if not name.startswith("__")}
    children = [value for value in (*cell._cells.values(), *vars(cell).values()) if isinstance(value, nn.Cell)]
    return names.union(*map(names_in, children))


def is_refused(name, settings):
    """Checks a refusal, and that the parameter is then as before."""
    parameters = parameters_named([name, "other"])
    try:
        AdamOffload(parameters, 0.1, **settings)
    except ValueError as error:
        text = str(error)
    else:
        return False
    assert f"'AdamOffload', the parameter '{name}' must not have the name of an attribute or a state" in text
    assert parameters[0].asnumpy() == 1
    return True


@pytest.mark.parametrize(
    "settings",
    [pytest.param(s, id=name, marks=pytest.mark.full if name == "stock" else ()) for name, s in SETTINGS.items()],
)
def test_a_parameter_named_as_anything_inside_trains_or_is_refused(settings):
    reference = parameters_named(["weight"])
    optimizer = AdamOffload(reference, 0.1, **settings)
    names = (names_in(optimizer) | STATES) - {"weight", "moment1.weight", "moment2.weight"}
    refused = {name for name in names if is_refused(name, settings)}
    assert {"eps", "beta1", "weight_decay", "params", *STATES} <= refused
    assert {"one", "constants"} <= names - refused

    parameters = parameters_named(sorted(names - refused))
    gradient = Tensor(np.ones((), np.float32))
    both = optimizer, AdamOffload(parameters, 0.1, **settings)
    for _ in range(2):
        for each in both:
            each((gradient,) * len(each.parameters))
    for parameter in parameters:
        assert parameter.asnumpy() == reference[0].asnumpy() != 1, parameter.name


@pytest.mark.parametrize("name", ["learning_rate", "learning_rate_group_1"])
def test_names_of_the_rates_of_groups_are_refused(name):
    parameters = parameters_named([name, "other"])
    groups = [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.1}]
    with pytest.raises(ValueError, match=f"the parameter '{name}' must not have the name of"):
        AdamOffload(groups, 0.2)


def test_parameters_keep_their_order():
    """Checkpoints list them in it, as those of the replaced optimizer."""
    names = [parameter.name for parameter in AdamOffload(parameters_named("ab")).get_parameters()]
    moments = [f"moment{i}.{name}" for i in (1, 2) for name in "ab"]
    assert names == ["global_step", "learning_rate", "a", "b", "beta1_power", "beta2_power", *moments]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_state_dict_has_each_parameter_once_by_its_name(settings):
    parameters = [*parameters_named(["float32", "small"]), Parameter(Tensor(np.ones(9), ms.float16), name="half")]
    optimizer = AdamOffload(parameters, min_offload_size=2, **settings)
    assert optimizer.state_dict().keys() == optimizer.parameters_dict().keys()


def test_a_subclass_may_have_parameters_in_a_tuple():
    class Averaging(AdamOffload):
        def __init__(self, parameters):
            super().__init__(parameters)
            self.averages = self.parameters.clone(prefix="average")

    parameters = parameters_named(["weight"])
    names = [each.name for each in Averaging(parameters).get_parameters()]
    assert names == [*(each.name for each in AdamOffload(parameters).get_parameters()), "average.weight"]
