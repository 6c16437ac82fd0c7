"""Networks that see what images show, named and hashed: what a Fréchet distance between images is measured in."""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lfm_policy.data.images import to_unit
from lfm_policy.evaluation.frechet import frechet_distance, moments, precision_recall
from lfm_policy.flow import LFMError
from lfm_policy.flow.device import check_device
from lfm_policy.image.classifier import SUFFIX, load_classifier

KINDS = f"a classifier ({SUFFIX}), a TorchScript file (.pt, .ts), or the weights pt_inception-2015-12-05-6726825d.pth"
TRIED = (3, 32, 32)  # images on which a network that does not say what it takes is tried
INCEPTION_LAYER = "2048"  # the one of FID, by its width


@dataclass(frozen=True)
class FeatureNetwork:
    """Features of images: what `name` computes from the weights in a file with this SHA-256.

    `shape` is (C, H, W) of the only images that it takes, or None. Networks for colour see grey images thrice.
    """

    name: str
    sha256: str
    dim: int
    device: str
    shape: tuple[int, int, int] | None
    compute: Callable[[Tensor], Any]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Features (B, dim) in float32, on the CPU, of images (B, C, H, W) of uint8; LFMError where they do not fit."""
        features = _features(self, pixels)
        if features.shape[1] != self.dim:
            raise LFMError(f"{self.name}: gives {features.shape[1]} features of these images, {self.dim} of others")
        return features

    def check(self, shape: tuple[int, ...]) -> None:
        """LFMError where the network cannot take images of `shape` (C, H, W)."""
        if self.shape is not None and shape != self.shape:
            raise LFMError(f"{self.name}: is for images {_told(self.shape)}, these are {_told(shape)}; train another")
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise LFMError(f"{self.name}: images {_told(shape)} are neither grey (1, H, W) nor in colour (3, H, W)")


def load_features(path: str | Path, device: str = "cpu", shape: tuple[int, int, int] | None = None) -> FeatureNetwork:
    """Read a feature network: our classifier, a TorchScript file, or torch-fidelity's weights of FID's Inception.

    It is tried on images of `shape` (C, H, W): one that does not fit is told before any image is made. A TorchScript
    file gets float images (B, 3, H, W) in 0 … 255 and, where it takes that argument, return_features=True, as the
    inception-2015-12-05.pt of StyleGAN asks. Raises LFMError where the file is missing, is none of these, or fails.
    """
    path = Path(path)
    if not path.is_file():
        raise LFMError(f"{path}: {'is a folder' if path.is_dir() else 'does not exist'}; give {KINDS}")
    check_device(device)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    name, known, compute = _kind(path)(path, device)
    network = FeatureNetwork(name, sha256, 0, device, known, compute)
    trial = _features(network, torch.zeros(2, *(shape or known or TRIED), dtype=torch.uint8))
    return replace(network, dim=trial.shape[1])


def features_of(
    network: FeatureNetwork,
    pixels: Tensor | NDArray[np.uint8],
    batch_size: int = 256,
    progress: Callable[[int], object] = lambda count: None,
) -> Tensor:
    """Features (N, dim) of images (N, C, H, W) of uint8, memory-mapped ones too; `progress` hears of each batch."""
    found = [torch.empty(0, network.dim)]
    for first in range(0, len(pixels), batch_size):
        some = pixels[first : first + batch_size]
        # a copy: torch warns of arrays that cannot be written, as those of a cache
        found.append(network(some if isinstance(some, Tensor) else torch.from_numpy(np.array(some))))
        progress(len(some))
    return torch.cat(found)


def compare_features(real: Tensor, fake: Tensor, k: int = 3) -> dict[str, Any]:
    """Fréchet distance, precision and recall of generated images for real ones, by features (M, D) and (K, D)."""
    shares = precision_recall(real, fake, k)
    return {
        "frechet_distance": frechet_distance(*moments(real), *moments(fake)),
        **shares._asdict(),
        "neighbours": k,
        "n_real": len(real),
        "n_fake": len(fake),
    }


def evaluate_images(
    real: Tensor | NDArray[np.uint8],
    fake: Tensor | NDArray[np.uint8],
    network: FeatureNetwork,
    batch_size: int = 256,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[str, Any]:
    """What `compare_features` says of images (N, C, H, W) of uint8, and the network's name and SHA-256."""
    of_real, of_fake = (features_of(network, pixels, batch_size, progress) for pixels in (real, fake))
    return {**compare_features(of_real, of_fake), "features": network.name, "features_sha256": network.sha256}


