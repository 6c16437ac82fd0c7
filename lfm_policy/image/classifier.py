"""A small classifier of the images that a flow learns: its last layer but one sees what they show."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lfm_policy.data import saved
from lfm_policy.data.images import Images, ImageSet, to_unit
from lfm_policy.evaluation.files import replacing
from lfm_policy.flow import LFMError, Optimization
from lfm_policy.flow.optimization import Descent
from lfm_policy.flow.random import named_seed
from lfm_policy.flow.source import BatchOrder
from lfm_policy.provenance import versions

FORMAT, TYPE = 1, "image classifier"
SUFFIX, KEY = ".safetensors", "classifier"
GROUPS = 8
TEST_BATCH = 500

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class ClassifierOptions:
    """How a classifier is made.

    Args:
        steps: of training.
        batch_size: images per step.
        learning_rate: its peak; it falls to zero by a cosine.
        weight_decay: of AdamW.
        warmup_steps: linear warm-up, at most half of all steps.
        width: channels after the first of three convolutions; each further one doubles them. A multiple of 8.
        n_features: of the layer before the classes.
    """

    steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 1e-2
    weight_decay: float = 1e-2
    warmup_steps: int = 100
    width: int = 32
    n_features: int = 64

    def check(self) -> None:
        """Raise LFMError with the name of the first impossible setting."""
        self.optimization().check()
        for name in ("steps", "n_features"):
            if getattr(self, name) < 1:
                raise LFMError(f"{name}: {getattr(self, name)} must be at least 1")
        if self.width < 1 or self.width % GROUPS:
            raise LFMError(f"width: {self.width} is not a multiple of {GROUPS}")

    def optimization(self) -> Optimization:
        """As the flow core takes it."""
        return Optimization(
            self.batch_size,
            self.learning_rate,
            beta1=0.9,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            max_grad_norm=1.0,
        )


class ClassifierNetwork(nn.Module):
    """Three convolutions that halve the image, the mean over what is left of it, and a layer of features.

    Normalised by groups of channels, never over a batch: an image's features depend on that image alone, and averaged
    weights need no statistics of their own.
    """

    def __init__(self, channels: int, n_classes: int, width: int, n_features: int) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width]
        blocks = [_halving(*sizes) for sizes in zip(widths, widths[1:], (5, 3, 3), strict=False)]
        self.trunk = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(widths[-1], n_features), nn.SiLU())
        self.classes = nn.Linear(n_features, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """Features (B, n_features) of images x (B, C, H, W) in [-1, 1]."""
        return self.head(self.trunk(x))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, n_classes) of images x (B, C, H, W) in [-1, 1]."""
        return self.classes(self.features(x))


