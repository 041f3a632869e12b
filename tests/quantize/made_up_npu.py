"""An NPU with the figures that a search for 16-bit tensors goes by."""

from __future__ import annotations

from edgevit.targets.profiles import Npu

NPU = Npu(
    target="fake",
    macs_per_cycle_int8=1024,
    macs_per_cycle_float=512,
    ddr_bytes_per_cycle=21.3,
    token_alignment=16,
    input_channel_alignment=32,
    channel_alignment_int8=32,
)
