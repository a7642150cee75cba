"""Longer tasks: `nox -l` lists them, `nox -s slow` runs one."""

from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12", "3.13"]

nox.options.sessions = ["tests", "lint", "train", "wheel", "oldest", "no_extension"]
nox.options.reuse_existing_virtualenvs = False


@nox.session
def tests(session):
    """Run the tests as the README does."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def train(session):
    """Do what the README's first command does."""
    session.install(".[train]")
    session.chdir(session.create_tmp())
    session.run("bptt", "train")


@nox.session
def slow(session):
    """Run the checks that take minutes."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "slow", "--timeout=1800", *session.posargs)


@nox.session
def lint(session):
    """Run every linter on every file."""
    session.install("-e", ".[test,dev]")
    session.run("pre-commit", "run", "--all-files")


@nox.session
def sdist(session):
    """Build the sdist, and from it the wheel, into dist/."""
    session.install("build")
    session.run("python", "-m", "build", "--outdir", "dist", external=True)


@nox.session(python=PYTHONS)
def wheel(session):
    """Build a wheel from the sdist and test it, installed, away from the sources."""
    session.install("build")
    out = Path(session.create_tmp()) / "dist"
    session.run("python", "-m", "build", "--outdir", str(out))
    newest = max(out.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    session.install(f"{newest}[test]")
    tests = Path("tests").resolve()
    config = Path("pyproject.toml").resolve()
    session.chdir(session.create_tmp())
    session.run("pytest", "-c", str(config), "--rootdir", str(tests), str(tests))


@nox.session
def oldest(session):
    """Run the tests with the oldest NumPy that is promised."""
    session.install("numpy==1.26.0")
    session.install("-e", ".[test]", "numpy==1.26.0")
    session.run("pytest")


@nox.session
def no_extension(session):
    """Run the tests without the compiled kernels."""
    session.install(".[test]", env={"BPTT_NO_EXTENSION": "1"})
    tests = Path("tests").resolve()
    config = Path("pyproject.toml").resolve()
    session.chdir(session.create_tmp())
    session.run(
        "pytest",
        "-c",
        str(config),
        "--rootdir",
        str(tests),
        str(tests),
    )


@nox.session
@nox.parametrize("isa", ["avx512", "avx2", "base"])
def isa(session, isa):
    """Run the whole suite under one instruction set, where this machine has it."""
    session.install("-e", ".[test]")
    session.run("pytest", "tests", env={"BPTT_ISA": isa})


@nox.session
def debug(session):
    """Run the tests with bounds checks and assertions compiled in."""
    session.install("-e", ".[test]", env={"BPTT_DEBUG": "1"})
    session.run("pytest", "tests")


@nox.session
def bench(session):
    """Time the kernels against the NumPy fallback."""
    session.install("-e", ".[test]")
    session.run("pytest", "bench", "--benchmark-enable", *session.posargs)
