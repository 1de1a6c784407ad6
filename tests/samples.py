"What the tests of several chapters draw on: random logits, softmax in numpy, and a tiny data set."
import numpy as np
import torch
from torch import Generator

from noisy_course.data import Dataset
from noisy_course.models import MLP, initialise

def np_softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)

def sample(shape, C, seed, scale=3.):
    "Logits in float64, and labels."
    g = Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, C, dtype=torch.float64, generator=g),
            torch.randint(C, shape, generator=g))

def toy(n=80, C=4):
    "Grey squares, a class a shade."
    g = Generator().manual_seed(0)
    draw = (lambda y: 60 * y.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).to(torch.uint8)
            + torch.randint(40, (len(y), 1, 4, 4), generator=g, dtype=torch.uint8))
    y, y_test = torch.arange(n) % C, torch.arange(40) % C
    return Dataset("toy", draw(y), y, draw(y_test), y_test, tuple("abcd"))

def network(g): return initialise(MLP(4, 16, 0., inputs=16), g)
