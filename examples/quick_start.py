# SPDX-License-Identifier: Apache-2.0

"""Train a small net on scanned digits: one net, one optimizer, nothing compared. Takes ten seconds.

pip install '.[examples]'
python examples/quick_start.py
"""

import mindspore as ms
from mindspore import nn
from mindspore.dataset import NumpySlicesDataset
from sklearn.datasets import load_digits

from mindspore_offload import AdamWOffload

ms.set_context(mode=ms.GRAPH_MODE)
images, labels = load_digits(return_X_y=True)  # 1,797 scans of 64 pixels, each 0 to 16
images, labels = (images / 16).astype("float32"), labels.astype("int32")
training = NumpySlicesDataset((images[:1500], labels[:1500])).batch(30)
test = NumpySlicesDataset((images[1500:], labels[1500:])).batch(297)

net = nn.SequentialCell(nn.Dense(64, 128, activation="relu"), nn.Dense(128, 10))
optimizer = AdamWOffload(net.trainable_params(), learning_rate=3e-3)
model = ms.Model(net, nn.CrossEntropyLoss(), optimizer, metrics={"accuracy"})
model.train(10, training, callbacks=ms.train.LossMonitor(training.get_dataset_size()))
print(f"test accuracy {model.eval(test)['accuracy']:.1%}, moments in host memory: {optimizer.moment1[0].name}, ...")
