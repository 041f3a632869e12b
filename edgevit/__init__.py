"""Take a trained Vision Transformer to a Rockchip NPU or a mobile CPU, with proof."""

__version__ = "0.1.0"
