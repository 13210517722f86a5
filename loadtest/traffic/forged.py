"""A bundle -> others like it: one that gives other pCTRs, and some that were forged, with hashes that fit.

It knows the files of a bundle and how its manifest lists them. Of a graph it changes what onnx can, which is
imported where it is used.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MANIFEST, SCHEMA, GOLDEN, CALIBRATION = "manifest.json", "schema.json", "golden.json", "calibration.json"
# Enough to show in the memory of what does not look first; too little to stop the machine.
HUGE = 100_000_000


def copy_with(bundle: Path, folder: Path, files: Mapping[str, bytes]) -> Path:
    """A copy of a bundle in `folder` with other contents of some files, listed as they are; `folder`."""
    shutil.copytree(bundle, folder)
    replace_in(folder, files)
    return folder


def replace_in(folder: Path, files: Mapping[str, bytes]) -> None:
    """Give some files of a bundle other contents, and list them as they are."""
    manifest = _read(folder, MANIFEST)
    for name, data in files.items():
        (folder / name).unlink(missing_ok=True)  # tables are read-only
        (folder / name).write_bytes(data)
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    listed = "".join(f"{manifest['files'][name]['sha256']}  {name}\n" for name in sorted(manifest["files"]))
    manifest["version"] = hashlib.sha256(listed.encode()).hexdigest()[:8]
    (folder / MANIFEST).write_bytes(_json(manifest))


def recalibrated(bundle: Path, folder: Path) -> Path:
    """A good bundle whose pCTRs are those of the bare logits."""
    calibration, golden = _read(bundle, CALIBRATION), _read(bundle, GOLDEN)
    for each in calibration["calibrators"]:
        each |= {"method": "identity", "slope": 1.0, "low_slope": 1.0, "intercept": 0.0, "knots": []}
        each |= {"segment_field": None, "segment_offsets": [], "sampling_rate": 1.0}
        outputs = golden["variants"][each["variant"]]
        bounds = each["clamp_low"], each["clamp_high"]
        outputs["pctrs"] = [
            min(max(1.0 / (1.0 + math.exp(-logit)), bounds[0]), bounds[1]) for logit in outputs["logits"]
        ]
    return copy_with(bundle, folder, {CALIBRATION: _json(calibration), GOLDEN: _json(golden)})


def endless_sequence(bundle: Path, folder: Path) -> Path:
    """Its last field has HUGE elements a row."""
    schema = _read(bundle, SCHEMA)
    field = schema["fields"][-1]
    field |= {"kind": "sequence", "max_length": HUGE}
    return copy_with(bundle, folder, {SCHEMA: _json(schema)})


def huge_cardinality(bundle: Path, folder: Path) -> Path:
    """Its first vocabulary or list of bins is said to have HUGE ids."""
    schema = _read(bundle, SCHEMA)
    schema["fields"][0]["cardinality"] = HUGE
    return copy_with(bundle, folder, {SCHEMA: _json(schema)})


def wrong_within_tolerance(bundle: Path, folder: Path) -> Path:
    """Its golden logits are wrong by 5, and any error is within their tolerance."""
    golden = _read(bundle, GOLDEN)
    for outputs in golden["variants"].values():
        outputs["logits"] = [logit + 5.0 for logit in outputs["logits"]]
        outputs["logit_tolerance"] = 1e300
    return copy_with(bundle, folder, {GOLDEN: _json(golden)})


def endless_loop(bundle: Path, folder: Path) -> Path:
    """Its graphs go round a loop without end."""
    return _with_node(bundle, folder, _loop)


def huge_constant(bundle: Path, folder: Path) -> Path:
    """Its graphs make a constant of 2 GB."""
    return _with_node(bundle, folder, _constant)


def random_logits(bundle: Path, folder: Path) -> Path:
    """Its graphs give a row another logit each time, close to the right one."""
    return _with_node(bundle, folder, _noise)


def _read(bundle: Path, name: str) -> Any:
    return json.loads((bundle / name).read_bytes())


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _with_node(bundle: Path, folder: Path, make: Callable[[], tuple[list[Any], str]]) -> Path:
    """Nodes whose scalar result is added to the logits of every graph; calibrators that fit them."""
    import onnx
    from onnx import helper

    manifest, calibration = _read(bundle, MANIFEST), _read(bundle, CALIBRATION)
    files = {}
    for variant, described in manifest["graphs"].items():
        shared = described["shared_context"]
        for name in [described["file"], *([shared["file"]] if shared else [])]:
            model = onnx.load(bundle / name)
            nodes, scalar = make()
            output = model.graph.output[0].name
            for node in model.graph.node:
                node.output[:] = ["before" if each == output else each for each in node.output]
                node.input[:] = ["before" if each == output else each for each in node.input]
            model.graph.node.extend([*nodes, helper.make_node("Add", ["before", scalar], [output])])
            files[name] = model.SerializeToString()
        digest = hashlib.sha256(files[described["file"]]).hexdigest()
        for each in calibration["calibrators"]:
            if each["variant"] == variant:
                each["graph_sha256"] = digest
    return copy_with(bundle, folder, {**files, CALIBRATION: _json(calibration)})


def _loop() -> tuple[list[Any], str]:
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["loop_going"], ["loop_goes_on"]),
            helper.make_node("Identity", ["loop_value"], ["loop_next"]),
        ],
        "body",
        [
            value("loop_number", TensorProto.INT64, []),
            value("loop_going", TensorProto.BOOL, []),
            value("loop_value", TensorProto.FLOAT, []),
        ],
        [value("loop_goes_on", TensorProto.BOOL, []), value("loop_next", TensorProto.FLOAT, [])],
    )
    constants = {
        "loop_count": helper.make_tensor("count", TensorProto.INT64, [], [2**62]),
        "loop_yes": helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        "loop_zero": helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
    }
    nodes = [helper.make_node("Constant", [], [name], value=tensor) for name, tensor in constants.items()]
    nodes.append(helper.make_node("Loop", [*constants], ["loop_result"], body=body))
    return nodes, "loop_result"


def _constant() -> tuple[list[Any], str]:
    from onnx import TensorProto, helper

    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [5 * HUGE])
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    return [
        helper.make_node("Constant", [], ["huge_shape"], value=shape),
        helper.make_node("ConstantOfShape", ["huge_shape"], ["huge"], value=zero),
        helper.make_node("ReduceSum", ["huge"], ["huge_sum"], keepdims=0),
    ], "huge_sum"


def _noise() -> tuple[list[Any], str]:
    from onnx import helper

    return [
        helper.make_node("RandomUniform", [], ["noise_one"], shape=[1], low=0.0, high=1e-7),
        helper.make_node("ReduceSum", ["noise_one"], ["noise"], keepdims=0),
    ], "noise"
