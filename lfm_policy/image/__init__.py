"""Images: training, sampling, distillation and evaluation of image flows, and their diffusers pipeline."""

from lfm_policy.image.pipeline import LFMPipeline

__all__ = ["LFMPipeline"]
