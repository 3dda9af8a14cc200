# SPDX-License-Identifier: Apache-2.0

"""The trainings, by name.

The keys of a case, with their defaults:
    net: The class in `cells`. options ({}): Its arguments.
    optimizer ({}): The arguments of `trainings.new_optimizer`.
    interface ("context"): Or "AutoParallel", which sets the mode only while MindSpore compiles.
    context ({}): Settings of `set_auto_parallel_context`. The mode is semi_auto_parallel unless they have another one.
    stages (1): The number of pipeline stages.
    micro (None): "pipeline" or "accumulation" of two micro batches.
    recompute (False): The backward pass computes the net again.
    two_optimizers (False): Each of two optimizers updates a part of the weights.
    delayed (False): Parameters get their values after compilation.
    steps (None): The number of steps, if it is not `trainings.STEPS`.
    ranks (None): The only number of ranks that it runs with. With more, MindSpore dies of AllReduces, see `cells`.
    resume (None): The last steps are those of a new net and optimizer, which load a checkpoint: "slices", a rank's own,
        after compilation; or "whole", that of one process, before.
"""

LAYERS, HALF, MIXED, DATA, STAGES = (
    {"net": "Layers"},
    {"net": "Layers", "options": {"half": True}},
    {"net": "Mixed"},
    {"net": "DataParallel"},
    {"net": "Stages", "stages": 2, "micro": "pipeline", "ranks": 2},
)
DECAY = {"weight_decay": 0.1}
DECOUPLED = {"cls": "AdamWOffload", "weight_decay": 0.1, "groups": True}
OPTIMIZER_PARALLEL = {
    "enable_parallel_optimizer": True,
    "parallel_optimizer_config": {"parallel_optimizer_threshold": 0},
}
AUTOMATIC = {"parallel_mode": "auto_parallel", "search_mode": "sharding_propagation"}
SCALED, RATES = {"loss_scale": "parameter"}, {"learning_rate": [0.02, 0.01, 0.005, 0.005, 0.001]}
NEW = {"interface": "AutoParallel"}

CUT = {
    "plain": LAYERS,
    "decay-nesterov": LAYERS | {"ranks": 2, "optimizer": DECAY | {"use_nesterov": True}},
    "AdamW-groups": LAYERS | {"optimizer": DECOUPLED},
    "small": LAYERS | {"optimizer": {"min_offload_size": 700}},
    "float16": HALF | {"optimizer": DECAY | {"groups": True}},
    "float16-AdamW": HALF | {"optimizer": DECOUPLED},
    "bfloat16-moments": LAYERS | {"optimizer": {"moment_dtype": "bfloat16"}},
    "scaled": LAYERS | {"optimizer": SCALED},
    "rates": LAYERS | {"optimizer": RATES},
    "recompute": LAYERS | {"recompute": True},
    "layouts": MIXED | {"optimizer": {"cls": "AdamWOffload", "weight_decay": 0.1}},
    "data-parallel": DATA,
    "two-optimizers": LAYERS | {"two_optimizers": True},
    "automatic": LAYERS | {"context": AUTOMATIC},
    "AutoParallel": LAYERS | NEW,
    "accumulation": LAYERS | {"ranks": 2, "micro": "accumulation"},
    "accumulation-AutoParallel": LAYERS | {"ranks": 2, "micro": "accumulation"} | NEW,
    "delayed": LAYERS | {"delayed": True},
    "resume-slices": HALF | {"optimizer": DECOUPLED, "resume": "slices"},
    "resume-whole": HALF | {"optimizer": DECOUPLED, "resume": "whole"},
    "optimizer-parallel": DATA | {"context": OPTIMIZER_PARALLEL},
    "optimizer-parallel-decay": LAYERS | {"ranks": 4, "context": OPTIMIZER_PARALLEL, "optimizer": DECAY},
    "optimizer-parallel-float16": HALF | {"ranks": 4, "context": OPTIMIZER_PARALLEL, "optimizer": DECOUPLED},
}
PIPELINES = {
    "pipeline": STAGES,
    "pipeline-AutoParallel": STAGES | NEW,
    "pipeline-decay-nesterov": STAGES | {"optimizer": DECAY | {"use_nesterov": True}},
    "pipeline-AdamW-groups": STAGES | {"optimizer": DECOUPLED},
    "pipeline-scaled": STAGES | {"optimizer": SCALED},
    "pipeline-rates": STAGES | {"optimizer": RATES},
    "pipeline-recompute": STAGES | {"recompute": True},
    "pipeline-small": STAGES | {"optimizer": {"min_offload_size": 300}},
    "pipeline-float16-AdamW": STAGES | {"options": {"half": True}, "optimizer": DECOUPLED},
    "pipeline-optimizer-parallel": STAGES | {"ranks": 4, "context": OPTIMIZER_PARALLEL},
    "pipeline-tied": STAGES | {"options": {"tied": True}},
}
CASES = CUT | PIPELINES

# The same trainings with nn.Adam, to compare the collectives.
REPLACED = {
    f"replaced-{name}": {"ranks": 2} | CASES[name] | {"optimizer": {"cls": "nn.Adam"}}
    for name in (
        *("plain", "optimizer-parallel", "optimizer-parallel-decay", "accumulation"),
        *("pipeline", "pipeline-AutoParallel", "pipeline-optimizer-parallel"),
    )
}
REFUSED = {
    f"{name}-{argument}": case | {"ranks": 2, "optimizer": {argument: value}}
    for argument, value in {"max_grad_norm": 1.0, "skip_nonfinite": True, "shard_states": True}.items()
    for name, case in {"AutoParallel": LAYERS | NEW, "pipeline": STAGES, "automatic": CUT["automatic"]}.items()
}
ALL = CASES | REPLACED | REFUSED
