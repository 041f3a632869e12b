"""The files people write: board profiles and calibration recipes, checked key by key."""

from __future__ import annotations

import difflib
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, ValidationError

from edgevit.errors import InputError
from edgevit.files import read_input
from edgevit.targets.precisions import DEFAULT, FLOAT, known
from edgevit.targets.resources import folder

PrecisionName = Annotated[str, AfterValidator(known)]
Count = Annotated[int, Field(ge=1, lt=2**40)]  # of anything a chip has
Seed = Annotated[int, Field(ge=0, lt=2**32)]
MAX_ID_BYTES = 100  # a file's name becomes part of others


class Strict(BaseModel):
    """Unknown keys are errors: a typo must never be silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Npu(Strict):
    """What the vendor's compiler and the chip can do; each limit names its source in the file's comments."""

    target: str = Field(description="the name the vendor's toolkit gives this platform")
    proved_as: str | None = Field(
        None,
        description="platform with float whose builds do the same to a graph, where this one has no float",
    )
    max_conv_stride: Count | None = Field(None, description="largest convolution stride run in one pass")
    token_alignment: Count = Field(1, description="tokens are computed in blocks of this many")
    input_channel_alignment: Count = Field(
        1, description="input channels are multiplied in blocks of this many"
    )
    channel_alignment_int8: Count = Field(
        1, description="int8 output channels are computed in blocks of this many"
    )
    transpose_alignment: Count = Field(
        1, description="token counts off this multiple send transposes to the CPU"
    )
    cores: Count = 1
    clock_hz: Count | None = Field(None, description="NPU clock the vendor benchmarks at")
    macs_per_cycle_int8: Count | None = None
    macs_per_cycle_float: Count | None = None
    ddr_bytes_per_cycle: float | None = Field(None, gt=0, description="the compiler's own memory model")
    sixteen_bit: Literal["float16", "int16"] | None = Field(
        None, description="what single tensors of an int8 model can be instead"
    )
    never_sixteen_bit: tuple[str, ...] = Field(
        (), description="kinds of tensors, as plans name them, that the compiler can't make in it"
    )
    cpu_ops: dict[str, str] = Field(
        default_factory=dict, description="op type -> why it leaves the NPU, what to try"
    )

    def macs_of(self, pixels: int, inputs: int, outputs: int) -> int:
        """Multiply-accumulates of a 1x1 convolution as this NPU computes them, in whole blocks."""
        blocks = (self.token_alignment, self.input_channel_alignment, self.channel_alignment_int8)
        sizes = zip((pixels, inputs, outputs), blocks, strict=True)
        return math.prod(-(-size // block) * block for size, block in sizes)


class Clock(Strict):
    """One clock domain: where its governor lives, which value to pin."""

    governor: str = Field(description="path of the governor file")
    set_frequency: str | None = Field(None, description="path written to after the governor is 'userspace'")
    read_frequency: str | None = None
    unit: Literal["Hz", "kHz"] = "Hz"
    pin: Count | None = Field(None, description="frequency to pin, in `unit`")


class Cpu(Strict):
    """The cores that an artefact runs on, for the estimate of its latency: as many as are alike."""

    cores: int = Field(ge=1, le=256)
    ghz: float = Field(gt=0, le=10)
    pipes: Literal[1, 2] = Field(1, description="128-bit multiply-add pipes for floats")
    in_order: StrictBool = Field(False, description="whether it executes in order")
    dot_product: StrictBool = Field(False, description="whether it has dot products of int8 (Armv8.2)")


class Board(Strict):
    """One board or SoC. Adding one is adding a file: the code asks for capabilities, never for a name."""

    id: str = Field("", description="the file's name without .toml; filled in when read")
    name: str
    backend: str = Field(description="whose tools make the artefact, and which runtime runs it")
    source: str = Field(description="where the limits come from")
    precisions: tuple[PrecisionName, ...] = Field((FLOAT, DEFAULT), min_length=1)
    refuse: dict[str, str] = Field(
        default_factory=dict, description="a precision -> why it can't be had here"
    )
    rewrites: tuple[str, ...] = Field((), description="exact rewrites that pay on this target")
    compatible: tuple[str, ...] = Field(
        (), description="beginnings of device-tree names, or android,ABI, that identify the board"
    )
    toolkit: str | None = Field(
        None, description="release of the vendor's converter, where not the usual one: 2.3.2"
    )
    npu: Npu | None = None
    cpu: Cpu | None = None
    clocks: dict[str, Clock] = Field(default_factory=dict)
    temperature: tuple[str, ...] = Field((), description="paths of thermal sensors, in millidegrees")

    @property
    def toolchain(self) -> str:
        """The vendor's converter, and its release where one is asked for: rknn, or rknn@2.3.2."""
        return self.backend if self.toolkit is None else f"{self.backend}@{self.toolkit}"


