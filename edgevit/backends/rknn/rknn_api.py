"""Rockchip's runtime library through ctypes: no package is needed on the board. Python 3.7, numpy.

Structures and numbers are those of rknn_api.h for librknnrt 2.x. Input and output are memory that the NPU reads and
writes itself, as in the vendor's zero-copy example. Not yet run on silicon.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Sequence

FOLDERS = (
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/local/lib",
    "/oem/usr/lib",
    "/vendor/lib64",
)
NAMES = ("librknnrt.so", "librknnmrt.so")
LIBRARIES = tuple(folder + "/" + name for folder in FOLDERS for name in NAMES)
ERRORS = {
    -1: "it failed",
    -2: "it took too long",
    -3: "the NPU is not available: no driver, or another program holds it",
    -4: "out of memory",
    -5: "a parameter is invalid",
    -6: "it does not take the model: the file is damaged, or made by a newer toolkit than the library",
    -7: "the context is invalid",
    -8: "the input is invalid",
    -9: "the output is invalid",
    -10: "library and driver don't fit: update the board's image",
    -11: "the model is not compatible with the driver",
    -12: "the model's optimization level is not compatible with the driver",
    -13: "the model is made for another chip",
}
COLLECT_PERF = 8  # RKNN_FLAG_COLLECT_PERF_MASK: slower, and times each layer
IN_OUT_NUM, INPUT_ATTR, OUTPUT_ATTR, PERF_DETAIL, SDK_VERSION = 0, 1, 2, 3, 5
FLOAT32, UINT8 = 0, 3
NHWC = 1
CORES = {"0": 1, "1": 2, "2": 4, "0_1": 3, "0_1_2": 7}
# rknn_context is 32 bits wide on 32-bit Arm and 64 elsewhere.
Context = ctypes.c_uint32 if ctypes.sizeof(ctypes.c_void_p) == 4 else ctypes.c_uint64


class InOutNum(ctypes.Structure):
    """rknn_input_output_num"""

    _fields_ = [("n_input", ctypes.c_uint32), ("n_output", ctypes.c_uint32)]


class TensorAttr(ctypes.Structure):
    """rknn_tensor_attr"""

    _fields_ = [
        ("index", ctypes.c_uint32),
        ("n_dims", ctypes.c_uint32),
        ("dims", ctypes.c_uint32 * 16),
        ("name", ctypes.c_char * 256),
        ("n_elems", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("fmt", ctypes.c_int),
        ("type", ctypes.c_int),
        ("qnt_type", ctypes.c_int),
        ("fl", ctypes.c_int8),
        ("zp", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("w_stride", ctypes.c_uint32),
        ("size_with_stride", ctypes.c_uint32),
        ("pass_through", ctypes.c_uint8),
        ("h_stride", ctypes.c_uint32),
    ]


class SdkVersion(ctypes.Structure):
    """rknn_sdk_version"""

    _fields_ = [("api_version", ctypes.c_char * 256), ("drv_version", ctypes.c_char * 256)]


class PerfDetail(ctypes.Structure):
    """rknn_perf_detail"""

    _fields_ = [("perf_data", ctypes.c_void_p), ("data_len", ctypes.c_uint64)]


class TensorMem(ctypes.Structure):
    """rknn_tensor_mem"""

    _fields_ = [
        ("virt_addr", ctypes.c_void_p),
        ("phys_addr", ctypes.c_uint64),
        ("fd", ctypes.c_int32),
        ("offset", ctypes.c_int32),
        ("size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("priv_data", ctypes.c_void_p),
    ]


Pointer = ctypes.POINTER
SIGNATURES = {
    "rknn_init": [Pointer(Context), ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p],
    "rknn_dup_context": [Pointer(Context), Pointer(Context)],
    "rknn_destroy": [Context],
    "rknn_query": [Context, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32],
    "rknn_set_core_mask": [Context, ctypes.c_int],
    "rknn_create_mem": [Context, ctypes.c_uint32],
    "rknn_destroy_mem": [Context, Pointer(TensorMem)],
    "rknn_set_io_mem": [Context, Pointer(TensorMem), Pointer(TensorAttr)],
    "rknn_run": [Context, ctypes.c_void_p],
}


class RknnError(Exception):
    """What the library, or the search for it, said; in words."""


def load(places: Sequence[str] = LIBRARIES) -> Any:
    """The first library that is there, its functions typed. Raises RknnError naming what was found instead."""
    there = [path for path in places if Path(path).exists()]
    if not there:
        folders = ", ".join(dict.fromkeys(str(Path(path).parent) for path in places))
        raise RknnError("there is no librknnrt.so in " + folders)
    why = ""
    for path in there:
        try:
            return typed(ctypes.CDLL(path))
        except (OSError, AttributeError) as error:  # of another machine, damaged, or no such library at all
            why = why or f"{path} can't be used ({error})"
    raise RknnError(why)


def typed(library: Any) -> Any:
    """A library whose functions know their arguments. Raises AttributeError where one is missing."""
    for name, types in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes = types
        function.restype = Pointer(TensorMem) if name == "rknn_create_mem" else ctypes.c_int
    return library


class Session:
    """One context on some of the NPU's cores, with memory for one input and all outputs.

    Pixels uint8 [height, width, channels] go in, the first output comes out as float32 [elements].
    """

    def __init__(
        self, library: Any, path: str, cores: str | None, flags: int = 0, like: Session | None = None
    ) -> None:
        self.api, self.context = library, Context(0)
        self.memories: list[Any] = []
        if like is not None:
            self.check("rknn_dup_context", ctypes.byref(like.context), ctypes.byref(self.context))
        else:
            data = Path(path).read_bytes()
            self.check("rknn_init", ctypes.byref(self.context), data, len(data), flags, None)
        try:
            if cores is not None:
                self.check("rknn_set_core_mask", self.context, CORES[cores])
            self.bind()
        except BaseException:
            self.close()
            raise

    def check(self, name: str, *arguments: Any) -> None:
        """Call a function. Raises RknnError for a code that isn't 0."""
        code = getattr(self.api, name)(*arguments)
        if code != 0:
            raise RknnError(f"{name}: {ERRORS.get(code, 'unknown error')} (code {code})")

    def query(self, command: int, answer: Any) -> Any:
        """Fill a structure."""
        self.check("rknn_query", self.context, command, ctypes.byref(answer), ctypes.sizeof(answer))
        return answer

    def bind(self) -> None:
        """Give input and outputs their memory: uint8 channels last, and float32."""
        count = self.query(IN_OUT_NUM, InOutNum())
        if count.n_input != 1:
            raise RknnError(f"the model takes {count.n_input} inputs; models of one can be run")
        given = self.query(INPUT_ATTR, TensorAttr())
        self.height, self.width, self.channels = self.sizes(given)
        self.stride = given.w_stride or self.width
        given.type, given.fmt, given.pass_through = UINT8, NHWC, 0
        needed = self.height * self.stride * self.channels
        self.input = self.memory(max(needed, given.size_with_stride), given)
        self.outputs = []
        for index in range(count.n_output):
            made = self.query(OUTPUT_ATTR, TensorAttr(index=index))
            made.type = FLOAT32
            self.outputs.append((self.memory(4 * made.n_elems, made), made.n_elems))

    def sizes(self, given: TensorAttr) -> tuple[int, int, int]:
        """Height, width and channels of the input, in whichever order the model has them."""
        dims = list(given.dims[: given.n_dims])
        if len(dims) != 4:
            raise RknnError(f"the model's input has {len(dims)} dimensions, not the 4 of an image")
        _, first, second, third = dims
        return (first, second, third) if given.fmt == NHWC else (second, third, first)

    def memory(self, size: int, attr: TensorAttr) -> Any:
        """Memory of the NPU for a tensor."""
        memory = self.api.rknn_create_mem(self.context, size)
        if not memory:
            raise RknnError(f"rknn_create_mem: out of memory ({size} bytes)")
        self.memories.append(memory)
        self.check("rknn_set_io_mem", self.context, memory, ctypes.byref(attr))
        return memory

    def run(self, pixels: Any) -> Any:
        """One inference: all outputs side by side, float32."""
        import numpy as np

        rows = np.ctypeslib.as_array(
            ctypes.cast(self.input.contents.virt_addr, Pointer(ctypes.c_uint8)),
            (self.height, self.stride, self.channels),
        )
        rows[:, : self.width] = pixels
        self.check("rknn_run", self.context, None)
        parts = []
        for memory, elements in self.outputs:
            address = ctypes.cast(memory.contents.virt_addr, Pointer(ctypes.c_float))
            parts.append(np.ctypeslib.as_array(address, (elements,)))
        return np.concatenate(parts)

    def versions(self) -> tuple[str, str]:
        """Of library and driver, in their own words."""
        found = self.query(SDK_VERSION, SdkVersion())
        return found.api_version.decode(errors="replace"), found.drv_version.decode(errors="replace")

    def layer_times(self) -> str:
        """The library's own table of the last inference; the context must have been made with COLLECT_PERF."""
        found = self.query(PERF_DETAIL, PerfDetail())
        if not found.perf_data or not found.data_len:
            return ""
        return ctypes.string_at(found.perf_data, found.data_len).decode(errors="replace").rstrip("\0")

    def close(self) -> None:
        """Give everything back."""
        for memory in self.memories:
            self.api.rknn_destroy_mem(self.context, memory)
        self.memories = []
        if self.context.value:
            self.api.rknn_destroy(self.context)
            self.context = Context(0)
