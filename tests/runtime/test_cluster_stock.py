# SPDX-License-Identifier: Apache-2.0
"""What is sent to the workers of a cluster, and what they keep: real processes over TCP."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("distributed")

from clusters import OPTIONS, RATES, stable, tasks_of
from distributed import Client

from noisystore.ortops import InputError
from noisystore.runtime import cluster_stock, sweep


def test_model_and_data_go_to_each_worker_once(machines, make_model, small_data, tmp_path):
    def received(dask_worker):
        return [str(key) for entry in dask_worker.transfer_incoming_log for key in entry["keys"]]

    model = make_model(tmp_path / "m.onnx", seed=7)
    with Client(machines.address, set_as_default=False) as client:
        found = sweep(model, small_data, RATES, cluster=client, **{**OPTIONS, "trials": 4})
        name = f"noisystore_model-{found.points[0]['model_sha256']}"
        moved = [key for keys in client.run(received).values() for key in keys]
        # One of the two workers makes them, the other gets them from it.
        assert moved.count(name) == 1
        assert found.measured == 36
        machines.wait(lambda: not tasks_of(client))
        # Another sweep of the same: they have kept them. One of other images gets these alone.
        again = {**OPTIONS, "trials": 4, "bit_mask": "sign"}
        assert sweep(model, small_data, RATES, cluster=client, **again).measured == 36
        assert [key for keys in client.run(received).values() for key in keys] == moved
        sweep(model, small_data.head(50), RATES, cluster=client, **again)
        new = {key for keys in client.run(received).values() for key in keys} - set(moved)
        assert len(new) == 1
        assert new.pop().startswith("noisystore_data-")


def test_what_was_lost_or_damaged_is_sent_again(machines, make_model, small_data, tmp_path):
    def change(lost):
        from noisystore.runtime import cluster_worker

        for name in cluster_worker._stock.names():
            for path in cluster_worker._stock.find(name).iterdir():
                if lost:
                    path.unlink()
                else:
                    content = bytearray(path.read_bytes())
                    content[len(content) // 2] ^= 1
                    path.write_bytes(content)

    model = make_model(tmp_path / "m.onnx", seed=8)
    with Client(machines.address, set_as_default=False) as client:
        found = [sweep(model, small_data, RATES, cluster=client, **OPTIONS)]
        for lost in (True, False):
            client.run(change, lost)
            found.append(sweep(model, small_data, RATES, cluster=client, **OPTIONS))
        assert stable(found[0].points) == stable(found[1].points) == stable(found[2].points)


def test_a_stock_keeps_what_was_used_last(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_stock, "KEPT", 2)
    stock = cluster_stock.Stock()
    content = {"m.onnx": np.arange(5, dtype=np.uint8), "w/x.bin": np.zeros(3, np.uint8)}
    folders = [
        stock.put(name, content, cluster_stock.write_files, str(tmp_path)) for name in "abcd"
    ]
    assert (folders[0] / "w/x.bin").read_bytes() == bytes(3)
    assert stock.find("a") == folders[0]
    stock.tidy({folders[1]})
    assert stock.names() == ["b", "a"]
    assert [folder.exists() for folder in folders] == [True, True, False, False]
    assert stock.find("c") is None
    for _ in range(3):
        new = stock.put("a", content, cluster_stock.write_files, str(tmp_path))
    stock.tidy({folders[0]})
    assert len(list(tmp_path.iterdir())) == 3  # b, the new a, and the old one, which is in use
    stock.tidy(set())
    assert sorted(tmp_path.iterdir()) == sorted([folders[1], new])


@pytest.mark.parametrize("name", ["../out.bin", "/out.bin", "w/../../out.bin"])
def test_names_that_lead_out(name, tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(InputError, match="expected weight files in its folder"):
        cluster_stock.Stock().put(
            "a", {name: np.zeros(1, np.uint8)}, cluster_stock.write_files, str(inside)
        )
    assert [path.name for path in tmp_path.rglob("*")] == ["inside"]
