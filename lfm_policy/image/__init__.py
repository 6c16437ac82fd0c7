"""Images: training, sampling, distillation and evaluation of image flows, and their diffusers pipeline."""
