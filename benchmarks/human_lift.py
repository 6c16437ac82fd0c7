"""robosuite 1.4.1's human Lift demonstrations in robosuite 1.5: converted, then played back in three ways.

`python -m benchmarks.human_lift --path lift/demo.hdf5` (the file is in the robosuite 1.4.1 wheel) writes
results/robomimic/human_lift.json: per demonstration the success of its restored states, of its displacements and of
its absolute goals played open loop from the first state, and how far the arm's joints end from the recorded ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lfm_policy.conversion.run import Conversion, convert
from lfm_policy.data.replay import replay_states
from lfm_policy.evaluation.environment import EnvSpec
from lfm_policy.evaluation.files import write_json
from lfm_policy.provenance import provenance

RESULTS = Path("results/robomimic/human_lift.json")
# time, and then the arm's seven joints
ARM = slice(1, 8)


def play(env: Any, states: np.ndarray, actions: np.ndarray) -> dict[str, Any]:
    """Success at any step of the actions (T, A) from the first state, and the arm's distance from the last one."""
    env.reset(options={"state": {"states": states[0]}})
    success, off = False, 0.0
    for step, action in enumerate(actions):
        if step == len(actions) - 1:
            off = float(np.abs(env.unwrapped.get_state()["states"][ARM] - states[-1][ARM]).max())
        *_, info = env.step(action.astype(np.float32))
        success = success or bool(info["is_success"])
    return {"success": success, "joints_off": round(off, 4)}


def main() -> None:
    """Convert and play back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True)
    path, begin, rows = parser.parse_args().path, time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / "converted.hdf5"
        summary = convert(Conversion(path, converted, "robomimic"))
        with h5py.File(converted) as file:
            spec = EnvSpec.of_env_args(json.loads(file["data"].attrs["env_args"]), converted)
            shown = replay_states(converted, spec.make, list(file["data"])).succeeded
            ways = {way: spec.make(representation=way, terminate_on_success=False) for way in ("delta", "absolute")}
            for name, demo in file["data"].items():
                states, keys = demo["states"][()], {"delta": "actions", "absolute": "actions_abs"}
                played = {way: play(env, states, demo[keys[way]][()]) for way, env in ways.items()}
                rows.append({"demo": name, "steps": len(states), "states": shown[name], **played})
                print(rows[-1], flush=True)
    facts = {"file": path.name, "seeds": [], "refusal": summary.refusal.rpartition("/")[2].partition("'")[0]}
    facts["wall_seconds"] = round(time.perf_counter() - begin, 1)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS, {**provenance(), **facts, "rows": rows})


if __name__ == "__main__":
    main()
