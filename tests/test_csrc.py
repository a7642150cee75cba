"""The compute layer bptt/csrc by itself: the programs of tests/csrc, built and run."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tolerances import ACTIVATION_ULPS, VECTOR_ULPS

from bptt import _threads

PROGRAMS = Path(__file__).with_name("csrc")
CSRC = Path(__file__).parents[1] / "bptt" / "csrc"
CC = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the programs are for POSIX"),
    pytest.mark.skipif(CC is None, reason="there is no C compiler"),
    pytest.mark.skipif(not CSRC.is_dir(), reason="there are no sources of the kernels"),
]

# As setup.py has them, but for the optimisation.
FLAGS = ["-std=c11", "-ffp-contract=off", "-pthread"]
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]
MEMORY = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
THREADS = ["-O1", "-g", "-fsanitize=thread"]

ULPS = str(ACTIVATION_ULPS)
BOUNDS = {name: f"{name}={ulps}" for name, ulps in VECTOR_ULPS.items()}


def run(*command, timeout=280):
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return done.returncode, done.stdout[-3000:] + done.stderr[-3000:]


def check(*command, timeout=280):
    """Run a program, which must find nothing; return what it says."""
    code, output = run(*command, timeout=timeout)
    assert code == 0, output
    return output


class Builder:
    """A compiler with its flags, and a folder to build in."""

    def __init__(self, folder, *flags, compiler=CC, csrc=CSRC):
        self.folder, self.csrc = folder, csrc
        self.compiler = [compiler, *FLAGS, *flags, "-I", csrc]

    def driver(self):
        return self._link("driver", [(path,) for path in sorted(self.csrc.glob("*.c"))])

    def calls(self):
        units = [(self.csrc / "pool.c",), (self.csrc / "barrier.c",)]
        return self._link("calls", units)

    def of_functions(self, *names):
        units = [(PROGRAMS / "isas.c",)]
        for isa in ("avx512", "avx2", "base", "scalar"):
            units.append((PROGRAMS / "isa_functions.c", f"-DISA_{isa}"))
        return [self._link(name, units) for name in names]

    def read(self, *units):
        """Have the compiler read texts, and make nothing of them."""
        for source, *flags in units:
            check(*self.compiler, *flags, "-fsyntax-only", source)

    def _link(self, name, units):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(self._compile, [*units, (PROGRAMS / f"{name}.c",)]))
        check(*self.compiler, *objects, "-o", self.folder / name, "-lm")
        return self.folder / name

    def _compile(self, unit):
        source, *flags = unit
        made = self.folder / f"{source.stem}{''.join(flags)}.o"
        if not made.exists():
            check(*self.compiler, *flags, "-c", source, "-o", made, timeout=1500)
        return made


def test_random_shapes_threads_and_instruction_sets(tmp_path):
    output = check(Builder(tmp_path, "-O1").driver(), 9, ULPS)
    isas = [line.split(":")[0] for line in output.splitlines() if "shapes" in line]
    kernels = pytest.importorskip("bptt._kernels", exc_type=ImportError)
    assert isas == kernels.supported_isas()


def test_calls_of_the_pool(tmp_path):
    check(Builder(tmp_path, "-O1").calls(), 2000)


def test_the_vocabulary_the_activations_and_their_errors_in_ulp(tmp_path):
    simd, activation, ulp = Builder(tmp_path, "-O1").of_functions(
        "test_simd", "test_activation", "test_ulp"
    )
    check(simd)
    check(activation, ULPS)
    check(ulp, 997, 65536, *BOUNDS.values())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("function", BOUNDS)
def test_errors_in_ulp_of_every_float(function, tmp_path):
    (ulp,) = Builder(tmp_path, "-O3").of_functions("test_ulp")
    check(ulp, 1, 5_000_000, BOUNDS[function], timeout=3600)


def sanitizer(folder, compiler, flags):
    """Return a builder with the flags, if the compiler can link with them."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    source = folder / "nothing.c"
    source.write_text("int main(void)\n{\n    return 0;\n}\n")
    program = folder / "nothing"
    if run(compiler, *flags, source, "-o", program)[0] or run(program)[0]:
        pytest.skip(f"{compiler} has no {flags[-1]} here")
    return Builder(folder, *flags, compiler=compiler)


