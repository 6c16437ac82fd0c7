"""What is published, against robomimic's own registry."""

from __future__ import annotations

import pytest
import robomimic

from lfm_policy.data.hub import dataset_address
from lfm_policy.data.published import PUBLISHED, published_path
from lfm_policy.flow.errors import LFMError


def test_the_datasets_are_those_of_robomimics_registry() -> None:
    """robomimic 0.3.0 has the files of robosuite 1.4.1 elsewhere: the same tasks, kinds and names, and v141 for v15."""
    theirs = {
        entry["url"].split("/rt_benchmark/")[1].replace("_v141.", "_v15.")
        for kinds in robomimic.DATASET_REGISTRY.values()
        for files in kinds.values()
        for entry in files.values()
        if entry["url"] and "_real/" not in entry["url"] and "/image" not in entry["url"]
    }
    ours = {
        published_path(task, kind, file)
        for task, kinds in PUBLISHED.items()
        for kind, files in kinds.items()
        for file in files
    }
    assert ours == {f"v1.5/{path}" for path in theirs}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("lfit", "ph", "low_dim"), "--task lfit: not published; did you mean lift? robomimic has lift, can, "),
        (("ToolHang", "ph", "low_dim"), "--task ToolHang: not published; did you mean tool_hang? "),
        (("square", "mg", "low_dim"), "--kind mg: not published; square has ph, mh"),
        (("can", "pair", "low_dim"), "--kind pair: not published; did you mean paired? can has ph, "),
        (("lift", "mg", "low_dim_spares"), "--file low_dim_spares: not published; did you mean low_dim_sparse? "),
        (("lift", "ph", "image"), "--file image: not published; lift ph has low_dim, demo"),
    ],
)
def test_others_are_refused_with_what_there_is(names: tuple[str, str, str], told: str) -> None:
    with pytest.raises(LFMError) as caught:
        published_path(*names)
    assert str(caught.value).startswith(told)


def test_the_address_is_the_hubs() -> None:
    """As huggingface_hub's hf_hub_url composes it, a branch with a slash included."""
    address = dataset_address("owner/name", "v1.5/a b.hdf5", "https://hub.example/", "refs/pr/1")
    assert address == "https://hub.example/datasets/owner/name/resolve/refs%2Fpr%2F1/v1.5/a%20b.hdf5"
    for endpoint in ("hub.example", "ftp://hub.example", "https://", ""):
        with pytest.raises(LFMError, match=f"endpoint '{endpoint}': must begin with https://"):
            dataset_address("owner/name", "file", endpoint)
