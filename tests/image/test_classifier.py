"""The classifier learns, is a function of images and seed, and comes back from its file as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lfm_policy.data.images import ImageDataConfig, Images, ImageSet, load_images
from lfm_policy.flow import LFMError
from lfm_policy.image.classifier import (
    Classifier,
    ClassifierOptions,
    load_classifier,
    save_classifier,
    train_classifier,
)

QUICK = ClassifierOptions(steps=4, batch_size=16, width=8, n_features=6, warmup_steps=0)


def made_up(shape: tuple[int, int, int], count: int = 60, n_classes: int = 3) -> Images:
    """Noise whose mean brightness is the class, drawn by numpy."""
    draw = np.random.default_rng(0)

    def part(seed: int) -> ImageSet:
        labels = np.arange(count) % n_classes
        noise = draw.integers(0, 60, (count, *shape))
        return ImageSet((noise + 90 * labels[:, None, None, None]).astype(np.uint8), labels.astype(np.int64))

    return Images("made up", "numpy", part(0), part(1), {"name": "made up", "file": None, "skipped": 0})


def weights(classifier: Classifier) -> torch.Tensor:
    return torch.cat([values.flatten() for values in classifier.network.state_dict().values()])


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images(ImageDataConfig())


@pytest.fixture(scope="module")
def trained(digits: Images) -> Classifier:
    return train_classifier(digits, ClassifierOptions(steps=200))


@pytest.fixture(scope="module")
def saved(trained: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classifier") / "digits.safetensors"
    save_classifier(trained, path)
    return path


def test_digits_are_learned(trained: Classifier, digits: Images) -> None:
    """Nineteen of twenty held-out digits; the accuracy that is kept is that of `predict` over all of them."""
    predicted = trained.predict(torch.from_numpy(np.array(digits.test.pixels))).numpy()
    assert trained.accuracy == pytest.approx((predicted == digits.test.labels).mean())
    assert trained.accuracy >= 0.95
    assert (trained.n_test, trained.shape, len(trained.classes)) == (len(digits.test), digits.shape, 10)
    assert trained.dataset == digits.identity


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 5, 9)])
def test_any_shape_is_learned(shape: tuple[int, int, int]) -> None:
    classifier = train_classifier(made_up(shape), replace(QUICK, steps=60, batch_size=30))
    assert classifier.accuracy > 0.8
    assert classifier.network.features(torch.zeros(2, *shape)).shape == (2, QUICK.n_features)


def test_training_is_a_function_of_images_options_and_seed() -> None:
    """Torch's own generator neither matters nor moves, and held-out images do not matter."""
    images, steps = made_up((1, 8, 8)), []
    first = train_classifier(images, QUICK, 3, lambda step, loss: steps.append(step))
    torch.manual_seed(17)
    before = torch.get_rng_state()
    other_test = replace(images, test=replace(images.test, pixels=255 - images.test.pixels))
    again = train_classifier(other_test, QUICK, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(train_classifier(images, QUICK, 4)))
    whole = replace(QUICK, steps=1, batch_size=len(images.train))  # in any order: only first weights can differ
    starts = [weights(train_classifier(images, whole, seed)) for seed in (3, 4)]
    assert (starts[0] - starts[1]).abs().max() > 0.1
    assert steps == [1, 2, 3, 4]


def test_averaged_weights_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decay that is 0 at the first step and 1 from then on keeps the weights after that step."""
    images = made_up((1, 8, 8))
    moving = weights(train_classifier(images, QUICK))
    monkeypatch.setattr("lfm_policy.flow.optimization.ema_decay", lambda step, power, maximum: float(step > 0))
    still = weights(train_classifier(images, QUICK))
    assert torch.equal(still, weights(train_classifier(images, replace(QUICK, steps=1))))
    assert not torch.equal(moving, still)


def test_file_comes_back_in_a_fresh_process(saved: Path, trained: Classifier) -> None:
    code = f"""
