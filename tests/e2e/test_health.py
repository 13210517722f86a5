"""A process that answers but can no longer bid says so, and is replaced or healed; the damage is real."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tests.e2e.raw_http import body_of, wait_until
from tests.running import RunningService, running_service
from tests.tiny_bundle import write_tiny_bundle

NAN = np.float32("nan").tobytes()


def table_of(bundle: Path) -> bytes:
    """The bytes of the bundle's embeddings."""
    model = onnx.load_model(bundle / "model.float32.onnx")
    (table,) = [each for each in model.graph.initializer if each.name == "table"]
    return numpy_helper.to_array(table).tobytes()


def damage(process: int, found: bytes) -> int:
    """Overwrite these bytes in a process' memory with nan, wherever they are; the number of places."""
    places = 0
    with Path(f"/proc/{process}/mem").open("r+b", buffering=0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            span, access, *_ = line.split()
            start, end = (int(each, 16) for each in span.split("-"))
            if "rw" not in access or line.endswith(("[vvar]", "[vsyscall]")):
                continue
            memory.seek(start)
            data, at = memory.read(end - start), 0
            while (at := data.find(found, at)) >= 0:
                memory.seek(start + at)
                memory.write(NAN * (len(found) // len(NAN)))
                places, at = places + 1, at + len(found)
    return places


def probes_of(service: RunningService) -> list[int]:
    with service.client(base_url=service.admin_url) as client:
        return [client.get(path).status_code for path in ("/healthz", "/readyz")]


def test_damaged_memory_fails_the_probes_and_a_reload_heals_it(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    arms = ["--arm", f"sound={bundles['treatment']}", "--arm", f"damaged={bundles['control']}:0"]
    with running_service(tmp_path, arms) as service:
        assert probes_of(service) == [200, 200]
        assert damage(service.process.pid, table_of(bundles["control"])) > 0
        wait_until(lambda: probes_of(service) == [503, 503])
        with service.client() as client:
            answer = client.get("/healthz").json()
        assert answer["error"]["code"] == "cannot_bid"
        assert str(bundles["control"]) not in answer["error"]["message"]
        assert service.post(body_of(1)).status_code == 200  # the arm that is sound
        service.send_signal(signal.SIGHUP)
        wait_until(lambda: probes_of(service) == [200, 200])
        assert service.stop() == 0
    assert "this process can no longer bid: arm damaged: " in service.errors.read_text()


def test_what_is_done_to_the_files_of_a_bundle_that_serves_does_not_matter(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    with running_service(tmp_path, ["--arm", f"only={folder}"]) as service:
        expected = service.post(body_of(1)).content
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                file.write_bytes(b"of another bundle")
        assert service.post(body_of(1)).content == expected
        assert probes_of(service) == [200, 200]
        assert service.stop() == 0


def test_a_worker_that_can_no_longer_bid_is_replaced(bundles: dict[str, Path], tmp_path: Path) -> None:
    options = ["--workers", "2", "--worker-timeout-seconds", "2"]
    with running_service(tmp_path, ["--arm", f"only={bundles['control']}", *options]) as service:
        before = service.workers()
        victim = min(before)
        assert damage(victim, table_of(bundles["control"])) > 0
        wait_until(lambda: victim not in (now := service.workers()) and len(now) == 2)
        assert max(before) in service.workers()
        for _ in range(20):
            assert service.post(body_of(1)).status_code == 200
            assert probes_of(service) == [200, 200]
        assert service.stop() == 0
    lines = service.errors.read_text()
    assert "this process can no longer bid: arm only: " in lines
    assert f"worker {victim} is silent for too long and is killed" in lines
