"""Purchases over Flower: the apps in this process, and once in its simulation."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Context, Error, Message, RecordDict

from modicum.daved.federated.aggregate import AggregateBuyer
from modicum.daved.federated.buyer import Buyer
from modicum.daved.federated.local import LocalTransport
from modicum.daved.federated.seller import Seller
from modicum.daved.integrations import flower

N, D, NODES = 90, 4, 3


def _market():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(N, D))
    return rows, rows.sum(axis=1), rng.uniform(1, 3, size=N), rng.normal(size=(2, D))


def _seller(place, secret):
    rows, labels, prices, _ = _market()
    own = slice(place * N // NODES, (place + 1) * N // NODES)
    return Seller(rows[own], labels[own], prices[own], secret=secret)


class _Grid:
    """A grid whose nodes are contexts in this process; it loses and forgets as it is told.

    With ``renew_at`` a node is lost for good when that message comes, and another, which knows
    nothing, takes its place under another number.
    """

    def __init__(self, app, run_id, forget_every=None, break_every=None, renew_at=()):
        self.app, self.forget_every, self.break_every = app, forget_every, break_every
        self.renew_at = renew_at
        self.sent = 0
        self.kinds = set()
        self.contexts = {
            70 + place: Context(run_id, 70 + place, {"partition-id": place}, RecordDict(), {})
            for place in range(NODES)
        }

    def get_node_ids(self):
        return list(reversed(self.contexts))

    def send_and_receive(self, messages, timeout=None):
        for message in messages:
            self.sent += 1
            node = message.metadata.dst_node_id
            # As a grid on a wire does; replies need an id to refer to.
            message.metadata.__dict__["_message_id"] = str(self.sent)
            self.kinds.add(message.metadata.message_type)
            if self.forget_every and self.sent % self.forget_every == 0:
                flower._sellers.clear()
            if self.sent in self.renew_at:
                old = self.contexts.pop(node)
                self.contexts[node + 100] = Context(
                    old.run_id, node + 100, old.node_config, RecordDict(), {}
                )
            if node not in self.contexts or (
                self.break_every and self.sent % self.break_every == 0
            ):
                yield Message(Error(1, "gone"), reply_to=message)
            else:
                yield self.app(message, self.contexts[node])


def _over_flower(buyer, run_id, own_secret=False, **trouble):
    flower._sellers.clear()

    def make(context, secret):
        place = context.node_config["partition-id"]
        return _seller(place, bytes([place]) * 16 if own_secret else secret)

    app = flower.seller_app(make)
    grid = _Grid(app, run_id, **trouble)
    found = []
    server = flower.buyer_app(buyer, 12, found.append, sellers=NODES)
    server(grid, Context(run_id, 0, {}, RecordDict(), {}))
    return found[0], grid


@pytest.mark.parametrize("kind", [Buyer, AggregateBuyer])
def test_apps_buy_what_a_run_in_one_process_buys(kind):
    buyer = kind(_market()[3], max_iter=12)
    plain = buyer.buy(LocalTransport([_seller(k, bytes([k]) * 16) for k in range(NODES)]), 12)
    over, grid = _over_flower(buyer, run_id=1)
    assert [(node - 70, index) for node, index in over.bought] == list(plain.bought)
    assert over.objective == plain.objective and "query.hello" in grid.kinds
    np.testing.assert_array_equal(over.labels_kq, plain.labels_kq)


@pytest.mark.parametrize("kind", [Buyer, AggregateBuyer])
def test_a_message_may_be_answered_by_any_process(kind):
    buyer = kind(_market()[3], max_iter=12)
    plain, _ = _over_flower(buyer, run_id=2)
    # As the deployment does it: every message finds a process that knows nothing.
    rough, grid = _over_flower(buyer, run_id=3, forget_every=1, break_every=10)
    assert "query.replay" not in grid.kinds
    assert rough.bought == plain.bought and rough.objective == plain.objective


def test_what_was_revealed_is_counted_over_processes():
    rows, labels, prices, queries = _market()

    def make(context, secret):
        return Seller(rows, labels, prices, secret=secret, max_reveals=2)

    flower._sellers.clear()
    grid = _Grid(flower.seller_app(make), 5, forget_every=1)
    server = flower.buyer_app(Buyer(queries, max_iter=20), 12, lambda purchase: None)
    with pytest.raises(RuntimeError, match="more than 2 rows would be revealed unpaid"):
        server(grid, Context(5, 0, {}, RecordDict(), {}))


@pytest.mark.parametrize("kind", [Buyer, AggregateBuyer])
def test_nodes_that_come_back_under_other_numbers_are_found_by_their_commitments(kind):
    buyer = kind(_market()[3], max_iter=12)
    plain, _ = _over_flower(buyer, run_id=6, own_secret=True)
    rough, grid = _over_flower(buyer, run_id=7, own_secret=True, renew_at=(20, 40))
    assert "query.replay" in grid.kinds and max(grid.contexts) >= 170
    assert rough.bought == plain.bought and rough.objective == plain.objective


def test_a_node_with_another_secret_is_another_seller():
    buyer = Buyer(_market()[3], max_iter=12)
    with pytest.raises(ConnectionError, match=r"no answer from sellers \[7\d\]"):
        _over_flower(buyer, run_id=8, renew_at=(20,))


def test_too_few_nodes_are_an_error_in_time():
    grid = _Grid(None, 4)
    with pytest.raises(ConnectionError, match="3 nodes are there, 4 are needed"):
        flower.FlowerTransport(grid, sellers=4, timeout=0.0)


def test_without_flower_the_way_to_install_it_is_told():
    code = """
        import sys
        sys.modules["flwr"] = None
        try:
            import modicum.daved.integrations.flower
        except ImportError as error:
            assert 'pip install "modicum-daved[federated]"' in str(error), error
        else:
            raise SystemExit("imported")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