class Recipe(Strict):
    """A named way to quantize: how many images, whether to condition, who chooses ranges, the vendors' settings."""

    id: str = ""
    name: str
    source: str
    calibration_images: int = Field(ge=1, le=4096)
    options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="settings of a vendor's tools, by the backend's name"
    )
    conditioning: StrictBool = Field(
        False, description="rotate and shift the float model, exactly, to fit int8"
    )
    observer: Literal["vendor", "measured", "minmax", "percentile", "mse", "output-error"] = Field(
        "vendor", description="who chooses int8 ranges; measured: what is best on held-out calibration images"
    )
    search_minutes: float = Field(0.0, ge=0, description="time to find what must stay in 16 bits; 0: nothing")
    seed: Seed = 0


Model = TypeVar("Model", bound=Strict)


def read_toml(path: Path, model: type[Model]) -> Model:
    """Read a TOML file into `model`. Raises InputError naming the file, the key and the likely fix."""
    what = f"{path} is not a valid {model.__name__.lower().removesuffix('file')}"
    if len(path.stem.encode(errors="surrogateescape")) > MAX_ID_BYTES:
        raise InputError(what, f"its name has more than {MAX_ID_BYTES} bytes", "Rename the file")
    values = parse_toml(read_input(path, f"cannot read {path}"), what)
    try:
        return model.model_validate({**values, "id": path.stem})
    except ValidationError as error:
        raise InputError(what, *explain(error, model)) from None


def parse_toml(content: bytes, what: str) -> dict[str, Any]:
    """The tables of a TOML file. Raises InputError, beginning with `what`."""
    try:
        return tomllib.loads(content.decode())
    except RecursionError:
        raise InputError(what, "its values are nested too deeply", "Correct the file") from None
    except ValueError as error:  # also numbers of thousands of digits
        raise InputError(what, str(error).rstrip("."), "Correct the file") from None


def explain(error: ValidationError, model: type[Strict]) -> tuple[str, str]:
    """(why, fix) of a validation error; an unknown key comes first: it often explains a missing one."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), known_keys(model), n=1)
        return f"unknown key {where}", f"Rename it to {near[0]}" if near else "Remove it"
    return f"{where}: {first['msg'].lower().removeprefix('value error, ')}", "Correct the value"


def known_keys(model: type[Strict]) -> list[str]:
    """Every key of a file of this kind, nested ones included."""
    keys = list(model.model_fields)
    if model is Board:
        keys += [*Npu.model_fields, *Cpu.model_fields, *Clock.model_fields]
    return keys


def load_board(name: str) -> Board:
    """A shipped profile by name, or a file by path. Raises InputError with the nearest name."""
    return read_toml(_find(name, "boards", "target"), Board)


def load_recipe(name: str) -> Recipe:
    """A shipped calibration recipe by name, or a file by path."""
    return read_toml(_find(name, "calibration", "calibration recipe"), Recipe)


def shipped(folder_name: str) -> list[str]:
    """Names of the TOML files that ship in a data folder, sorted."""
    return sorted(path.stem for path in folder(folder_name).glob("*.toml"))


def _find(name: str, folder_name: str, kind: str) -> Path:
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"cannot read {kind} {name}", "no such file", "Check the path")
        return path
    names = shipped(folder_name)
    if name in names:
        return folder(folder_name) / f"{name}.toml"
    near = difflib.get_close_matches(name, names, n=1)
    fix = f"Did you mean {near[0]}? All: " if near else "Choose from "
    raise InputError(f"unknown {kind} {name!r}", "no shipped file has that name", fix + ", ".join(names))
