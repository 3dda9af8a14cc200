# SPDX-License-Identifier: Apache-2.0

"""Train a GAN on scanned digits with two optimizers in one training cell, and resume it with the same bits.

A generator draws digits from noise, and a discriminator tells them from real scans. Each has an `AdamOffload` of its
own. The training cell holds both nets and both optimizers, so one checkpoint has everything, and all names are
distinct. The program trains, saves a checkpoint halfway, and continues from it with new nets and new optimizers: both
trainings end with the same bits. Draws digits of the generator into output/gan.png. Takes about a minute on two cores:

    pip install '.[examples]'
    python examples/gan.py
"""

import sys

import arguments
import matplotlib
import mindspore as ms
import numpy as np
from matplotlib import pyplot
from mindspore import Tensor, nn, ops
from sklearn.datasets import load_digits
from tqdm import tqdm, trange

from mindspore_offload import AdamOffload

PIXELS, NOISE, WIDTH = 64, 16, 256
EPOCHS, BATCH = 100, 64
LEARNING_RATE, BETA1 = 1e-3, 0.5  # a smaller beta1 than usual: the gradients of adversaries change quickly
SHOWN_STEPS = 250


def dense(inputs, outputs, last):
    """Returns a net of three layers with ReLU between them."""
    layers = nn.Dense(inputs, WIDTH), nn.ReLU(), nn.Dense(WIDTH, WIDTH), nn.ReLU(), nn.Dense(WIDTH, outputs)
    return nn.SequentialCell(*layers, last)


class GAN(nn.Cell):
    """A training step of generator and discriminator.

    With the default `auto_prefix=True`, the names of the states begin with that of their optimizer.
    """

    def __init__(self):
        super().__init__()
        self.generator, self.discriminator = dense(NOISE, PIXELS, nn.Sigmoid()), dense(PIXELS, 1, nn.Identity())
        self.generator_optimizer = AdamOffload(self.generator.trainable_params(), LEARNING_RATE, BETA1)
        self.discriminator_optimizer = AdamOffload(self.discriminator.trainable_params(), LEARNING_RATE, BETA1)
        self.generator_gradients = ops.value_and_grad(self.generator_loss, None, self.generator_optimizer.parameters)
        self.discriminator_gradients = ops.value_and_grad(
            self.discriminator_loss, None, self.discriminator_optimizer.parameters
        )

    def generator_loss(self, noise):
        return ops.softplus(-self.discriminator(self.generator(noise))).mean()

    def discriminator_loss(self, noise, real):
        of_generated = ops.softplus(self.discriminator(self.generator(noise))).mean()
        return of_generated + ops.softplus(-self.discriminator(real)).mean()

    def construct(self, noise, real):
        generator_loss, generator_gradients = self.generator_gradients(noise)
        discriminator_loss, discriminator_gradients = self.discriminator_gradients(noise, real)
        updated = self.generator_optimizer(generator_gradients), self.discriminator_optimizer(discriminator_gradients)
        return ops.depend(generator_loss, updated), discriminator_loss


def new_gan(seed):
    ms.set_seed(seed)
    return GAN().set_train()


def train(gan, images, steps, seed):
    """Trains up to step `steps`. The number of a step decides its noise and its batch, so a resume sees the same."""
    for step in trange(int(gan.generator_optimizer.global_step.asnumpy()[0]), steps, leave=False, disable=None):
        random = np.random.default_rng([seed, step])
        noise = random.standard_normal((BATCH, NOISE), np.float32)
        losses = gan(Tensor(noise), Tensor(images[random.integers(len(images), size=BATCH)]))
        if (step + 1) % SHOWN_STEPS == 0 or step + 1 == steps:
            generator, discriminator = (float(loss.asnumpy()) for loss in losses)
            tqdm.write(f"  step {step + 1:5}   loss: generator {generator:.4f}, discriminator {discriminator:.4f}")


def different(one, other):
    """Returns the names of the weights and states that differ in any bit."""
    others = {parameter.name: parameter for parameter in other.get_parameters()}
    return [p.name for p in one.get_parameters() if p.asnumpy().tobytes() != others[p.name].asnumpy().tobytes()]


def draw(generator, images, seed, path):
    noise = Tensor(np.random.default_rng(seed).standard_normal((32, NOISE), np.float32))
    rows = {"real scans": images[:32], "drawn by the generator": generator(noise).asnumpy()}
    figure, both = pyplot.subplots(2, 1, figsize=(8, 3), layout="constrained")
    for axes, (title, digits) in zip(both, rows.items()):
        framed = np.pad(digits.reshape(2, 16, 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)))
        axes.imshow(framed.transpose(0, 2, 1, 3).reshape(20, 160), cmap="gray_r")
        axes.set_title(title)
        axes.axis("off")
    figure.savefig(path, dpi=150)
    print(f"Real and generated digits are in {path}.")


def main():
    parser = arguments.parser(__doc__, EPOCHS)
    arguments.add_steps(parser)
    options = arguments.parse(parser)
    matplotlib.use("Agg")  # no display is needed
    images = (load_digits().data / 16).astype(np.float32)  # (1797, 64); a pixel is 0 to 16
    steps = arguments.steps(options, epoch=len(images) // BATCH)
    checkpoint = str(options.output / "gan.ckpt")

    gan = new_gan(options.seed)
    train(gan, images, steps // 2, options.seed)
    ms.save_checkpoint(gan, checkpoint)
    train(gan, images, steps, options.seed)

    print(f"Again from step {steps // 2}, with new nets and new optimizers:")
    resumed = new_gan(options.seed + 1)
    missing, _ = ms.load_param_into_net(resumed, ms.load_checkpoint(checkpoint), strict_load=True)
    if missing:
        sys.exit(f"{checkpoint} lacks {', '.join(missing)}.")
    train(resumed, images, steps, options.seed)
    draw(gan.generator, images, options.seed, options.output / "gan.png")
    names = different(gan, resumed)
    if names:
        sys.exit(f"The two trainings differ: {', '.join(names)}.")
    print("Both trainings ended with the same bits in all weights and states.")


if __name__ == "__main__":
    main()