@pytest.mark.slow
def test_the_simulation_finds_the_design_of_the_central_run(tmp_path):
    # A process of its own: Ray and Flower start threads and warn of themselves.
    script = Path(tmp_path) / "simulate.py"
    script.write_text(
        textwrap.dedent("""
        import json
        import sys

        import numpy as np
        from flwr.simulation import run_simulation

        from modicum.daved.federated.buyer import Buyer
        from modicum.daved.federated.seller import Seller
        from modicum.daved.integrations.flower import buyer_app, seller_app

        rng = np.random.default_rng(5)
        rows = rng.normal(size=(90, 4))
        prices = rng.uniform(1, 3, size=90)
        queries = rng.normal(size=(2, 4))

        def make(context, secret):
            place = int(context.node_config["partition-id"])
            own = slice(place * 30, (place + 1) * 30)
            return Seller(rows[own], rows[own].sum(axis=1), prices[own], secret=secret)

        def write(purchase):
            with open(sys.argv[1], "w") as file:
                json.dump([purchase.objective, purchase.rows_kd.tolist()], file)

        run_simulation(
            buyer_app(Buyer(queries, max_iter=10), 12, write, sellers=3),
            seller_app(make),
            num_supernodes=3,
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )
        """)
    )
    result = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, str(script), str(result)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    objective, bought = json.loads(result.read_text())
    rows, labels, prices, queries = _market()
    # Nodes have numbers by chance, so that sellers may stand in another order.
    central = Buyer(queries, max_iter=10).buy(LocalTransport([Seller(rows, labels, prices)]), 12)
    assert objective == pytest.approx(central.objective, rel=1e-12)
    np.testing.assert_array_equal(bought, central.rows_kd)


APP = """
    import json
    from pathlib import Path

    import numpy as np
    from flwr.serverapp import ServerApp

    from modicum.daved.federated import Buyer, Seller
    from modicum.daved.integrations.flower import buyer_app, seller_app

    FOLDER = Path({folder!r})
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(90, 4))
    prices = rng.uniform(1, 3, size=90)
    queries = rng.normal(size=(2, 4))

    def make(context, secret):
        place = int(context.node_config["partition-id"])
        own = slice(place * 45, (place + 1) * 45)
        kept = Path(context.node_config["secret-file"]).read_bytes()
        return Seller(rows[own], rows[own].sum(axis=1), prices[own], secret=kept)

    def note(step):
        (FOLDER / f"step{{step.iteration}}").touch()

    def write(purchase):
        found = {{
            "objective": purchase.objective,
            "rows": purchase.rows_kd.tolist(),
            "labels": purchase.labels_kq.tolist(),
            "steps": len(purchase.picks),
            "bytes": purchase.bytes_by_round(),
        }}
        (FOLDER / "written").write_text(json.dumps(found))
        (FOLDER / "written").rename(FOLDER / "result.json")

    buyer = Buyer(queries, max_iter=3, tol=0.0, retries=12)
    server = buyer_app(buyer, 12, write, sellers=2, timeout=40.0, on_step=note)
    client = seller_app(make)
"""

