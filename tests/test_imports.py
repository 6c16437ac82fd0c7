"""Imports point one way: cli → training, evaluation → policy → data, nets → flow; simulators stay outside."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import lfm_policy

ROOT = Path(__file__).parent.parent
PACKAGE = Path(lfm_policy.__path__[0])
THIRD_PARTY = {"torch", "torchdiffeq", "scipy"}  # what flow may use; scipy: assignment and Beta quantiles

# Single files at the top that import nothing of ours: what says a number's origin, a progress bar.
TOOLS = {"provenance", "progress"}
BELOW_POLICY = {"data", "nets", "flow"}

# What each part of lfm_policy may import of lfm_policy, beside itself.
MAY_IMPORT: dict[str, set[str]] = {
    **{tool: set() for tool in TOOLS},
    "flow": set(),
    "nets": set(),
    "data": {"flow"},
    "policy": BELOW_POLICY,
    "density": BELOW_POLICY | TOOLS | {"evaluation", "training"},
    "image": BELOW_POLICY | TOOLS | {"evaluation", "training"},
    "integrations": BELOW_POLICY | {"policy", "training", "evaluation"},
    "evaluation": BELOW_POLICY | TOOLS | {"policy"},
    "training": BELOW_POLICY | TOOLS | {"policy", "evaluation"},
    "conversion": BELOW_POLICY | TOOLS | {"evaluation"},
    "sweep": BELOW_POLICY | TOOLS | {"policy", "evaluation", "training"},
    "cli": BELOW_POLICY
    | TOOLS
    | {"policy", "density", "image", "evaluation", "training", "integrations", "conversion", "sweep"},
}
NEVER = {"envs", "robosuite", "robomimic", "mujoco"}
ON_REQUEST = PACKAGE / "integrations" / "robomimic"  # imports robomimic, and is imported by nothing but a command


def imported(file: Path) -> set[str]:
    """Dotted names of all modules that a file imports, within functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide where they point"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(name: str) -> str | None:
    """`flow` of lfm_policy.flow.solver."""
    words = name.split(".")
    return words[1] if words[0] == "lfm_policy" and len(words) > 1 else None


def files_of(folder: Path) -> list[Path]:
    files = sorted(folder.rglob("*.py"))
    assert files, folder
    return files


def test_every_part_has_its_rule() -> None:
    parts = {module.name for module in pkgutil.iter_modules([str(PACKAGE)])}
    assert parts <= set(MAY_IMPORT), "a new part needs its place in the order"


@pytest.mark.parametrize("part", [m.name for m in pkgutil.iter_modules([str(PACKAGE)])])
def test_imports_point_one_way(part: str) -> None:
    files = files_of(PACKAGE / part) if (PACKAGE / part).is_dir() else [PACKAGE / f"{part}.py"]
    for file in files:
        wrong = {n for n in imported(file) if part_of(n) not in {None, part} | MAY_IMPORT[part]}
        assert not wrong, f"{file} imports {wrong}"


@pytest.mark.parametrize(("part", "allowed"), [("flow", THIRD_PARTY), ("nets", {"torch", "diffusers"})])
def test_flow_and_nets_use_torch_and_little_else(part: str, allowed: set[str]) -> None:
    for file in files_of(PACKAGE / part):
        outside = {name.split(".")[0] for name in imported(file)} - set(sys.stdlib_module_names)
        assert outside <= allowed | {"lfm_policy"}, f"{file} imports {outside}"


def test_the_package_reaches_no_simulator() -> None:
    """Environments come through gymnasium.make alone."""
    for file in files_of(PACKAGE):
        never = NEVER - ({"robomimic"} if file.is_relative_to(ON_REQUEST) else set())
        assert not {name.split(".")[0] for name in imported(file)} & never, file


def test_environments_know_nothing_of_the_package() -> None:
    for file in files_of(ROOT / "envs"):
        assert not {n for n in imported(file) if n.split(".")[0] in ("lfm_policy", "tests")}, file


def test_importing_the_package_loads_no_simulator_and_no_gl() -> None:
    """Every module of it but robomimic's own, in a fresh process."""
    files = [file for file in files_of(PACKAGE) if not file.is_relative_to(ON_REQUEST)]
    names = [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files]
    code = f"""
import importlib, sys
names = {[name.removesuffix(".__init__") for name in names]}
for name in names:
    importlib.import_module(name)
heavy = {{"robosuite", "robomimic", "mujoco", "mujoco_py", "OpenGL", "glfw", "pyrender", "egl_probe", "dm_control"}}
print(len(names), *sorted(heavy & {{name.split(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, *heavy = done.stdout.split()
    assert int(count) > 30
    assert heavy == []


def test_importing_the_flow_alone_loads_nothing_of_the_rest() -> None:
    code = """
import sys, lfm_policy.flow
print(*sorted({n.split(".")[1] for n in sys.modules if n.startswith("lfm_policy.")}), "h5py" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["flow", "False"]
