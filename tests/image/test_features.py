"""Feature networks give what their files compute, and Fréchet distances of images are those of that."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lfm_policy.data.images import ImageDataConfig, Images, load_images
from lfm_policy.evaluation.frechet import frechet_distance, moments, precision_recall
from lfm_policy.flow import LFMError
from lfm_policy.flow import named_generator as generator
from lfm_policy.image.classifier import ClassifierOptions, load_classifier, save_classifier, train_classifier
from lfm_policy.image.features import FeatureNetwork, evaluate_images, features_of, load_features

# TorchScript is deprecated, and still how feature networks are published
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")


class Means(nn.Module):
    """Means of rows and channels; logits unless features are asked for, as Inception files do."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        if return_features:
            return x.mean(dim=3).flatten(1)
        return x.mean(dim=[2, 3])


class MeansOnly(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=[2, 3])


class Maps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(dim=[2, 3]), x


class Large(nn.Module):
    """Takes images of one size only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


def script(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(path)
    return path


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=generator(seed, "test"), dtype=torch.uint8)


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images(ImageDataConfig())


@pytest.fixture(scope="module")
def classifier_file(digits: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features") / "digits.safetensors"
    save_classifier(train_classifier(digits, ClassifierOptions(steps=100)), path)
    return path


@pytest.fixture(scope="module")
def classifier(classifier_file: Path) -> FeatureNetwork:
    return load_features(classifier_file)


def test_classifier_gives_what_its_classes_are_read_from(classifier_file: Path, digits: Images) -> None:
    network, pixels = load_features(classifier_file, shape=(1, 8, 8)), torch.from_numpy(digits.test.pixels[:20].copy())
    features = network(pixels)
    layer = load_classifier(classifier_file).network.classes
    classes = (features @ layer.weight.T + layer.bias).argmax(dim=1)
    assert torch.equal(classes, load_classifier(classifier_file).predict(pixels))
    assert features.shape == (20, network.dim)
    assert features.dtype == torch.float32
    assert "digits" in network.name
    assert network.sha256 == hashlib.sha256(classifier_file.read_bytes()).hexdigest()


def test_torchscript_sees_colours_from_0_to_255_and_is_asked_for_features(tmp_path: Path) -> None:
    network, pixels = load_features(script(Means(), tmp_path / "means.pt"), shape=(3, 4, 6)), noise(5, 3, 4, 6)
    want = pixels.numpy().astype(np.float64).mean(axis=3).reshape(5, 12)
    np.testing.assert_allclose(network(pixels), want, rtol=1e-6)
    assert (network.name, network.dim) == ("means.pt", 12)
    plain = load_features(script(MeansOnly(), tmp_path / "plain.ts"))
    np.testing.assert_allclose(plain(pixels), want.reshape(5, 3, 4).mean(axis=2), rtol=1e-6)


def test_grey_images_are_seen_in_three_channels(tmp_path: Path) -> None:
    network, grey = load_features(script(MeansOnly(), tmp_path / "means.pt")), noise(4, 1, 8, 8)
    assert torch.equal(network(grey), network(grey.repeat(1, 3, 1, 1)))
    assert network.dim == 3


def test_inception_is_torch_fidelitys(tmp_path: Path) -> None:
    """With weights that torch drew, in the file format of the published ones (of 2019: no zip)."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *args, **kwargs: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, weights: None)
        drawn = FeatureExtractorInceptionV3("drawn", ["2048"], feature_extractor_weights_path="")
    path, grey = tmp_path / "inception.pth", noise(2, 1, 8, 8)
    torch.save(drawn.state_dict(), path, _use_new_zipfile_serialization=False)
    network = load_features(path, shape=(1, 8, 8))
    assert torch.equal(network(grey), drawn(grey.repeat(1, 3, 1, 1))[0])
    assert network(grey).std() > 0
    assert network.dim == 2048
    assert network.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_inception_without_torch_fidelity_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "inception.pth"
    torch.save({"Mixed_7c.branch_pool.conv.weight": torch.zeros(2)}, path)
    with pytest.raises(LFMError, match=r"inception\.pth: are not the weights of FID's Inception"):
        load_features(path)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(LFMError, match=r"pip install 'lfm_policy\[fid\]'"):
        load_features(path)