PROJECT = """
    [build-system]
    requires = ["hatchling"]
    build-backend = "hatchling.build"

    [project]
    name = "market"
    version = "1.0.0"
    license = "Apache-2.0"
    dependencies = []

    [tool.flwr.app]
    publisher = "modicum"

    [tool.flwr.app.components]
    serverapp = "market.apps:server"
    clientapp = "market.apps:client"
"""


class _Deployment:
    """A SuperLink and SuperNodes of Flower's deployment engine on this machine."""

    def __init__(self, folder):
        self.folder, self.running = folder, {}
        package = folder / "app" / "market"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "apps.py").write_text(textwrap.dedent(APP.format(folder=str(folder))))
        (folder / "app" / "pyproject.toml").write_text(textwrap.dedent(PROJECT))
        for place in range(2):
            (folder / f"secret{place}").write_bytes(bytes([place]) * 32)
        self.ports = {name: self._free() for name in ("app", "fleet", "control", 0, 1)}
        (folder / "home").mkdir()
        (folder / "home" / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\n'
            f'address = "127.0.0.1:{self.ports["control"]}"\ninsecure = true\n'
        )
        self.bin = Path(sys.executable).parent
        self.environment = os.environ | {
            "FLWR_HOME": str(folder / "home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
        }

    @staticmethod
    def _free():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            return taken.getsockname()[1]

    def start(self, name, *words):
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [str(self.bin / words[0]), *words[1:]],
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )

    def start_link(self):
        address = {name: f"127.0.0.1:{self.ports[name]}" for name in ("app", "fleet", "control")}
        self.start(
            "link",
            *("flower-superlink", "--insecure", "--disable-runtime-dependency-installation"),
            *("--serverappio-api-address", address["app"]),
            *("--fleet-api-address", address["fleet"]),
            *("--control-api-address", address["control"]),
        )
        self.wait(lambda: self._listens(self.ports["control"]), "the link did not start")

    def start_node(self, place):
        secret = self.folder / f"secret{place}"
        self.start(
            f"node{place}",
            *("flower-supernode", "--insecure"),
            *("--superlink", f"127.0.0.1:{self.ports['fleet']}"),
            *("--clientappio-api-address", f"127.0.0.1:{self.ports[place]}"),
            *("--node-config", f"partition-id={place} secret-file='{secret}'"),
        )

    def kill(self, name):
        """End a process and all that it started, as if its machine had gone."""
        process = self.running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def wait(self, until, what, seconds=420):
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end or any(p.poll() for p in self.running.values()):
                logs = sorted(self.folder.glob("*.log"))
                tails = [f"{log.name}: {log.read_text()[-1500:]}" for log in logs]
                raise AssertionError("\n".join([what, *tails]))
            time.sleep(0.2)

    @staticmethod
    def _listens(port):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def deployment(tmp_path):
    found = _Deployment(tmp_path)
    try:
        yield found
    finally:
        for name in list(found.running):
            found.kill(name)


@pytest.mark.slow
def test_a_deployment_finds_the_central_design_though_a_node_is_killed_in_mid_run(deployment):
    folder = deployment.folder
    deployment.start_link()
    for place in range(2):
        deployment.start_node(place)
    run = [str(deployment.bin / "flwr"), "run", str(folder / "app"), "here"]
    done = subprocess.run(
        run, env=deployment.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # The second step was decided; its commitment and all that follows meet a node that is gone.
    deployment.wait((folder / "step1").exists, "no second step")
    assert not (folder / "step2").exists()
    deployment.kill("node0")
    deployment.start_node(0)
    deployment.wait((folder / "result.json").exists, "no result")
    found = json.loads((folder / "result.json").read_text())

    rows, labels, prices, queries = _market()
    market = LocalTransport([Seller(rows, labels, prices)])
    central = Buyer(queries, max_iter=3, tol=0.0).buy(market, 12)
    assert found["steps"] == len(central.picks) == 3
    assert found["objective"] == pytest.approx(central.objective, rel=1e-12)
    np.testing.assert_array_equal(found["rows"], central.rows_kd)
    np.testing.assert_array_equal(found["labels"], central.labels_kq)
    # Greeting and settlement, three steps, the certificate; what was said twice is in the second.
    assert len(found["bytes"]) == 5
    down = [there for there, _ in found["bytes"][1:]]
    assert down[1] > down[0] and down[1] > down[2]
