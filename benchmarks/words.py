# SPDX-License-Identifier: Apache-2.0

"""The words of the pictures, in English and in Chinese."""

# ruff: noqa: RUF001, the punctuation of Chinese

_TITLES = {
    "large": (
        "{tensors} large tensors, {millions:.0f} million parameters",
        "{tensors}个大Tensor，共{ten_thousands:.0f}万个参数",
    ),
    "mid": (
        "BERT-base's {tensors} tensors, {millions:.0f} million parameters",
        "BERT-base的{tensors}个Tensor，共{ten_thousands:.0f}万个参数",
    ),
    "small": (
        "{tensors} small tensors, {millions:.1f} million parameters",
        "{tensors}个小Tensor，共{ten_thousands:.0f}万个参数",
    ),
    "single": ("{tensors} large tensors, one thread", "{tensors}个大Tensor，单线程"),
    "dense": ("A training step of 20 x Dense(4096)", "20 x Dense(4096)训练一步"),
    "bert": ("A training step of BERT-base", "BERT-base训练一步"),
    "resnet": ("A training step of ResNet-50", "ResNet-50训练一步"),
}
_CHINESE = {
    "Adam on this CPU: shorter is faster": "Adam在这个CPU上：越短越快",
    "{threads} threads, MindSpore {MindSpore}, CPU device": "{threads}个线程，MindSpore {MindSpore}，CPU设备",
    "Bar: median. Line: middle half of the steps.": "条形：中位数；细线：中间一半的步。",
    "ns: of one parameter. x: relative to AdamOffload.": "ns：每个参数。x：相对于AdamOffload。",
    "this package": "本软件包",
    "others": "其他",
    "Memory for training 7 billion 16-bit weights": "训练70亿个16位权重所需的内存",
    "Computed: weights, gradients, states; no activations": "由计算得出：权重、梯度和Adam状态，不含激活值",
    ", ": "，",
    "float16 only": "仅支持float16",
    "Adam on the device": "Adam在设备上",
    "float32 states": "float32状态",
    "16-bit moments": "16位的矩",
    "on the device": "设备上",
    "on the host": "主机上",
    "bare loop": "纯C++循环",
    "decay and loss scale": "权重衰减和损失缩放",
    "clipping": "裁剪",
    "called from Python": "从Python调用",
    "no master": "无主权重",
    "bfloat16 moments": "bfloat16的矩",
    "uint8 moments": "uint8的矩",
    "forward and backward": "前向和反向",
    # Arguments and names of code stay as they are.
    "fused": "fused",
    "assign": "assign",
    "stock": "stock",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "torch Adam": "torch Adam",
    "DeepSpeedCPUAdam": "DeepSpeedCPUAdam",
    "FusedCastAdamWeightDecay": "FusedCastAdamWeightDecay",
    "ops.clip_by_global_norm": "ops.clip_by_global_norm",
    "nn.Adam": "nn.Adam",
    "nn.AdamOffload": "nn.AdamOffload",
    "AdamOffload": "AdamOffload",
    "AdamWOffload": "AdamWOffload",
}


def words(language):
    """Returns a function that gives a text in `language`, "en" or "zh". An unknown text is an error in Chinese."""

    def say(text):
        if text in _TITLES:
            return _TITLES[text][language == "zh"]
        return _CHINESE[text] if language == "zh" else text

    return say
