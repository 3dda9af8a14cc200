# SPDX-License-Identifier: Apache-2.0

"""The trainings, by name.

The keys of a case, with their defaults:
    net: The class in `cells`. options ({}): Its arguments.
    optimizer ({}): The arguments of `trainings.new_optimizer`.
    interface ("context"): Or "AutoParallel", which sets the mode only while MindSpore compiles.
    context ({}): Settings of `set_auto_parallel_context`. The mode is semi_auto_parallel unless they have another one.
    stages (1): The number of pipeline stages.
    micro (None): "pipeline" or "accumulation".
    count (2): The number of micro batches.
    cell (None): The kind of training cell, see `training_cells`. None: the usual one.
    overflow (None): The step whose gradients are not finite. The training cell skips it.
    recompute (False): The backward pass computes the net again.
    two_optimizers (False): Each of two optimizers updates a part of the weights.
    delayed (False): Parameters get their values after compilation.
    steps (None): The number of steps, if it is not `trainings.STEPS`.
    ranks (None): The only number of ranks that it runs with. With more, MindSpore dies of AllReduces, see `cells`.
    measured (False): Only the memory of the states is measured, before and after a step.
    is_compiled_only (False): The step is compiled and not run, see `COMPILED`.
    report (False): The result has a `placement_report`.
    resume (None): The last steps are those of a new net and optimizer, which load a checkpoint: "slices", a rank's own,
        after compilation; or "whole", that of one process, before.
"""

LAYERS, HALF, MIXED, DATA, DEEP, STAGES = (
    {"net": "Layers"},
    {"net": "Layers", "options": {"half": True}},
    {"net": "Mixed"},
    {"net": "DataParallel"},
    {"net": "DataParallel", "options": {"hidden": 64}},
    {"net": "Stages", "stages": 2, "micro": "pipeline", "ranks": 2},
)
LAZY = STAGES | {"net": "LazyStages"}
DECAY = {"weight_decay": 0.1}
DECOUPLED = {"cls": "AdamWOffload", "weight_decay": 0.1, "groups": True}
INTERLEAVED = {"pipeline_config": {"pipeline_interleave": True, "pipeline_scheduler": "1f1b"}}
SKIPPED = {"overflow": 2}
OPTIMIZER_PARALLEL = {
    "enable_parallel_optimizer": True,
    "parallel_optimizer_config": {"parallel_optimizer_threshold": 0},
}
AUTOMATIC = {"parallel_mode": "auto_parallel", "search_mode": "sharding_propagation"}
SCALED, RATES = {"loss_scale": "parameter"}, {"learning_rate": [0.02, 0.01, 0.005, 0.005, 0.001]}
NEW = {"interface": "AutoParallel"}

CUT = {
    "plain": LAYERS | {"report": True},
    "ratio": LAYERS | {"optimizer": {"offload_ratio": 0.5}},
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
    "loss-scale": LAYERS | {"ranks": 2, "cell": "loss-scale"} | SKIPPED,
    "accumulation-loss-scale": LAYERS
    | {"ranks": 2, "micro": "accumulation", "cell": "micro-batches-loss-scale"}
    | SKIPPED,
    "optimizer-parallel": DATA | {"context": OPTIMIZER_PARALLEL},
    "optimizer-parallel-small": DEEP | {"context": OPTIMIZER_PARALLEL, "optimizer": {"min_offload_size": 2000}},
    "optimizer-parallel-ratio": DEEP | {"context": OPTIMIZER_PARALLEL, "optimizer": {"offload_ratio": 0.5}},
    "optimizer-parallel-decay": LAYERS | {"ranks": 4, "context": OPTIMIZER_PARALLEL, "optimizer": DECAY},
    "optimizer-parallel-float16": HALF | {"ranks": 4, "context": OPTIMIZER_PARALLEL, "optimizer": DECOUPLED},
}
PIPELINES = {
    "pipeline": STAGES | {"report": True},
    "pipeline-AutoParallel": STAGES | NEW,
    "pipeline-decay-nesterov": STAGES | {"optimizer": DECAY | {"use_nesterov": True}},
    "pipeline-AdamW-groups": STAGES | {"optimizer": DECOUPLED},
    "pipeline-scaled": STAGES | {"optimizer": SCALED},
    "pipeline-rates": STAGES | {"optimizer": RATES},
    "pipeline-recompute": STAGES | {"recompute": True},
    "pipeline-small": STAGES | {"optimizer": {"min_offload_size": 300}},
    "pipeline-float16-AdamW": STAGES | {"options": {"half": True}, "optimizer": DECOUPLED},
    "pipeline-optimizer-parallel": STAGES | {"ranks": 4, "context": OPTIMIZER_PARALLEL},
    "pipeline-4-micro-batches": STAGES | {"count": 4},
    "pipeline-4-stages": STAGES | {"ranks": 4, "stages": 4, "count": 4, "options": {"places": (0, 1, 2, 3)}},
    "pipeline-MindFormers": STAGES | {"cell": "MindFormers"} | SKIPPED,
    "pipeline-functional": STAGES | {"cell": "functional"},
    "pipeline-tied": STAGES | {"options": {"tied": True}},
}
CASES = CUT | PIPELINES

# The same trainings with nn.Adam, to compare the collectives.
REPLACED = {
    f"replaced-{name}": {"ranks": 2}
    | CASES[name]
    | {"optimizer": CASES[name].get("optimizer", {}) | {"cls": "nn.Adam"}}
    for name in (
        *("plain", "optimizer-parallel", "optimizer-parallel-decay", "accumulation", "loss-scale"),
        *("accumulation-loss-scale", "pipeline", "pipeline-AutoParallel", "pipeline-optimizer-parallel"),
        *(
            "pipeline-4-micro-batches",
            "pipeline-4-stages",
        ),
        *("pipeline-MindFormers", "pipeline-functional"),
    )
}
MEASURED = {
    f"{'optimizer-parallel' if context else 'whole'}-measured": DATA
    | {"ranks": 2, "measured": True, "options": {"hidden": 2**18}, "context": context}
    for context in ({}, OPTIMIZER_PARALLEL)
}
# Training steps that MindSpore's GPU runtime can't run, because a part of the net is a graph of its own. They are
# compiled as far as MindSpore's passes go. The optimizers of a pair update as many parameters.
COMPILED = {
    f"{prefix}{name}": LAZY | case | {"is_compiled_only": True} | optimizer
    for prefix, optimizer in {"": {}, "replaced-": {"optimizer": {"cls": "nn.Adam"}}}.items()
    for name, case in {
        "pipeline-lazy": {},
        "pipeline-interleaved": {"count": 4, "options": {"places": (0, 1, 0, 1)}, "context": INTERLEAVED},
    }.items()
}
REFUSED = {
    f"{name}-{argument}": case | {"ranks": 2, "optimizer": {argument: value}}
    for argument, value in {"max_grad_norm": 1.0, "skip_nonfinite": True, "shard_states": True}.items()
    for name, case in {"AutoParallel": LAYERS | NEW, "pipeline": STAGES, "automatic": CUT["automatic"]}.items()
}
ALL = CASES | REPLACED | COMPILED | MEASURED | REFUSED
