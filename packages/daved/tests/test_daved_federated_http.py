"""The same purchase over real sockets: sellers as servers, and as processes that are killed."""

import contextlib
import http.client
import signal
import socket
import socketserver
import subprocess
import sys
import textwrap
import threading
import warnings

import numpy as np
import pytest

from modicum.daved.errors import DAVEDWarning
from modicum.daved.federated import (
    AggregateBuyer,
    Buyer,
    HTTPTransport,
    LocalTransport,
    Seller,
    serve_seller,
)
from modicum.daved.federated.messages import AskHello, Hello, decode, encode
from modicum.daved.pool import ArrayPool
from modicum.daved.solvers.base import Problem
from modicum.daved.solvers.frank_wolfe import FrankWolfe

# Shards of unequal size, one of them a single row.
D, EDGES = 5, (0, 70, 71, 120, 150)
N = EDGES[-1]
FRAME_TYPE = "application/x-modicum-daved-frame"


def _market():
    rng = np.random.default_rng(11)
    rows = rng.normal(size=(N, D))
    return rows, rows.sum(axis=1), rng.uniform(1, 4, size=N), rng.normal(size=(2, D))


def _seller(place, **options):
    rows, labels, prices, _ = _market()
    own = slice(EDGES[place], EDGES[place + 1])
    return Seller(rows[own], labels[own], prices[own], secret=bytes([place]) * 16, **options)


SELLERS = range(len(EDGES) - 1)


@pytest.fixture
def servers():
    found = [serve_seller(_seller(place), timeout=5) for place in SELLERS]
    for server in found:
        server.__enter__()
    yield found
    for server in found:
        server.__exit__(None, None, None)


def _urls(servers):
    return [server.url for server in servers]


@pytest.mark.parametrize("kind", [Buyer, AggregateBuyer])
def test_over_http_the_purchase_is_the_one_in_this_process(servers, kind):
    buyer = kind(_market()[3], max_iter=15)
    here = buyer.buy(LocalTransport([_seller(place) for place in SELLERS]), 20)
    there = buyer.buy(HTTPTransport(_urls(servers)), 20)
    assert there.bought == here.bought and there.picks == here.picks
    assert there.objective == here.objective
    np.testing.assert_array_equal(there.rows_kd, here.rows_kd)
    np.testing.assert_array_equal(there.labels_kq, here.labels_kq)
    if kind is Buyer:
        # With masks the keys of a run are random, and numbers of random length in hex are equal.
        assert there.traffic == here.traffic


def test_the_buyer_counts_the_bytes_of_every_round(servers):
    transport = HTTPTransport(_urls(servers))
    seen = []
    plain = transport.exchange

    def spy(frames):
        answers = plain(frames)
        seen.append((sum(map(len, frames.values())), sum(map(len, answers.values()))))
        return answers

    transport.exchange = spy
    purchase = Buyer(_market()[3], max_iter=6, tol=0.0).buy(transport, 9)
    assert [(entry.down, entry.up) for entry in purchase.traffic] == seen
    rounds = purchase.bytes_by_round()
    assert len(rounds) == purchase.rounds + 1 == 8
    assert np.sum(rounds, axis=0).tolist() == np.sum(seen, axis=0).tolist()
    by_kind = purchase.bytes_by_kind()
    assert set(by_kind) == {"hello", "gram", "score", "reveal", "commit", "settle"}
    assert rounds[0] == tuple(np.sum([by_kind[k] for k in ("hello", "gram", "settle")], axis=0))
    # Directions down, a score and a number up, for every seller; each frame has a header too.
    assert by_kind["score"][0] > 7 * 4 * 8 * 2 * D and by_kind["score"][1] > 7 * 4 * 16


class _Wiretap(socketserver.ThreadingTCPServer):
    """Forward connections to a server and keep all bytes of both directions."""

    def __init__(self, port):
        super().__init__(("127.0.0.1", 0), _Tapped)
        self.port, self.up, self.down = port, [], []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()


class _Tapped(socketserver.BaseRequestHandler):
    def handle(self):
        near, tap = self.request, self.server
        with socket.create_connection(("127.0.0.1", tap.port)) as far:
            down = threading.Thread(target=self._copy, args=(near, far, tap.down))
            down.start()
            self._copy(far, near, tap.up)
            down.join()

    @staticmethod
    def _copy(source, sink, kept):
        while block := source.recv(1 << 16):
            kept.append(block)
            sink.sendall(block)
        with contextlib.suppress(OSError):  # the other end may be closed already
            sink.shutdown(socket.SHUT_WR)


def _told(blob, numbers):
    """Tell whether a number stands in what went over the wire, as such or in digits."""
    return any(
        part in blob
        for value in numbers
        for part in (np.float64(value).tobytes(), np.float32(value).tobytes(), repr(value).encode())
    )


