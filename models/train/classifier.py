#!/usr/bin/env python3
"""Trains a small classifier of MedNIST's six kinds of scans, which says whether an edited scan shows the class that was asked for.

    classifier.py DATA OUT [--epochs N] [--seed S]

DATA: the folder of MedNIST's archives (mednist-train-2000.tar, mednist-test-100.tar). OUT: where the weights go (safetensors, about 200 kB).
It sees scans that are shifted, mirrored, blurred, brighter or darker and noisy, so that it looks at shapes: the share of the scans of
mednist-test-100.tar that it names right is printed, plain and with noise of deviation 0.1. One thread takes less than a minute.
"""
import argparse

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from pixels import CLASSES, as_values, scans


class Classifier(nn.Module):
    """Scans [n, 1, 64, 64] from -1 to 1 to logits [n, 6]; 53,000 parameters."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.c, self.d = nn.Conv2d(32, 48, 3, 2, 1), nn.Conv2d(48, 64, 3, 2, 1)
        self.out = nn.Linear(64 * 4 * 4, len(CLASSES))

    def forward(self, x):
        for layer in (self.a, self.b, self.c, self.d):
            x = F.relu(layer(x))
        return self.out(x.flatten(1))


def load(path):
    """The classifier whose weights lie at `path`."""
    net = Classifier()
    net.load_state_dict(load_file(path))
    return net.eval()


def varied(x, generator):
    """Scans shifted by up to 4 pixels, half of them mirrored, half of them blurred, with another contrast and brightness, and with some noise."""
    def uniform(low, high):
        return low + (high - low) * torch.rand(len(x), 1, 1, 1, generator=generator)
    dx, dy = torch.randint(-4, 5, (2,), generator=generator).tolist()
    x = torch.roll(x, (dy, dx), (2, 3))
    x = torch.where(uniform(0, 1) < 0.5, x.flip(3), x)
    n = 2 << int(torch.randint(2, (), generator=generator))
    x = torch.where(uniform(0, 1) < 0.5, F.interpolate(F.avg_pool2d(x, n), scale_factor=n, mode="bilinear"), x)
    return uniform(0.7, 1.2) * x + uniform(-0.3, 0.3) + uniform(0, 0.2) * torch.randn(x.shape, generator=generator)


@torch.no_grad()
def accuracy(net, x, labels):
    return float((torch.cat([net(part).argmax(1) for part in x.split(200)]) == labels).float().mean())


def main():
    p = argparse.ArgumentParser()
    p.add_argument("data"), p.add_argument("out")
    p.add_argument("--epochs", type=int, default=3)
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    (pictures, labels), (test, test_labels) = scans(args.data)
    test = as_values(test)
    net = Classifier()
    steps = args.epochs * (len(pictures) // 64)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    noisy = test + 0.1 * torch.randn(test.shape, generator=generator)
    for epoch in range(args.epochs):
        for batch in torch.randperm(len(pictures), generator=generator).split(64)[: steps // args.epochs]:
            loss = F.cross_entropy(net(varied(as_values(pictures[batch]), generator)), labels[batch])
            optimizer.zero_grad(), loss.backward(), optimizer.step(), schedule.step()
        print(f"epoch {epoch + 1}: {accuracy(net, test, test_labels):.4f} of the scans that were left out", flush=True)
    print(f"with noise: {accuracy(net, noisy, test_labels):.4f}")
    save_file(net.state_dict(), args.out)


if __name__ == "__main__":
    main()
