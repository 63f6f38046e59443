"""The gates of a recurrent unit on the emulator: right in every type and layout, and planted bugs are found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated import (
    ANY,
    ROOT,
    TOLERANCE,
    TYPES,
    Kernels,
    LaunchError,
    arrange,
    compile_kernels,
    empty_like,
    rounded,
    sanitizer_environment,
    widened,
)

KINDS = {"gate": (0, 3, 2), "gate backward": (1, 5, 3), "blend": (2, 3, 1), "blend backward": (3, 4, 3)}
"""Number of the kernel, of what it reads, and of what it writes."""


def reference(kind: str, parts: list[ANY]) -> list[ANY]:
    """In float64."""
    given = [widened(part) for part in parts]

    def sigmoid(x: ANY) -> ANY:
        return np.where(x < 0, np.exp(np.minimum(x, 0)), 1) / (1 + np.exp(-np.abs(x)))

    if kind == "gate":
        z_pre, r_pre, h = given
        return [sigmoid(z_pre), sigmoid(r_pre) * h]
    if kind == "gate backward":
        grad_z, grad_reset, z, r_pre, h = given
        r = sigmoid(r_pre)
        return [grad_z * z * (1 - z), grad_reset * h * r * (1 - r), grad_reset * r]
    if kind == "blend":
        z, h, candidate_pre = given
        return [z * h + (1 - z) * np.tanh(candidate_pre)]
    grad, z, h, candidate_pre = given
    c = np.tanh(candidate_pre)
    return [grad * (h - c), grad * z, grad * (1 - z) * (1 - c * c)]


def run(kernels: Kernels, kind: str, parts: list[ANY], dtype: str) -> list[ANY]:
    """The kernel's results, in the layout of the last tensor."""
    number, _, count = KINDS[kind]
    out = [empty_like(parts[-1], parts[-1].shape[2]) for _ in range(count)]
    b, t, n, f = parts[0].shape
    call = kernels.types["StgraphGru"](kind=number, type=TYPES[dtype], batch=b, time=t, nodes=n, width=f)
    for name, part in zip(("first", "second", "third", "fourth", "fifth"), parts, strict=False):
        setattr(call, name, tensor(kernels, part))
    for name, part in zip(("out_first", "out_second", "out_third"), out, strict=False):
        setattr(call, name, tensor(kernels, part))
    kernels.call("stgraph_cuda_gru", call)
    return out


def tensor(kernels: Kernels, x: ANY) -> Any:
    """As the registration gives it: an axis of size 1 has no stride."""
    steps = [0 if size == 1 else step // x.itemsize for size, step in zip(x.shape[:3], x.strides, strict=False)]
    return kernels.types["StgraphTensor"](x.ctypes.data, *steps, 0)


SHAPES = ((1, 1, 1, 1), (1, 1, 5, 3), (2, 3, 7, 8), (2, 1, 9, 33), (1, 3, 2, 64), (3, 2, 70, 16), (2, 2, 0, 4))


def checks(kernels: Kernels, floats: tuple[str, ...] = tuple(TYPES)) -> None:
    """All kernels, in every type, in layouts that mix."""
    layouts = ("batch", "node", "odd")
    number = 0
    for kind, (_, count, _) in KINDS.items():
        for shape in SHAPES:
            for dtype in floats:
                for shift in range(4):
                    number += 1
                    rng = np.random.default_rng(number)
                    # shift 0: all alike; else mixed
                    parts = [arrange(rounded(3 * rng.standard_normal(shape), dtype),
                                     layouts[(number + (k * shift)) % 3]) for k in range(count)]
                    results = []
                    for seed in (0, 7):
                        kernels.configure(seed)
                        results.append(run(kernels, kind, parts, dtype))
                    for got, again, wanted in zip(*results, reference(kind, parts), strict=True):
                        assert np.ascontiguousarray(got).tobytes() == np.ascontiguousarray(again).tobytes()
                        error = np.abs((widened(got) if got.dtype == np.uint16 else got.astype(np.float64)) - wanted)
                        limit = 4 * TOLERANCE[dtype] * (1 + np.abs(wanted))
                        assert (error <= limit).all(), f"{kind} {shape} {dtype}: off by {error.max()}"


def test_gates(kernels: Kernels) -> None:
    checks(kernels)


def test_ends_of_the_range_and_not_a_number(kernels: Kernels) -> None:
    x = np.array([-np.inf, -200, -88, -1e-30, 0, 1e-30, 88, 200, np.inf, np.nan], np.float32).reshape(1, 1, -1, 1)
    one = np.ones_like(x)
    z, reset = (part.ravel() for part in run(kernels, "gate", [x, x, one], "float32"))
    wanted = [0, 0, np.exp(-88.0), 0.5, 0.5, 0.5, 1, 1, 1, np.nan]
    np.testing.assert_allclose(z, wanted, rtol=1e-6, atol=1e-45)
    np.testing.assert_array_equal(z, reset)
    zero = np.zeros_like(x)
    blended = run(kernels, "blend", [zero, zero, x], "float32")[0].ravel()
    np.testing.assert_allclose(blended, np.tanh(x.ravel().astype(np.float64)), rtol=1e-6, atol=0)


def test_an_unknown_kind_is_refused(kernels: Kernels) -> None:
    call = kernels.types["StgraphGru"](kind=9)
    with pytest.raises(LaunchError):
        kernels.call("stgraph_cuda_gru", call)


MUTANTS = (
    ("the wrong gate is multiplied", "out[1] = sigmoid(in[1]) * in[2];", "out[1] = sigmoid(in[0]) * in[2];", False),
    ("a tile of channels too far", "channel >= p.width) return;", "channel > p.width) return;", True),
    ("vectors where nothing is aligned", "wide = wide && aligned(", "wide = wide || aligned(", False),
    ("rows joined that do not lie together", "p.part[k].*step != call.width", "p.part[k].*step < call.width", False),
    ("the slope of tanh without its square", "(1 - candidate * candidate)", "(1 - candidate)", False),
)


@pytest.mark.parametrize(("what", "old", "new", "sanitize"), MUTANTS, ids=[one[0] for one in MUTANTS])
def test_planted_bugs_are_found(what: str, old: str, new: str, sanitize: bool, tmp_path: Path, library: Path) -> None:
    for folder in ("cuda", "emulator"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    file = tmp_path / "cuda" / "gru.cu"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    flags = ("-DSTGRAPH_FLOAT32_ONLY", "-Wno-error",
             *(("-fsanitize=address", "-fno-omit-frame-pointer", "-g1") if sanitize else ()))
    made = compile_kernels(tmp_path / "out", ("gru",), tmp_path, flags,
                           () if sanitize else (library.parent / "emulator.o",))
    done = subprocess.run([sys.executable, __file__, str(made)], capture_output=True, text=True, check=False,
                          env=sanitizer_environment() if sanitize else None)
    assert done.returncode != 0, f"{what}: not noticed"
    assert ("AddressSanitizer" if sanitize else "Error") in done.stderr, done.stderr[-2000:]


def test_the_unplanted_kernel_passes_the_program(library: Path) -> None:
    subprocess.run([sys.executable, __file__, str(library)], check=True)


if __name__ == "__main__":
    made = Kernels(Path(sys.argv[1]))
    checks(made, ("float32",))