BOTH_COMPILERS = pytest.mark.parametrize("compiler", ["gcc", "clang"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@BOTH_COMPILERS
def test_no_report_of_address_and_undefined_behaviour_sanitizers(compiler, tmp_path):
    builder = sanitizer(tmp_path, compiler, MEMORY)
    check(builder.driver(), 36, ULPS, timeout=1500)
    simd, activation = builder.of_functions("test_simd", "test_activation")
    check(simd)
    check(activation, ULPS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@BOTH_COMPILERS
def test_no_report_of_the_thread_sanitizer(compiler, tmp_path):
    builder = sanitizer(tmp_path, compiler, THREADS)
    check(builder.calls(), 2000)
    check(builder.driver(), 24, ULPS, timeout=1500)


@BOTH_COMPILERS
def test_there_is_no_warning_of_the_texts_alone(compiler, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    builder = Builder(tmp_path, *WARNINGS, "-O3", compiler=compiler)
    texts = [*CSRC.glob("*.c"), *PROGRAMS.glob("*.c")]
    builder.read(*((text,) for text in texts if text.stem != "isa_functions"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@BOTH_COMPILERS
def test_there_is_no_warning(compiler, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    # Without optimisation gcc has macros for intrinsics, and warns of its own.
    builder = Builder(tmp_path, *WARNINGS, "-O3", compiler=compiler)
    builder.driver()
    builder.calls()
    builder.of_functions("test_simd", "test_activation", "test_ulp")


def replace(csrc, file, old, new):
    text = (csrc / file).read_text()
    assert text.count(old) == 1, (file, old)
    (csrc / file).write_text(text.replace(old, new))


def delete_isa(csrc, isa):
    (csrc / f"kernels_{isa}.c").unlink()
    replace(csrc, "dispatch.c", f"    ROW({isa}),\n", "")


def base_only(folder):
    """Return a copy of the sources that is soon built."""
    csrc = shutil.copytree(CSRC, folder / "csrc")
    for isa in ("avx512", "avx2"):
        delete_isa(csrc, isa)
    return csrc


@pytest.mark.slow
def test_single_lanes_where_the_compiler_has_no_vectors(tmp_path):
    builder = Builder(tmp_path, "-O1", "-DBPTT_SCALAR", csrc=base_only(tmp_path))
    check(builder.driver(), 24, ULPS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_vectors_and_tiles_of_avx512_on_any_machine(tmp_path):
    # Its texts and sizes, with vectors that the compiler takes apart.
    csrc = base_only(tmp_path)
    replace(csrc, "simd_base.h", "#define VBYTES 16\n", "#define VBYTES 64\n")
    replace(csrc, "simd_base.h", "#define V_REGISTERS 16\n", "#define V_REGISTERS 32\n")
    replace(csrc, "kernels_base.c", "TILE_ROWS     6\n", "TILE_ROWS     12\n")
    replace(csrc, "kernels_base.c", "FETCH_COLUMNS 0\n", "FETCH_COLUMNS 1\n")
    check(Builder(tmp_path, "-O1", csrc=csrc).driver(), 48, ULPS, timeout=1500)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["avx512", "avx2"])
def test_an_instruction_set_can_be_deleted(isa, tmp_path):
    csrc = shutil.copytree(CSRC, tmp_path / "csrc")
    delete_isa(csrc, isa)
    output = check(Builder(tmp_path, "-O1", csrc=csrc).driver(), 9, ULPS)
    assert f"{isa}:" not in output


# The driver is proved as the reference is: by mistakes that it must find.
PLANTED = {
    "a run of the sum is dropped": (
        "gemm.inc.h",
        "&start, last, &out, x->out_full ? VLEN : last, k > 0);",
        "&start, last, &out, x->out_full ? VLEN : last, 0);",
    ),
    "gradients are not added up over chunks": (
        "gemm.inc.h",
        "                if (add || k > 0)\n",
        "                add = 0;\n                if (k > 0)\n",
    ),
    "the slope of the sum, not of the state": (
        "activation.inc.h",
        "return v_fnma(z, z, one);",
        "return v_sub(one, v_mul(v_tanh(z), v_tanh(z)));",
    ),
    "an error is measured behind sigma'": (
        "record.inc.h",
        "vreal sum = v_mul(e[0], e[0]);",
        "vreal sum = v_mul(v_mul(e[0], d[0]), v_mul(e[0], d[0]));",
    ),
    "what fills up a row is counted": (
        "record.inc.h",
        "    d[nv - 1] = v_select(lanes, d[nv - 1], v_set1((real)INFINITY));\n",
        "",
    ),
    "a panel of an error is measured in another's place": (
        "record.inc.h",
        "at = c0 / PANEL * x->stride + x->row + r0",
        "at = x->row + r0",
    ),
    "a row is left to nobody": (
        "plan.c",
        ".r1 = bptt_split(B, tid + 1, n)};",
        ".r1 = bptt_split(B, tid + 1, n) - (n == 3 && B >= n)};",
    ),
    "threads do not meet": (
        "barrier.c",
        "    for (int i = 0; i < nthreads; i++) {\n        waiting w",
        "    for (int i = 0; i < nthreads - 1; i++) {\n        waiting w",
    ),
    "runs depend on the batch": (
        "gemm.inc.h",
        "ptrdiff_t k1 = x->K - k < x->run ? x->K : k + x->run;",
        "ptrdiff_t k1 = x->K - k < x->run ? x->K : k + x->run - x->run / 4;",
    ),
}


PLANTED_IN_POOL = {
    "threads do not meet": PLANTED["threads do not meet"],
    "a call begins with one that it has given up": (
        "pool.c",
        "counter_load(&other->state) == COME ? n++ : 0;",
        "n++;",
    ),
    "a call begins with those it has sent away": (
        "pool.c",
        "are_slow(count, called, answer))\n            n = 1;",
        "are_slow(count, called, answer))\n            n += 0;",
    ),
    "the call returns before the others have": (
        "pool.c",
        "pool.workers[i].tid && counter_load",
        "i + 1 < count && pool.workers[i].tid && counter_load",
    ),
    "two calls at once": (
        "pool.c",
        "counter_swap(&pool.busy, 1) != 0",
        "counter_load(&pool.busy) == 2",
    ),
}


@pytest.mark.parametrize(
    ("file", "old"),
    [(file, old) for file, old, _ in (*PLANTED.values(), *PLANTED_IN_POOL.values())],
)
def test_there_is_what_a_planted_mistake_stands_for(file, old):
    # The tests below are slow, and would say so late.
    assert (CSRC / file).read_text().count(old) == 1


@pytest.mark.parametrize("mistake", PLANTED_IN_POOL)
def test_the_calls_find_a_planted_mistake(mistake, tmp_path):
    if ("given up" in mistake or "sent away" in mistake) and _threads.processors() == 1:
        pytest.skip("nobody is left out where there are more threads than processors")
    csrc = shutil.copytree(CSRC, tmp_path / "csrc")
    replace(csrc, *PLANTED_IN_POOL[mistake])
    calls = Builder(tmp_path, "-O1", csrc=csrc).calls()
    try:
        code, output = run(calls, 2000, timeout=10)
    except subprocess.TimeoutExpired:
        return
    assert code != 0, output


@pytest.mark.slow
@pytest.mark.parametrize("mistake", PLANTED)
def test_the_driver_finds_a_planted_mistake(mistake, tmp_path):
    csrc = base_only(tmp_path)
    replace(csrc, *PLANTED[mistake])
    code, output = run(Builder(tmp_path, "-O1", csrc=csrc).driver(), 24, ULPS)
    assert code == 1, output
    assert "FAIL" in output