import json, torch
from lfm_policy.image.classifier import load_classifier
classifier = load_classifier({str(saved)!r})
pixels = torch.arange(640).reshape(10, 1, 8, 8).to(torch.uint8)
facts = [classifier.shape, classifier.classes, classifier.accuracy, classifier.n_test, classifier.seed]
print(json.dumps([*facts, classifier.dataset, classifier.predict(pixels).tolist()]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    predicted = trained.predict(torch.arange(640).reshape(10, 1, 8, 8).to(torch.uint8)).tolist()
    facts = [trained.shape, trained.classes, trained.accuracy, trained.n_test, trained.seed]
    assert json.loads(done.stdout) == json.loads(json.dumps([*facts, trained.dataset, predicted]))


def test_file_is_a_function_of_the_classifier(saved: Path, tmp_path: Path) -> None:
    """Bytes and all, so that its hash names it; and what is loaded is what was saved."""
    again = load_classifier(saved)
    assert again.options == ClassifierOptions(steps=200)
    save_classifier(again, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["again.safetensors"]


def test_a_failed_write_leaves_the_old_file(trained: Classifier, tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "digits.safetensors"
    path.write_bytes(b"old")

    def full(tensors: Any, file: Path, metadata: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lfm_policy.image.classifier.save_file", full)
    with pytest.raises(LFMError, match="No space left"):
        save_classifier(trained, path)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(LFMError, match=r"digits\.pt: a classifier's file must end in \.safetensors"):
        save_classifier(trained, tmp_path / "digits.pt")


def rewritten(saved: Path, path: Path, **changes: Any) -> Path:
    """The file with other entries in its description; None removes one."""
    size = int.from_bytes(saved.read_bytes()[:8], "little")
    description = json.loads(json.loads(saved.read_bytes()[8 : 8 + size])["__metadata__"]["classifier"])
    kept = {key: value for key, value in {**description, **changes}.items() if value is not None}
    save_file(load_file(saved), path, metadata={"classifier": json.dumps(kept)})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "policy"}, "is no classifier's file"),
        ({"format": 99}, "format 99 is not 1"),
        ({"size": None}, "describes no classifier"),
        ({"classes": ["a", "b"]}, r"cannot be read \(size mismatch for classes"),
        ({"options": {"depth": 3}}, "describes no classifier .*depth"),
    ],
)
def test_other_descriptions_are_refused(saved: Path, tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(LFMError, match=message) as caught:
        load_classifier(rewritten(saved, tmp_path / "other.safetensors", **changes))
    assert "other.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_and_foreign_files_are_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    with pytest.raises(LFMError, match=r"broken\.safetensors: is no file"):
        load_classifier(path)
    for damaged in (b"", b"none of it", saved.read_bytes()[:-100]):
        path.write_bytes(damaged)
        with pytest.raises(LFMError, match=r"broken\.safetensors: cannot be read"):
            load_classifier(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(LFMError, match=r"broken\.safetensors: is no classifier's file"):
        load_classifier(path)


def test_images_that_no_classifier_learns_from_are_refused() -> None:
    images = made_up((1, 8, 8))
    with pytest.raises(LFMError, match="made up: images have no labels"):
        train_classifier(replace(images, train=replace(images.train, labels=None)), QUICK)
    with pytest.raises(LFMError, match="made up: all images are of one class"):
        train_classifier(made_up((1, 8, 8), n_classes=1), QUICK)
    nothing = ImageSet(images.test.pixels[:0], np.zeros(0, dtype=np.int64))
    with pytest.raises(LFMError, match="made up: no images to train or to test"):
        train_classifier(replace(images, test=nothing), QUICK)


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("width", 12), ("n_features", 0), ("learning_rate", 0.0)])
def test_impossible_options_are_named(name: str, value: Any) -> None:
    with pytest.raises(LFMError, match=f"{name}: {value}"):
        train_classifier(made_up((1, 8, 8)), replace(QUICK, **{name: value}))
