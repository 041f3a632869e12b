"""Runs a .tflite on a board: ai_edge_litert, or TensorFlow Lite's last runtime. Python 3.7."""

from __future__ import annotations

from typing import Any

if __package__:
    from edgevit.backends.board_runtime import Model, Refused, Values, require
else:  # on a board the files lie side by side
    from board_runtime import Model, Refused, Values, require  # type: ignore[import-not-found,no-redef]


class Runtime(Model):
    """LiteRT, or TensorFlow Lite's last runtime."""

    def ready(self) -> None:
        require("ai_edge_litert", "tflite_runtime")

    def open(self, setting: str, **options: Any) -> None:
        self.interpreter = self.runtime()(self.path, num_threads=int(setting), **options)
        self.interpreter.allocate_tensors()
        self.give = self.interpreter.get_input_details()[0]
        self.takes = in_order(self.interpreter)

    def runtime(self) -> Any:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            try:
                from tflite_runtime.interpreter import Interpreter
            except ImportError as error:
                raise Refused(str(error), missing="runtime") from None
        return Interpreter

    def shape(self) -> tuple[int, ...]:
        """Height, width, channels."""
        return tuple(int(size) for size in self.give["shape"][1:])

    def prepare(self, pixels: Any) -> Any:
        import numpy as np

        image = self.normalised(pixels)
        if self.give["dtype"] == np.float32:
            return image
        scale, zero = self.give["quantization"]
        limits = np.iinfo(self.give["dtype"])
        return np.clip(np.round(image / scale + zero), limits.min, limits.max).astype(self.give["dtype"])

    def infer(self, given: Any) -> Any:
        self.interpreter.set_tensor(self.give["index"], given)
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(take["index"]) for take in self.takes]

    def real(self, output: Any) -> Any:
        """All outputs side by side, float32 [values]."""
        import numpy as np

        parts = []
        for take, values in zip(self.takes, output):
            scale, zero = take["quantization"]
            if take["dtype"] != np.float32:
                values = (values.astype(np.float32) - zero) * np.float32(scale)
            parts.append(values.reshape(-1))
        return np.concatenate(parts)

    def tensors(self, pixels: Any) -> Values:
        """Every tensor of one inference, by name; the delegates are off, or they would hide what they fuse."""
        self.open("1", experimental_preserve_all_tensors=True)
        self.infer(self.prepare(pixels))
        found = {}
        for each in self.interpreter.get_tensor_details():
            try:
                found[each["name"]] = self.interpreter.get_tensor(each["index"])
            except ValueError:  # nothing was computed for it
                continue
        return found


def in_order(interpreter: Any) -> Any:
    """Details of a model's outputs in the order in which its program gave them, where the file says so."""
    details = interpreter.get_output_details()
    try:
        (named,) = [each["outputs"] for each in interpreter._get_full_signature_list().values()]
        places = {int(each["index"]): each for each in details}
        return [places[named[name]] for name in sorted(named, key=lambda name: int(name.rpartition("_")[2]))]
    except (AttributeError, KeyError, ValueError):  # an older runtime, or a file without a signature
        return details