def _halving(channels: int, width: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel, stride=2, padding=kernel // 2)
    return nn.Sequential(convolution, nn.GroupNorm(GROUPS, width), nn.SiLU())


@dataclass(frozen=True)
class Classifier:
    """A trained network (its averaged weights), and what it was trained on.

    `shape` is (C, H, W) of its images, `accuracy` the share of `n_test` held-out ones that it names rightly, `dataset`
    the identity of what it learned from.
    """

    network: ClassifierNetwork
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    accuracy: float
    n_test: int
    dataset: dict[str, Any]
    options: ClassifierOptions
    seed: int

    @torch.inference_mode()
    def predict(self, pixels: Tensor) -> Tensor:
        """Numbers (B,) of the classes of images (B, C, H, W) of uint8."""
        return self.network(to_unit(pixels)).argmax(dim=1)


def train_classifier(
    images: Images,
    options: ClassifierOptions | None = None,
    seed: int = 0,
    on_step: Callable[[int, float], object] = lambda step, loss: None,
) -> Classifier:
    """Train on the labels of `images.train` and measure on `images.test`; `on_step` hears step (from 1) and loss.

    A pure function of images, options and seed, on the CPU. Raises LFMError for images without labels or of one class.
    """
    options = options or ClassifierOptions()
    options.check()
    labels = torch.from_numpy(_labels(images, images.train))
    test_labels = _labels(images, images.test)
    classes = images.train.classes or tuple(map(str, range(1 + max(int(labels.max()), int(test_labels.max())))))
    if len(classes) < 2:
        raise LFMError(f"{images.name}: all images are of one class; a classifier needs two or more")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(named_seed(seed, "classifier"))  # torch's initialisers know only the global generator
        network = ClassifierNetwork(images.shape[0], len(classes), options.width, options.n_features)
    average = deepcopy(network).requires_grad_(False).eval()
    descent = Descent(network, average, options.optimization())
    order = BatchOrder(len(images.train), options.batch_size, named_seed(seed, "classifier"))
    for step in range(options.steps):
        index = order(step)
        loss = cross_entropy(network(_batch(images.train, index)), labels[index])
        descent.step(loss, step, options.steps)
        on_step(step + 1, loss.item())
    accuracy = _accuracy(average, images.test, test_labels)
    return Classifier(average, images.shape, classes, accuracy, len(images.test), images.identity, options, seed)


def save_classifier(classifier: Classifier, path: str | Path) -> None:
    """Write one .safetensors file with the weights and, in its metadata, all else; a crash leaves none or the old one.

    The same classifier makes the same file, so that the file's hash names it.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise LFMError(f"{path}: a classifier's file must end in {SUFFIX}")
    description = {
        "format": FORMAT,
        "type": TYPE,
        "channels": classifier.shape[0],
        "size": classifier.shape[1:],
        "classes": classifier.classes,
        "accuracy": classifier.accuracy,
        "n_test": classifier.n_test,
        "dataset": classifier.dataset,
        "options": asdict(classifier.options),
        "seed": classifier.seed,
        "versions": versions(),
    }
    with replacing(path) as temporary:
        # one entry: safetensors writes several in any order
        save_file(classifier.network.state_dict(), temporary, metadata={KEY: json.dumps(description)})


def load_classifier(path: str | Path) -> Classifier:
    """Read what `save_classifier` wrote; LFMError where the file is missing, damaged or something else."""
    path = Path(path)
    description = _read_description(path)
    try:
        options = ClassifierOptions(**description["options"])
        shape, classes = (description["channels"], *description["size"]), tuple(description["classes"])
        network = ClassifierNetwork(shape[0], len(classes), options.width, options.n_features)
        facts = (description["accuracy"], description["n_test"], description["dataset"], options, description["seed"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise LFMError(f"{path}: describes no classifier ({error}); train one anew") from error
    saved.load_modules(path, {"": network})
    return Classifier(network.requires_grad_(False).eval(), shape, classes, *facts)


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise LFMError(f"{path}: is no file; give a classifier's {SUFFIX} file")
    try:
        with safe_open(path, "pt") as file:
            description = json.loads((file.metadata() or {}).get(KEY, "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise LFMError(f"{path}: cannot be read ({error}); train a classifier anew") from error
    if not isinstance(description, dict) or description.get("type") != TYPE:
        raise LFMError(f"{path}: is no classifier's file; give one that was saved by this package")
    if description.get("format") != FORMAT:
        raise LFMError(f"{path}: format {description.get('format')} is not {FORMAT}, which this version reads")
    return description


def _labels(images: Images, part: ImageSet) -> Labels:
    if part.labels is None:
        raise LFMError(f"{images.name}: images have no labels, which a classifier learns; give another feature network")
    if len(part) == 0:
        raise LFMError(f"{images.name}: no images to train or to test a classifier on; see n_train, n_test")
    return np.array(part.labels)  # a copy: torch warns of arrays that cannot be written, as those of a cache


def _batch(part: ImageSet, index: Tensor) -> Tensor:
    return to_unit(part.pixels[index.numpy()])


@torch.inference_mode()
def _accuracy(network: ClassifierNetwork, part: ImageSet, labels: Labels) -> float:
    pieces = torch.arange(len(part)).split(TEST_BATCH)
    right = [network(_batch(part, index)).argmax(dim=1) == torch.from_numpy(labels)[index] for index in pieces]
    return torch.cat(right).double().mean().item()