class Trap:
    """Makes a file when it is unpickled without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.mark), "w")


def test_files_that_are_no_networks_are_refused_and_run_nothing(tmp_path: Path, classifier_file: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "net.pt"
    contents: list[Any] = [{"weight": torch.zeros(2)}, [1, 2], torch.zeros(3), {"Mixed_7c.x": Trap(mark)}]
    for content in contents:
        for zipped in (True, False):
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            with pytest.raises(LFMError, match=r"net\.pt: is no feature network; use a classifier"):
                load_features(path)
    for text in (b"", b"no network", classifier_file.read_bytes()):
        path.write_bytes(text)
        with pytest.raises(LFMError, match=r"net\.pt: is no feature network; use a classifier"):
            load_features(path)
    assert not mark.exists()
    with zipfile.ZipFile(script(MeansOnly(), tmp_path / "whole.pt")) as whole, zipfile.ZipFile(path, "w") as damaged:
        for name in whole.namelist():
            damaged.writestr(name, whole.read(name).replace(b"def forward", b"def backward("))
    with pytest.raises(LFMError, match=r"net\.pt: cannot be read as TorchScript") as caught:
        load_features(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(LFMError, match=r"none\.pt: does not exist; give a classifier"):
        load_features(tmp_path / "none.pt")
    with pytest.raises(LFMError, match="is a folder; give a classifier"):
        load_features(tmp_path)
    with pytest.raises(LFMError, match="device: 'nowhere' cannot be used"):
        load_features(classifier_file, device="nowhere")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Maps(), r"net\.pt: makes \(2, 3, 8, 8\) of 2 images, not \(2, D\) features"),
        (Pair(), r"net\.pt: makes a tuple of 2 images"),
    ],
)
def test_what_gives_no_features_is_refused(tmp_path: Path, module: nn.Module, message: str) -> None:
    with pytest.raises(LFMError, match=message):
        load_features(script(module, tmp_path / "net.pt"), shape=(3, 8, 8))


def test_images_that_do_not_fit_are_told_before_any_is_made(tmp_path: Path, classifier_file: Path) -> None:
    large = script(Large(), tmp_path / "large.pt")
    assert load_features(large, shape=(1, 8, 8)).dim == 5
    with pytest.raises(LFMError, match=r"large\.pt: fails on images \(2, 3, 9, 9\)") as caught:
        load_features(large, shape=(3, 9, 9))
    assert "\n" not in str(caught.value)
    for shape in ((3, 8, 8), (1, 28, 28)):
        told = str(shape).replace("(", r"\(").replace(")", r"\)")
        with pytest.raises(LFMError, match=rf"classifier of digits: is for images \(1, 8, 8\), these are {told}"):
            load_features(classifier_file, shape=shape)
    with pytest.raises(LFMError, match=r"images \(2, 8, 8\) are neither grey"):
        load_features(large, shape=(2, 8, 8))


def test_calls_check_their_images(tmp_path: Path, classifier: FeatureNetwork) -> None:
    with pytest.raises(LFMError, match=r"is for images \(1, 8, 8\), these are \(1, 9, 9\)"):
        classifier(noise(2, 1, 9, 9))
    with pytest.raises(LFMError, match=r"images of torch\.float32 are not pixels"):
        classifier(noise(2, 1, 8, 8).float())
    rows = load_features(script(Means(), tmp_path / "rows.pt"), shape=(3, 8, 8))
    with pytest.raises(LFMError, match=r"rows\.pt: gives 27 features of these images, 24 of others"):
        rows(noise(2, 3, 9, 9))


def test_features_depend_neither_on_batches_nor_on_where_images_lie(tmp_path: Path, classifier: FeatureNetwork) -> None:
    pixels, heard = noise(23, 1, 8, 8), []
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    want = torch.cat([classifier(one[None]) for one in pixels])
    torch.testing.assert_close(features_of(classifier, pixels, 7, heard.append), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features_of(classifier, mapped), want, rtol=1e-5, atol=1e-5)
    assert heard == [7, 7, 7, 2]
    assert features_of(classifier, pixels[:0]).shape == (0, classifier.dim)


def test_evaluation_compares_what_the_network_gives(tmp_path: Path) -> None:
    """Against channel means by numpy, and their moments by numpy."""
    path = script(MeansOnly(), tmp_path / "means.pt")
    real, fake = noise(40, 3, 4, 4), noise(30, 3, 4, 4, seed=1) // 2 + 40
    got = evaluate_images(real, fake.numpy(), load_features(path))
    means = [torch.from_numpy(images.numpy().mean(axis=(2, 3))) for images in (real, fake)]
    statistics = [(cloud.mean(dim=0), torch.from_numpy(np.cov(cloud.numpy(), rowvar=False))) for cloud in means]
    assert got.pop("frechet_distance") == pytest.approx(frechet_distance(*statistics[0], *statistics[1]), rel=1e-5)
    precision, recall = precision_recall(*means)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert got == {
        "precision": precision,
        "recall": recall,
        "neighbours": 3,
        "n_real": 40,
        "n_fake": 30,
        "features": "means.pt",
        "features_sha256": sha256,
    }
    assert 0 < recall < precision <= 1
    with pytest.raises(LFMError, match="fake: 2 samples are too few; give at least 4"):
        evaluate_images(real, fake[:2], load_features(path))


def test_worse_images_are_further_away(classifier: FeatureNetwork, digits: Images) -> None:
    """Digits against themselves, with more and more noise, and against noise alone."""
    real = torch.from_numpy(digits.train.pixels[:500].copy())
    noises = torch.randn(real.shape, generator=generator(0, "noise"))
    fakes = [(real + scale * noises).clamp(0, 255).to(torch.uint8) for scale in (0, 20, 60, 150)]
    found = [evaluate_images(real, fake, classifier) for fake in [*fakes, noise(*real.shape)]]
    distances = [row["frechet_distance"] for row in found]
    assert distances == sorted(distances)
    spread = moments(features_of(classifier, real))[1].trace().item()
    assert distances[0] == pytest.approx(0, abs=1e-9 * spread)
    assert distances[1] > 1e-4 * spread
    assert (found[0]["precision"], found[0]["recall"]) == (1, 1)
    assert found[-1]["precision"] < 0.5