@pytest.mark.parametrize("kind", [Buyer, AggregateBuyer])
def test_on_the_wire_are_no_rows_but_winners_and_no_labels_but_paid_ones(servers, kind):
    rows, labels, _, queries = _market()
    taps = [_Wiretap(server.server_port) for server in servers]
    buyer = kind(queries, max_iter=12)
    purchase = buyer.buy(HTTPTransport([tap.url for tap in taps]), 8)
    for tap in taps:
        tap.stop()
    blob = b"".join(block for tap in taps for block in tap.up)
    bought = {EDGES[seller] + index for seller, index in purchase.bought}
    known = bought | {EDGES[seller] + index for seller, index in purchase.picks}
    assert 0 < len(bought) <= len(known) < N and len(blob) > 1000
    for number in range(N):
        assert _told(blob, rows[number].tolist()) == (number in known)
        assert _told(blob, [labels[number].item()]) == (number in bought)
    asked = b"".join(block for tap in taps for block in tap.down)
    assert not _told(asked, queries.ravel().tolist()) and len(asked) > 1000


PROCESS = """
    import sys

    import numpy as np

    from modicum.daved.federated import Seller, serve_seller

    shard, place, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    data = np.load(shard)
    seller = Seller(data["rows"], data["labels"], data["prices"], secret=bytes([place]) * 16)
    server = serve_seller(seller, port=port)
    print(server.url, flush=True)
    server.serve_forever()
"""


class _Processes:
    """Sellers in processes of their own."""

    def __init__(self, folder):
        rows, labels, prices, _ = _market()
        self.folder, self.running, self.urls = folder, {}, {}
        for place in SELLERS:
            own = slice(EDGES[place], EDGES[place + 1])
            np.savez(
                folder / f"{place}.npz", rows=rows[own], labels=labels[own], prices=prices[own]
            )

    def start(self, place):
        shard, port = self.folder / f"{place}.npz", self.urls.get(place, ":0").rsplit(":")[-1]
        self.running[place] = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROCESS), shard, str(place), port],
            stdout=subprocess.PIPE,
            text=True,
        )
        url = self.running[place].stdout.readline().strip()
        assert url == self.urls.setdefault(place, url)

    def kill(self, place):
        process = self.running.pop(place)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()

    def stop(self):
        for place in list(self.running):
            self.kill(place)


@pytest.fixture
def processes(tmp_path):
    found = _Processes(tmp_path)
    try:
        for place in SELLERS:
            found.start(place)
        yield found
    finally:
        found.stop()


def test_processes_one_of_them_killed_in_mid_run_find_the_central_design(processes):
    rows, _, prices, queries = _market()
    central = FrankWolfe(max_iter=40, tol=1e-3).solve(
        Problem(ArrayPool(rows, prices**-0.5), queries)
    )
    restarts = []

    def disturb(step):
        if step.iteration == 5:
            # It comes back while the buyer is already calling.
            processes.kill(0)
            restarts.append(threading.Timer(0.5, processes.start, [0]))
            restarts[-1].start()
        if step.iteration == 12:
            for place in (1, 2):
                processes.kill(place)
                processes.start(place)

    buyer = Buyer(queries, max_iter=40, tol=1e-3)
    urls = [processes.urls[place] for place in SELLERS]
    purchase = buyer.buy(HTTPTransport(urls, retries=10), 25, on_step=disturb)
    assert len(purchase.picks) > 15 and len(restarts) == 1
    picks = [EDGES[seller] + index for seller, index in purchase.picks]
    assert picks == central.picks.tolist()
    assert purchase.objective == pytest.approx(central.objective, rel=1e-12)
    bought = [EDGES[seller] + index for seller, index in purchase.bought]
    np.testing.assert_array_equal(purchase.rows_kd, rows[bought])
    assert len(purchase.bytes_by_round()) == purchase.rounds + 1
    # What the restarted ones had to hear again makes its round the more expensive one.
    down = [entry[0] for entry in purchase.bytes_by_round()[1:]]
    assert max(down) > 1.1 * np.median(down)


def test_processes_restart_under_masks_as_well(processes):
    buyer = AggregateBuyer(_market()[3], max_iter=10)
    calm = buyer.buy(LocalTransport([_seller(place) for place in SELLERS]), 12)

    def disturb(step):
        if step.iteration == 4:
            processes.kill(2)
            processes.start(2)

    urls = [processes.urls[place] for place in SELLERS]
    rough = buyer.buy(HTTPTransport(urls), 12, on_step=disturb)
    assert rough.bought == calm.bought and rough.objective == calm.objective


def _raw(server, method="POST", path="/frames", headers=None, body=b""):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    given = {"Content-Type": FRAME_TYPE, "Content-Length": str(len(body))}
    given |= headers or {}
    connection.request(method, path, body, {k: v for k, v in given.items() if v is not None})
    response = connection.getresponse()
    found = response.status, response.read()
    connection.close()
    return found


