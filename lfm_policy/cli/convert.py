"""`lfm convert`: recordings of other layouts and versions to robomimic's HDF5 layout, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lfm_policy.flow.errors import LFMError

SUFFIXES = {".hdf5": "robomimic", ".h5": "robomimic", ".npz": "npz", ".zarr": "zarr", ".zarr.zip": "zarr"}


def convert(
    source: str,
    output: str = "",
    layout: Literal["robomimic", "robosuite", "npz", "zarr"] | None = None,
    env_id: str = "",
    env_kwargs: dict[str, Any] | None = None,
    replay: bool | None = None,
    actions: str = "",
    states: str = "",
    observation: dict[str, str] | None = None,
    valid_fraction: float = 0.1,
    n_procs: int = 1,
    overwrite: bool = False,
) -> int:
    """Convert a recording; what robosuite recorded is replayed, for today's observations and absolute actions.

    Args:
        source: robomimic's or robosuite's HDF5 file of any version, npz arrays, or a zarr store.
        output: file to write, .hdf5, .npz, .zarr or .zarr.zip.
        layout: of the output; default is by its name, robomimic's for .hdf5.
        env_id: environment of the episodes, where the source tells none.
        env_kwargs: its arguments.
        replay: restore the recorded states and observe anew; default is where the environment can.
        actions: array of actions in npz and zarr; default is action.
        states: array of simulator states in npz and zarr; default is state.
        observation: observations in npz and zarr, {agent_pos: "state[0:2]"}; default is every other array.
        valid_fraction: share of the episodes that mask/valid names, where the source has no masks.
        n_procs: processes that replay; the file does not depend on it.
        overwrite: replace the output if it exists.
    """
    from lfm_policy.conversion.arrays import Columns
    from lfm_policy.conversion.run import Conversion
    from lfm_policy.conversion.run import convert as run
    from lfm_policy.evaluation.environment import EnvSpec

    if not output:
        raise LFMError("--output is missing; name the file to write (see `lfm convert --help`)")
    path = Path(output)
    _check(path, n_procs, valid_fraction, overwrite)
    conversion = Conversion(
        Path(source),
        path,
        layout or _layout(path),  # type: ignore[arg-type]
        EnvSpec(env_id, env_kwargs or {}),
        Columns(actions, states, observation or {}),
        replay,
        n_procs,
        valid_fraction,
        overwrite,
    )
    summary = run(conversion, progress=True)
    if summary.refusal:
        print(f"recorded models are not the simulator's ({summary.refusal}); its own were used")
    print(f"{output}: {summary.n_episodes} demonstrations, {summary.n_frames} frames, from {summary.layout}")
    if summary.env_id:
        best = sum(summary.best_rewards) / len(summary.best_rewards)
        told = f"{summary.n_success} of {summary.n_episodes} succeed, mean of highest rewards {best:.3f}"
        print(f"replayed in {summary.env_id}: {told}")
    if conversion.layout == "robomimic":
        print(f"look it through with `lfm inspect {output}`")
    return 0


def _layout(path: Path) -> str:
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.endswith(suffix):
            return SUFFIXES[suffix]
    raise LFMError(f"--output {path}: must end in {', '.join(SUFFIXES)}")


def _check(path: Path, n_procs: int, valid_fraction: float, overwrite: bool) -> None:
    from lfm_policy.evaluation.files import check_outputs

    # a zarr store is a folder
    if not path.is_dir() or not path.name.endswith(".zarr"):
        check_outputs({"output": str(path)}, overwrite)
    elif not overwrite:
        raise LFMError(f"--output {path}: exists already; choose another name or set --overwrite true")
    if n_procs < 1:
        raise LFMError(f"--n_procs {n_procs}: must be 1 or more")
    if not 0 <= valid_fraction < 1:
        raise LFMError(f"--valid_fraction {valid_fraction}: must be 0 or more and below 1")
