# SPDX-License-Identifier: Apache-2.0

"""ResNet of bottleneck blocks (He and others, "Deep Residual Learning for Image Recognition")."""

from mindspore import nn, ops

EXPANSION = 4  # output channels of a block, for each channel of its 3 x 3 convolution


class ResNet(nn.Cell):
    """ResNet-50 with width 64, blocks (3, 4, 6, 3) and 1000 classes."""

    def __init__(self, width, blocks, classes):
        super().__init__()
        self.stem = nn.SequentialCell(*_convolution(3, width, 7, stride=2), nn.ReLU())
        self.pool = nn.MaxPool2d(3, stride=2, pad_mode="same")
        stages, channels = [], width
        for stage, count in enumerate(blocks):
            for block in range(count):
                stages.append(_Block(channels, width << stage, stride=2 if stage > 0 and block == 0 else 1))
                channels = EXPANSION * (width << stage)
        self.stages = nn.SequentialCell(stages)
        self.output = nn.Dense(channels, classes)

    def construct(self, images):
        values = self.stages(self.pool(self.stem(images)))
        return self.output(values.mean((2, 3)))


class _Block(nn.Cell):
    def __init__(self, channels, width, stride):
        super().__init__()
        self.residual = nn.SequentialCell(
            *_convolution(channels, width, 1),
            nn.ReLU(),
            *_convolution(width, width, 3, stride),
            nn.ReLU(),
            *_convolution(width, EXPANSION * width, 1),
        )
        self.changes_shape = stride != 1 or channels != EXPANSION * width
        if self.changes_shape:
            self.shortcut = nn.SequentialCell(*_convolution(channels, EXPANSION * width, 1, stride))

    def construct(self, values):
        shortcut = self.shortcut(values) if self.changes_shape else values
        return ops.relu(self.residual(values) + shortcut)


def _convolution(channels, width, size, stride=1):
    return nn.Conv2d(channels, width, size, stride=stride, pad_mode="same"), nn.BatchNorm2d(width)
