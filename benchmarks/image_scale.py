"""What Table A.2's four runs need in parameters, operations, memory and disk, and hence in hours.

`python -m benchmarks.image_scale` writes results/image/scale.json, which docs/scale.md tells. All is counted but
TABLE, QUOTED and ASSUMED, which say what they are, and one step of the CIFAR-10 network that is measured.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded

import torch

from benchmarks.image_counts import evaluation_bytes, nearest, operations, parameters, saved_bytes
from lfm_policy.cli.parser import make_parser
from lfm_policy.evaluation.files import write_json
from lfm_policy.flow import FitOptions, Fitter, LocalFlow, Schedule, Solver, TensorSource
from lfm_policy.image.config import ImageConfig
from lfm_policy.image.model import UNet2dConfig
from lfm_policy.image.pushed import bytes_needed
from lfm_policy.nets.unet2d import UNet2d
from lfm_policy.provenance import provenance

CONFIGS = Path(__file__).parent.parent / "configs" / "image"

# Table A.2: pixels of a side, training points, parameters of all networks in millions
TABLE = {
    "cifar10": (32, 50_000, 160),
    "imagenet32": (32, 1_281_167, 120),
    "flowers": (128, 8_189, 464),
    "lsun_church": (128, 126_227, 464),
}

# Vendors' peaks in 10^12 dense operations per second, and GB of memory; read in pages that quote these documents
AMPERE = "NVIDIA A100 Tensor Core GPU data sheet, nvidia-a100-datasheet-us-nvidia-1758950-r4"
ADA = "NVIDIA Ada GPU Architecture whitepaper, appendix A, the figures without sparsity"
HOPPER = "NVIDIA H100 Tensor Core GPU data sheet, SXM; half of what it prints with sparsity for bf16 and tf32"
QUOTED: dict[str, dict[str, Any]] = {
    "RTX 4090": {"memory_gb": 24, "bf16": 165.2, "tf32": 82.6, "float32": 82.6, "source": ADA},
    "A100 SXM 40 GB": {"memory_gb": 40, "bf16": 312, "tf32": 156, "float32": 19.5, "source": AMPERE},
    "H100 SXM 80 GB": {"memory_gb": 80, "bf16": 989.5, "tf32": 494.5, "float32": 67, "source": HOPPER},
}

ASSUMED = {"utilisation": 0.3, "usable_memory": 0.9}  # of a vendor's peak; what drivers and workspaces leave
FID_SAMPLES = 50_000


def read_config(name: str) -> ImageConfig:
    """The configuration as `lfm image train` reads it."""
    parser = make_parser("image_scale", "", with_config=True)
    parser.add_class_arguments(ImageConfig)
    arguments = ["--config", str(CONFIGS / f"{name}.yaml"), "--output_dir", "runs/scale"]
    values = parser.instantiate(parser.parse_args(arguments)).as_dict()
    values.pop("config")
    return ImageConfig(**values)


def row(name: str) -> dict[str, Any]:
    """All figures of one setting."""
    config, (side, images, millions) = read_config(name), TABLE[name]
    shape, n = (3, side, side), config.flow.n_subflows
    weights = parameters(shape, config.network)
    count, best = nearest(shape, config.network, millions * 1e6 / n)
    work = total_operations(config, shape, images)
    return {
        "name": name,
        "parameters": {
            "network": weights,
            "total": n * weights,
            "table_millions": millions,
            "counted_networks": count,
            "nearest_total": n * parameters(shape, best),
            "is_nearest": best == config.network,
        },
        "operations": work,
        "memory": memory(config, shape, weights),
        "disk": {
            "cache": images * 3 * side**2,
            "pushed": bytes_needed((images,), 3 * side**2, n),
            "checkpoint": 4 * (n + 3) * weights,  # averages of all; weights and two moments of the one that trains
        },
        "hours": {device: hours(work, peaks) for device, peaks in QUOTED.items()},
    }


def total_operations(config: ImageConfig, shape: tuple[int, int, int], images: int) -> dict[str, Any]:
    """Operations (a multiply-add is two) of training, of the pushes and of samples."""
    n, training = config.flow.n_subflows, config.training
    forward, with_backward = operations(shape, config.network)
    push, sampler = Solver(config.flow.push_method, config.flow.push_steps).evaluations, config.sampler.evaluations
    assert training.steps is not None
    assert push is not None
    assert sampler is not None
    return {
        "evaluation_multiply_adds": forward // 2,
        "training_to_evaluation": round(with_backward / forward, 3),
        "training": with_backward * training.batch_size * training.steps * n,
        "pushes": forward * images * push * (n - 1),
        "sample_evaluations": sampler * n,
        "sample": forward * sampler * n,
        "fid_samples": forward * sampler * n * FID_SAMPLES,
    }


def memory(config: ImageConfig, shape: tuple[int, int, int], weights: int) -> dict[str, Any]:
    """Bytes on the accelerator, and the largest pieces of a batch that fit."""
    n, batch, pieces = config.flow.n_subflows, config.training.batch_size, config.training.accumulate
    fixed = {"weights": 4 * weights, "gradients": 4 * weights, "adam": 8 * weights, "averages": 4 * n * weights}
    resident = sum(fixed.values())
    per_image, copies = saved_bytes(shape, config.network, autocast=True)
    per_image_float32, _ = saved_bytes(shape, config.network, autocast=False)
    evaluation = evaluation_bytes(shape, config.network)
    sizes = sorted({peaks["memory_gb"] for peaks in QUOTED.values()})
    return {
        **fixed,
        "bfloat16_copies": copies,
        "saved_per_image_autocast": per_image,
        "saved_per_image_float32": per_image_float32,
        "evaluation_per_image": evaluation,
        "piece": -(-batch // pieces),
        "largest_piece_autocast": {str(gb): fitting(gb, resident + copies, per_image) for gb in sizes},
        "largest_piece_float32": {str(gb): fitting(gb, resident, per_image_float32) for gb in sizes},
        "push_piece": config.flow.push_batch_size,
        "largest_push": {str(gb): fitting(gb, resident, evaluation) for gb in sizes},
    }


def fitting(gigabytes: float, resident: int, per_image: int) -> int:
    """Images that fit beside what is always there."""
    return max(0, int((ASSUMED["usable_memory"] * gigabytes * 1e9 - resident) / per_image))


def hours(work: dict[str, Any], peaks: dict[str, Any]) -> dict[str, float]:
    """Hours of each part: training in bfloat16, ODEs in float32 and in TF32, torch's default for convolutions."""
    asked = [("training", "bf16")] + [
        (part, kind) for part in ("pushes", "fid_samples") for kind in ("float32", "tf32")
    ]
    rate = {kind: peaks[kind] * 1e12 * ASSUMED["utilisation"] * 3600 for kind in ("bf16", "tf32", "float32")}
    return {f"{part}_{kind}": round(work[part] / rate[kind], 4) for part, kind in asked}