@torch.inference_mode()
def _features(network: FeatureNetwork, pixels: Tensor) -> Tensor:
    """Features (B, D) of images, whatever D is."""
    network.check(tuple(pixels.shape[1:]))
    if pixels.dtype != torch.uint8:
        raise LFMError(f"{network.name}: images of {pixels.dtype} are not pixels of torch.uint8")
    if network.shape is None:
        pixels = pixels.expand(-1, 3, -1, -1)
    try:
        features = network.compute(pixels.to(network.device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]  # TorchScript tells where in its code first
        raise LFMError(f"{network.name}: fails on images {_told(tuple(pixels.shape))} ({reason})") from error
    if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(pixels):
        told = _told(tuple(features.shape)) if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise LFMError(f"{network.name}: makes {told} of {len(pixels)} images, not ({len(pixels)}, D) features")
    return features.float().cpu()


Loaded = tuple[str, tuple[int, int, int] | None, Callable[[Tensor], Any]]


def _kind(path: Path) -> Callable[[Path, str], Loaded]:
    """What reads the file, by what is in it; TorchScript files are zips with code, state dicts zips without."""
    if path.suffix == SUFFIX:
        return _classifier
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as parts:
            if any(name.endswith("/constants.pkl") for name in parts.namelist()):
                return _torchscript
    return _inception


def _classifier(path: Path, device: str) -> Loaded:
    classifier = load_classifier(path)
    network = classifier.network.to(device)
    learned = classifier.dataset.get("file") or classifier.dataset.get("name")
    return f"classifier of {learned}", classifier.shape, lambda pixels: network.features(to_unit(pixels))


def _torchscript(path: Path, device: str) -> Loaded:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # deprecated, and still how feature networks are published
            network = torch.jit.load(path, map_location=device).eval()
    except (RuntimeError, OSError) as error:
        raise LFMError(f"{path}: cannot be read as TorchScript ({str(error).splitlines()[0]}); use {KINDS}") from error
    takes = {argument.name for argument in network.forward.schema.arguments}
    options = {"return_features": True} if "return_features" in takes else {}
    return path.name, None, lambda pixels: network(pixels.float(), **options)


def _inception(path: Path, device: str) -> Loaded:
    _check_weights(path)
    try:
        from torch_fidelity import __version__
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise LFMError(f"{path}: Inception weights need torch-fidelity; pip install 'lfm_policy[fid]'") from error
    name = f"FID's Inception v3 (torch-fidelity {__version__})"
    try:
        network = FeatureExtractorInceptionV3(name, [INCEPTION_LAYER], feature_extractor_weights_path=str(path))
    except RuntimeError as error:
        raise LFMError(f"{path}: are not the weights of FID's Inception v3; use {KINDS}") from error
    network.to(device)
    return name, None, lambda pixels: network(pixels)[0]


def _check_weights(path: Path) -> None:
    """LFMError unless the file is a dictionary of tensors: torch-fidelity would run whatever code a pickle holds."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise LFMError(f"{path}: is no feature network; use {KINDS}") from error
    if not isinstance(weights, dict) or not any(name.startswith("Mixed_7c.") for name in map(str, weights)):
        raise LFMError(f"{path}: is no feature network; use {KINDS}")


def _told(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
