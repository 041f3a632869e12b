"""Runs an .onnx on a board's processor: onnxruntime. Python 3.7."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

if __package__:
    from edgevit.backends.board_runtime import Model, Refused, Values, require
else:  # on a board the files lie side by side
    from board_runtime import Model, Refused, Values, require  # type: ignore[import-not-found,no-redef]


class Runtime(Model):
    """ONNX Runtime on the processor."""

    def ready(self) -> None:
        require("onnxruntime")

    def open(self, setting: str, path: str | None = None) -> None:
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # it would look up a host on the internet and leave a file
        try:
            import onnxruntime
        except ImportError as error:
            raise Refused(str(error), missing="runtime") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = int(setting)
        self.session = onnxruntime.InferenceSession(
            path or self.path, options, providers=["CPUExecutionProvider"]
        )
        self.give = self.session.get_inputs()[0]

    def shape(self) -> tuple[int, ...]:
        channels, height, width = self.give.shape[1:]
        return height, width, channels

    def prepare(self, pixels: Any) -> Any:
        import numpy as np

        return np.ascontiguousarray(self.normalised(pixels).transpose(0, 3, 1, 2))

    def infer(self, given: Any) -> Any:
        return self.session.run(None, {self.give.name: given})

    def real(self, output: Any) -> Any:
        """All outputs side by side, float32 [values]."""
        import numpy as np

        return np.concatenate([np.asarray(each, np.float32).reshape(-1) for each in output])

    def tensors(self, pixels: Any) -> Values:
        """Every tensor that the host made an output of."""
        self.open("1", str(Path(self.path).with_name(self.request["dump"])))
        values = self.session.run(None, {self.give.name: self.prepare(pixels)})
        return {each.name: value for each, value in zip(self.session.get_outputs(), values)}