def measured_step(network: UNet2dConfig, batch: int = 8) -> dict[str, Any]:
    """Seconds of a training step of the CIFAR-10 network on one core, in float32, the second of two."""
    torch.set_num_threads(1)
    shape = (3, 32, 32)
    flow = LocalFlow([UNet2d(shape, **asdict(network))], Schedule(()))
    data = TensorSource(torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)))
    fitter = Fitter(flow, data, FitOptions(steps=2, batch_size=batch))
    fitter.step()
    begin = time.perf_counter()
    fitter.step()
    seconds = time.perf_counter() - begin
    rate = batch * operations(shape, network)[1] / seconds
    return {
        "setting": "cifar10",
        "batch_size": batch,
        "seconds": round(seconds, 2),
        "operations_per_second": round(rate),
    }


def main() -> None:
    """Count, measure and write."""
    begin = time.perf_counter()
    rows = [row(name) for name in TABLE]
    for entry in rows:
        print(json.dumps(entry), flush=True)
    step = measured_step(read_config("cifar10").network)
    work = next(entry["operations"]["training"] for entry in rows if entry["name"] == "cifar10")
    step["days_of_cifar10_training"] = round(work / step["operations_per_second"] / 86400)
    rates = {device: peaks["bf16"] * 1e12 * ASSUMED["utilisation"] for device, peaks in QUOTED.items()}
    step["accelerators_are_faster_by"] = {d: round(r / step["operations_per_second"]) for d, r in rates.items()}
    facts = {
        "seeds": [0],
        "quoted_peaks": QUOTED,
        "assumed": ASSUMED,
        "measured_cpu_step": step,
        "wall_seconds": round(time.perf_counter() - begin, 1),
    }
    path = Path("results/image/scale.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**provenance(), **facts, "rows": rows})


if __name__ == "__main__":
    main()