def test_a_server_answers_frames_and_nothing_else():
    with serve_seller(_seller(0), max_bytes=1000, timeout=5) as server:
        status, answer = _raw(server, body=encode(AskHello("00")))
        assert status == 200 and isinstance(decode(answer), Hello)
        assert _raw(server, path="/")[0] == 404
        assert _raw(server, headers={"Content-Type": "application/json"})[0] == 415
        assert _raw(server, headers={"Content-Length": "many"})[0] == 411
        assert _raw(server, headers={"Content-Length": "1001"})[0] == 413
        assert _raw(server, headers={"Host": "evil.example"})[0] == 403
        assert _raw(server, headers={"Host": "localhost:80"})[0] == 200
        assert _raw(server, method="GET")[0] == 501
        status, answer = _raw(server, body=b"no frame")
        assert status == 200 and "a frame starts with" in decode(answer).reason


def test_a_slow_caller_is_hung_up_on_and_others_are_served_meanwhile():
    with serve_seller(_seller(0), timeout=0.5) as server:
        slow = socket.create_connection(("127.0.0.1", server.server_port), timeout=10)
        slow.sendall(
            f"POST /frames HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FRAME_TYPE}\r\n"
            "Content-Length: 100\r\n\r\nMD".encode()
        )
        assert _raw(server, body=encode(AskHello("00")))[0] == 200
        assert slow.recv(1000) == b""  # closed by the server
        slow.close()


def test_no_other_machine_is_served_or_called_unless_it_is_meant():
    for host in ("0.0.0.0", "192.0.2.1", "seller.example", ""):
        with pytest.raises(ValueError, match=r"is not this machine alone.*--allow-remote"):
            serve_seller(_seller(0), host)
    with pytest.raises(ValueError, match=r"'192\.0\.2\.1' is not this machine alone"):
        HTTPTransport(["http://127.0.0.1:1", "http://192.0.2.1:80"])
    assert HTTPTransport(["https://192.0.2.1/daved"], allow_remote=True).urls
    with pytest.warns(DAVEDWarning, match=r"whoever reaches 0\.0\.0\.0 can ask"):
        serve_seller(_seller(0), "0.0.0.0", allow_remote=True).server_close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        serve_seller(_seller(0), "localhost").server_close()


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://127.0.0.1", "http://", "file:///etc"])
def test_what_is_no_url_of_a_seller_is_refused(url):
    with pytest.raises(ValueError, match="a seller's URL is like"):
        HTTPTransport([url])


def test_the_same_seller_twice_is_refused(servers):
    with pytest.raises(ValueError, match="name a seller twice"):
        HTTPTransport([servers[0].url, servers[0].url + "/"])


def test_a_seller_that_is_not_there_is_named(servers):
    gone = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    gone.close()
    transport = HTTPTransport([servers[0].url, url], retries=1)
    with pytest.raises(ConnectionError, match=r"no answer from sellers \[1\] in 1 attempts"):
        Buyer(_market()[3], retries=0).buy(transport, 10)


class _Always(socketserver.TCPServer):
    """Answers every request with the same bytes."""

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), None)
        self.answer, self.calls = answer, 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def finish_request(self, request, client_address):
        self.calls += 1
        request.recv(1 << 16)
        request.sendall(self.answer)

    def stop(self):
        self.shutdown()
        self.server_close()


@pytest.mark.parametrize(
    "answer, error",
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", "answers 404 Not Found: no"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n", "answers 302 Found"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + bytes(101), "more than 100 bytes"),
    ],
)
def test_another_server_is_no_seller(answer, error):
    other = _Always(answer)
    with pytest.raises(RuntimeError, match=error):
        HTTPTransport([other.url], retries=0, max_bytes=100).exchange({0: b"frame"})
    other.stop()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut",
    ],
)
def test_an_answer_that_breaks_off_is_asked_for_again_and_then_missing(answer):
    broken = _Always(answer)
    assert HTTPTransport([broken.url], retries=2).exchange({0: b"frame"}) == {}
    assert broken.calls == 3
    broken.stop()


def test_nothing_is_unpickled_on_either_side():
    code = """
        import sys

        import numpy as np

        from modicum.daved.federated import Buyer, HTTPTransport, Seller, serve_seller

        def watch(event, arguments):
            if event == "pickle.find_class":
                raise SystemExit(f"unpickled {arguments}")

        sys.addaudithook(watch)
        rows = np.random.default_rng(0).normal(size=(9, 2))
        with serve_seller(Seller(rows, rows[:, 0])) as server:
            print(len(Buyer(rows[:1]).buy(HTTPTransport([server.url]), 2).bought))
        import pickle
        try:
            pickle.loads(pickle.dumps(np.float64))
        except SystemExit:
            print("watched")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["2", "watched"]
