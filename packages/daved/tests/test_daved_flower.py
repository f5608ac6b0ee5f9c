"""Purchases over Flower: the apps in this process, and once in its simulation."""

import json
import subprocess
import sys
import textwrap
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
    """A grid whose nodes are contexts in this process; it loses and forgets as it is told."""

    def __init__(self, app, run_id, forget_every=None, break_every=None):
        self.app, self.forget_every, self.break_every = app, forget_every, break_every
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
            if self.break_every and self.sent % self.break_every == 0:
                yield Message(Error(1, "gone"), reply_to=message)
            else:
                yield self.app(message, self.contexts[node])


def _over_flower(buyer, run_id, **trouble):
    flower._sellers.clear()
    app = flower.seller_app(
        lambda context, secret: _seller(context.node_config["partition-id"], secret)
    )
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
def test_nodes_that_restart_in_mid_run_go_on_with_what_the_buyer_sends_again(kind):
    buyer = kind(_market()[3], max_iter=12)
    plain, _ = _over_flower(buyer, run_id=2)
    rough, grid = _over_flower(buyer, run_id=3, forget_every=7, break_every=10)
    assert "query.replay" in grid.kinds
    assert rough.bought == plain.bought and rough.objective == plain.objective


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
