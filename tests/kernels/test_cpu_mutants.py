"""Bugs planted in the CPU kernels are found by the tests of the operators (``tests/ops``).

All bugs are compiled into one library, each behind a number; a run chooses one of them (``planted.py``). A bug replaces
one expression (or one statement, ending in ``;``) of the sources, found by its text.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from emulated import ROOT

from stgraph.ops.loader import TARGET, compiler

PLANTED = Path(__file__).with_name("planted.py")
LEVELS = "#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)"
SWITCH = """
extern int planted_bug;
inline bool planted(int number) { return planted_bug == number; }
"""
CHOSEN = """namespace stgraph {
int planted_bug = 0;
}
extern "C" void stgraph_plant(int number) { stgraph::planted_bug = number; }
"""
SPMM, GRADIENTS, ARRANGED, ATTENTION, SEGMENT, GRU, CAUGHT = (
    f"tests/ops/test_{name}.py" for name in ("spmm", "gradients", "arranged", "attention", "segment", "gru", "caught"))


@dataclass(frozen=True)
class Mutant:
    """One planted bug: the text ``old``, or its part in ⟦ ⟧, becomes ``new``, and the tests must fail."""

    what: str
    old: str
    new: str
    tests: str
    words: str


MUTANTS = [
    # sums
    Mutant("the last channels dropped", "if (⟦channel < to⟧) rest_rows", "false", SPMM,
           "every_width and sum and batch"),
    Mutant("the last entry of an odd row left out", "if (⟦entry < end⟧) add(sum[0], entry)", "false", SPMM,
           "every_graph and sum"),
    Mutant("the last entries of a row of one channel left out", "for (; ⟦entry < end⟧; ++entry) sum[0] += value(entry)",
           "false", CAUGHT, "few_channels"),
    Mutant("one channel taken to lie side by side", "to == 1 && ⟦s.x_node == 1⟧", "true", CAUGHT, "few_channels"),
    Mutant("weights taken in the order of the entries", "if (⟦!s.edge && s.weight_edge == 1⟧)", "s.weight_edge == 1",
           SPMM, "every_graph and sum"),
    Mutant("weights taken side by side that are not", "if (⟦!s.edge && s.weight_edge == 1⟧)", "!s.edge", CAUGHT,
           "side_by_side"),
    Mutant("narrow slabs that overwrite each other", "move_slab(sums + ⟦slab * p.width⟧", "0", SPMM,
           "every_width and sum and batch"),
    Mutant("a mean that is a sum", "acc_t(1) / static_cast<acc_t>(end - entry)", "acc_t(1)", SPMM,
           "every_graph and mean"),
    Mutant("sums of 16-bit numbers in 16 bits", "to[v] += load<scalar_t, kCount>(source + v * kCount) * factor;",
           "to[v] += load<scalar_t, kCount>(source + v * kCount) * factor; for (int lane = 0; lane < kCount; ++lane) "
           "to[v][lane] = to_float(from_float<scalar_t>(to[v][lane]));", SPMM, "thirty_two"),
    Mutant("the weight of the first head for all", "of_slab + ⟦head * p.weight_stride.head⟧", "0", SPMM,
           "every_weight and heads and sum"),
    Mutant("the weight of another step", "b * p.weight_stride.batch + ⟦t * p.weight_stride.time⟧",
           "b * p.weight_stride.time", SPMM, "every_weight and time and sum"),
    Mutant("an addend with the strides of the result", "s.addend_node = ⟦p.addend_stride.node⟧", "p.out_stride.node",
           CAUGHT, "addend"),
    Mutant("the last row of a range left out", "return part == 0 ? 0 : ⟦p.rows⟧", "p.rows - 1", SPMM,
           "every_graph and sum"),
    Mutant("a maximum that names the entry for the edge", "chosen[c] < 0 ? -1 : ⟦s.edge ? s.edge[entry] : entry⟧;",
           "entry", SPMM, "which_edge"),
    Mutant("a maximum that forgets a NaN", "(value > best) | ⟦((value != value) & (best == best))⟧", "positions{}",
           SPMM, "nan_reaches and max"),
    # gradients of maxima
    Mutant("a gradient with the weight of the first head", "t * p.weight_stride.time + ⟦head * p.weight_stride.head⟧",
           "0", SPMM, "small_differences and heads and max"),
    Mutant("a gradient to the entry for the edge", "if (⟦chose[c] == edge⟧) sum[c] +=", "chose[c] == entry", SPMM,
           "small_differences and edge and max"),
    Mutant("a gradient of weights that were not chosen", "if (⟦chose[c] == edge⟧) sum +=", "chose[c] >= 0", SPMM,
           "small_differences and edge and max"),
    # products at the edges
    Mutant("products in the order of the entries", "int64_t edge = ⟦p.edge ? read(p, p.edge, entry) : entry⟧;",
           "entry", SPMM, "test_sddmm and not gradients"),
    Mutant("a block of products read from the wrong place",
           "from_float<scalar_t>(sums[(entry - ⟦block⟧) * p.heads + head])", "first", CAUGHT, "sddmm"),
    Mutant("products of another step", "int64_t from_time = p.by_time ? ⟦kept % kept_time⟧ : 0", "kept / kept_time",
           SPMM, "test_sddmm and not gradients"),
    Mutant("products of the first step only", "to_time = p.by_time ? from_time + 1 : ⟦p.time⟧", "from_time + 1", SPMM,
           "small_differences and batch and sum"),
    Mutant("the last channels of a product dropped",
           "for (; channel < width; ++channel) sum += to_float(a[channel]) * to_float(b[channel]);", ";", SPMM,
           "test_sddmm and not gradients"),
    # both gradients at one go
    Mutant("weights and their gradients in the order of the entries",
           "return ⟦edge ? static_cast<int64_t>(edge[begin + at]) : begin + at⟧;", "begin + at", GRADIENTS,
           "sum_in_64_bits and bipartite"),
    Mutant("the product of the last slab alone", "block.product[entry] += total<acc_t>(product);",
           "block.product[entry] = total<acc_t>(product);", GRADIENTS, "sum_in_64_bits and bipartite"),
    Mutant("a block that reads the columns of the first", "static_cast<const index_t*>(p.col) + ⟦block.entry⟧", "0",
           GRADIENTS, "over_threads and 40"),
    Mutant("gradients of an arranged graph left in its order",
           "int64_t row = ⟦order ? static_cast<int64_t>(order[place]) : place⟧, end", "place", ARRANGED, "gradients"),
    # rows and rounding
    Mutant("rows written with the strides they were read with", "from.node * size, ⟦to.node * size⟧",
           "from.node * size", SEGMENT, "gathered_rows"),
    Mutant("bfloat16 cut off, one number", "uint32_t rounded = ⟦(bits + 0x7FFF + ((bits >> 16) & 1)) >> 16⟧",
           "bits >> 16", CAUGHT, "rounded"),
    Mutant("bfloat16 cut off, whole vectors", "wide rounded = ⟦(bits + 0x7FFF + ((bits >> 16) & 1)) >> 16⟧",
           "bits >> 16", CAUGHT, "rounded"),
    # attention
    Mutant("the sign of a logarithm", "best + std::log(mass)", "best - std::log(mass)", CAUGHT, "logarithm"),
    Mutant("another mask in the backward pass", "drop(p, ⟦block.edge⟧, block.count, slab, head, mask)", "block.node",
           ATTENTION, "definition and bipartite"),
    Mutant("the same mask for all heads", "p.batch * p.time + slab) * p.heads + ⟦head⟧)", "0", ATTENTION,
           "definition and bipartite"),
    Mutant("what is kept not scaled up", "< p.dropped ? acc_t(0) : ⟦p.kept_scale⟧", "acc_t(1)", ATTENTION,
           "definition and bipartite"),
    Mutant("scores of edges in the order of the entries",
           "read_entries(p.graph, ⟦p.graph.edge⟧, entry, block.count, block.edge)", "nullptr", ATTENTION,
           "definition and bipartite"),
    Mutant("lanes without an entry count", "bounded(value, i, block.count, -std::numeric_limits<acc_t>::infinity())",
           "value", ATTENTION, "definition and bipartite"),
    Mutant("earlier entries not scaled down", "⟦fresh || before == best⟧ ? acc_t(1)", "true", ATTENTION,
           "definition and star"),
    Mutant("a row of -inf shifted by -inf", "best == none ? acc_t(0) : best", "best", ATTENTION, "taken_out"),
    Mutant("a gradient without the slope", "if (!p.product) through *= load(block.slope + i);", ";", ATTENTION,
           "definition and bipartite"),
    Mutant("a gradient without its delta", "through - ⟦load(block.delta + i)⟧", "Lanes<acc_t>{}", ATTENTION,
           "definition and bipartite"),
    Mutant("a gradient without the scale",
           "p.channels.write(p.product ? sum : &single, ⟦p.product ? p.factor : acc_t(1)⟧, p.product ? p.width : "
           "1,\n                   p.grad_query", "acc_t(1)", ATTENTION, "definition and bipartite"),
    Mutant("the last channels of an attention left out",
           "one += ⟦weight[i] * to_float(row_of<scalar_t>(base, stride, node[i])[c])⟧", "acc_t(0)", ATTENTION,
           "any_width"),
    # recurrent units
    Mutant("the last channels of a gate left out", "if (first == count) return;", "return;", GRU, "kernels_equal"),
    Mutant("the slope of a tangent without its square", "(1 - ⟦candidate * candidate⟧)", "candidate", GRU, "gradients"),
]


def plant(work: Path) -> Path:
    """A copy of the sources in which every bug waits behind its number."""
    shutil.copytree(ROOT / "cpu", work / "cpu")
    texts = {file: file.read_text(encoding="utf-8") for file in sorted((work / "cpu").iterdir())}
    levels, common = work / "cpu" / "levels.h", work / "cpu" / "common.h"
    assert LEVELS in texts[levels], "levels.h no longer says in these words where there are several levels"
    texts[levels] = texts[levels].replace(LEVELS, "#if 0")  # one copy of each loop: a third of the time to compile
    texts[common] = texts[common].replace("namespace stgraph {\n", "namespace stgraph {\n" + SWITCH, 1)
    mutants: dict[str, list[tuple[int, Mutant]]] = {}
    for number, mutant in enumerate(MUTANTS, 1):
        mutants.setdefault(mutant.old, []).append((number, mutant))
    for text, same in mutants.items():
        before, old, after = re.split("[⟦⟧]", text) if "⟦" in text else ("", text, "")
        places = [file for file in texts if before + old + after in texts[file]]
        assert places, f"'{same[0][1].what}' cannot be planted: no file has the text {before + old + after}"
        new = old
        for number, mutant in same:
            new = f"if (planted({number})) {{ {mutant.new} }} else {{ {new} }}" if old.endswith(";") \
                else f"(planted({number}) ? ({mutant.new}) : ({new}))"
        for file in places:
            texts[file] = texts[file].replace(before + old + after, before + new + after)
    for file, words in texts.items():
        file.write_text(words, encoding="utf-8")
    (work / "cpu" / "planted.cpp").write_text(CHOSEN, encoding="utf-8")
    return work


def build(sources: Path) -> Path:
    """The library with all bugs."""
    torch_folder = Path(torch.__file__).parent
    flags = ["-std=c++20", "-O1", "-fPIC", "-Wno-psabi", "-Wno-attributes", f"-DTORCH_TARGET_VERSION={TARGET}",
             f"-I{torch_folder / 'include'}", f"-I{sources}"]
    files = sorted((sources / "cpu").glob("*.cpp"))
    running = [subprocess.Popen([str(compiler()), *flags, "-c", str(file), "-o", str(file.with_suffix(".o"))],
                                stderr=subprocess.PIPE, text=True) for file in files]
    for process in running:
        said = process.communicate()[1]
        assert process.returncode == 0, said[-4000:]
    library = sources / "planted.so"
    subprocess.run([str(compiler()), "-shared", *[str(file.with_suffix(".o")) for file in files], "-o", str(library),
                    f"-L{torch_folder / 'lib'}", "-ltorch_cpu"], check=True)
    return library


def outcomes(library: Path, runs: dict[int, str]) -> dict[int, tuple[int, str]]:
    """What pytest ended with for each number, and its last words; two programs share the work."""
    environment = {**os.environ, "STGRAPH_KERNELS": "require", "PYTHONPATH": str(ROOT.parent), "OMP_NUM_THREADS": "1"}
    files = ",".join(sorted({tests.split("|")[0] for tests in runs.values()}))
    given = [f"{number}:{tests}" for number, tests in runs.items()]
    running = [subprocess.Popen([sys.executable, str(PLANTED), str(library), files, *given[half::2]], env=environment,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for half in (0, 1)]
    found = {}
    for process in running:
        said, wrong = process.communicate()
        assert process.returncode == 0, wrong[-2000:]
        for line in said.splitlines():
            number, code, words = line.split("\t")
            found[int(number)] = (int(code), words)
    return found


def command(mutant: Mutant) -> str:
    return f"{mutant.tests}|-k|{mutant.words}"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if compiler() is None:
        pytest.skip("there is no C++ compiler")
    return build(plant(tmp_path_factory.mktemp("planted")))


def test_planted_bugs_are_caught(library: Path) -> None:
    """And the tests that catch them pass without them."""
    files = sorted({mutant.tests for mutant in MUTANTS})
    runs = {number: command(mutant) for number, mutant in enumerate(MUTANTS, 1)}
    runs |= {-number: "|".join([file, "-k", " or ".join(sorted({f"({mutant.words})" for mutant in MUTANTS
                                                                if mutant.tests == file}))])
             for number, file in enumerate(files, 1)}
    found = outcomes(library, runs)
    wrong = [f"{file} does not pass as it is: {found[-number]}" for number, file in enumerate(files, 1)
             if found[-number][0] != 0]
    wrong += [f"not caught: {mutant.what}: {found[number]}" for number, mutant in enumerate(MUTANTS, 1)
              if found[number][0] != 1 and found[number][0] > -1]
    assert not wrong, "\n".join(wrong)
