"""`lfm download TASK`: fetch one of robomimic's published datasets, whole and verified."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lfm_policy.flow.errors import LFMError


def download(
    task: str,
    kind: str = "ph",
    file: str = "low_dim",
    output: str | None = None,
    overwrite: bool = False,
    endpoint: str | None = None,
    repository: str = "robomimic/robomimic_datasets",
    revision: str = "main",
    retries: int = 4,
) -> int:
    """Fetch one of robomimic's published datasets; after an interruption the same command continues.

    Args:
        task: lift, can, square, transport or tool_hang.
        kind: ph (proficient human, all tasks), mh (multi-human, all but tool_hang), mg (machine-generated, lift and
            can), or paired (can).
        file: low_dim, for mg low_dim_sparse or low_dim_dense; or demo, which has states and no observations.
        output: file to write; default is like lift_ph_low_dim_v15.hdf5, in this folder.
        overwrite: replace the file if it exists.
        endpoint: address of the hub; default is the environment variable HF_ENDPOINT, or https://huggingface.co.
        repository: dataset repository on the hub.
        revision: branch, tag or commit of the repository.
        retries: how often in a row to try again when the connection fails.
    """
    from tqdm import tqdm

    from lfm_policy.data.download import arrived, fetch_file, is_here, part_of
    from lfm_policy.data.hub import ENDPOINT, Patience, dataset_address, find_file
    from lfm_policy.data.published import published_path
    from lfm_policy.evaluation.files import check_outputs
    from lfm_policy.progress import progress_bar

    path = published_path(task, kind, file)
    output = output or f"{task}_{kind}_{file}_v15.hdf5"
    check_outputs({"output": output}, overwrite=True)
    if retries < 0:
        raise LFMError(f"--retries {retries}: must be 0 or more")
    patience = Patience(retries=retries, tell=lambda line: tqdm.write(line, file=sys.stderr))
    address = dataset_address(repository, path, endpoint or os.environ.get("HF_ENDPOINT") or ENDPOINT, revision)
    remote = find_file(address, patience)
    if is_here(remote, output):
        print(f"{output}: is here already, with the published sha256")
        return 0
    check_outputs({"output": output}, overwrite)
    done, shown = arrived(remote, output), sys.stderr.isatty()
    try:
        with progress_bar(Path(output).name, remote.size, shown, done, unit="B") as bar:
            fetch_file(remote, output, _check_dataset, lambda size: bar.update(size - bar.n), patience)
    except KeyboardInterrupt:
        if part_of(output).is_file():
            print(f"the same command continues, {part_of(output)} is kept", file=sys.stderr)
        raise
    print(f"{output}: {remote.size / 1e6:.1f} MB, with the published sha256; look into it with `lfm inspect {output}`")
    return 0


def _check_dataset(path: Path) -> None:
    from lfm_policy.data.hdf5 import demo_names, open_hdf5

    try:
        with open_hdf5(path) as file:
            demo_names(file)
    except LFMError as error:
        raise LFMError(f"what the server has is no robomimic dataset and was removed: {error}") from error
