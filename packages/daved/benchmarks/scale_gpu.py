"""What a step of many buyers takes on a GPU, and whether it picks what float64 picks on the CPU.

`measure` writes one JSON line as soon as it has measured one cell; a cell that fails is a line with
its error. `page` makes tables of such lines. Needs torch, Triton and NumPy only.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modicum.core.benchmark import clock, table
from modicum.core.device import describe_hardware

SEED = 0
STEPS = 20
READINGS = 3
SIZES = ((100_000, 64), (100_000, 768), (1_000_000, 64), (1_000_000, 768), (10_000_000, 64))
LARGEST = ((10_000_000, 768),)
BUYERS = (1, 100)
TYPES = ("float32", "bfloat16")
VARIANTS: dict[str, tuple[Any, int | None]] = {
    "kernel, captured": ("triton", 1),
    "kernel": ("triton", None),
    "torch, captured": ("torch", 1),
    "torch": ("torch", None),
}
KERNEL = ("kernel", "triton")
NOT_RUN = "not run: time was up, or the kernel was not asked for"
TILES = {
    "32 features, 4 warps, 4 stages": {"FEATURES": 32, "num_warps": 4, "num_stages": 4},
    "64 features, 4 warps, 3 stages": {"FEATURES": 64, "num_warps": 4, "num_stages": 3},
    "32 features, 8 warps, 3 stages": {"FEATURES": 32, "num_warps": 8, "num_stages": 3},
    "32 features, 8 warps, 4 stages": {"FEATURES": 32, "num_warps": 8, "num_stages": 4},
    "64 features, 8 warps, 2 stages": {"FEATURES": 64, "num_warps": 8, "num_stages": 2},
}


class Log:
    """Lines of JSON, each written when it is there.

    Parameters
    ----------
    path
        Where they go; what was there is replaced.
    seconds
        After which no further cell is begun.
    kernel
        Whether cells of the fused kernel are run.
    """

    def __init__(self, path: Path, seconds: float, kernel: bool) -> None:
        self.path, self.kernel = path, kernel
        self.end = time.monotonic() + seconds
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")

    def cell(self, fields: dict[str, Any], run: Callable[[], dict[str, Any]]) -> None:
        """Run a cell and write what it gives, or why it gives nothing."""
        begin = time.monotonic()
        of_kernel = fields["what"] == "tile" or fields.get("variant", "").startswith(KERNEL)
        if begin > self.end or (of_kernel and not self.kernel):
            found: dict[str, Any] = {"error": NOT_RUN}
        else:
            # Whatever goes wrong with one cell must not cost the others.
            try:
                found = run()
            except Exception as error:
                found = {"error": f"{type(error).__name__}: {error}"[:2000]}
        record = {**fields, **found, "took": round(time.monotonic() - begin, 2)}
        line = json.dumps(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)


def measure(
    out: Path,
    device: str = "cuda",
    seconds: float = 200.0,
    small: bool = False,
    kernel: bool = True,
) -> None:
    """Measure everything that fits into the time, the most important first.

    Parameters
    ----------
    out
        File of JSON lines.
    device
        ``"cuda"``; any other runs all cells with torch only, to try the script.
    seconds
        After which no further cell is begun.
    small
        Few rows, to try the script.
    kernel
        Whether the fused kernel is measured. A kernel that fails on a device can leave the process
        without the device.
    """
    log = Log(out, seconds, kernel)
    sizes = ((2000, 64), (3000, 96)) if small else SIZES
    log.cell({"what": "hardware"}, lambda: {"found": describe_hardware()})
    log.cell({"what": "bandwidth"}, lambda: bandwidth(device, 1 << 20 if small else 1 << 29))
    _picks(log, device, ((2000, 64),) if small else ((100_000, 64), (100_000, 768)))
    for n, d in sizes:
        _steps(log, device, n, d)
    _launches(log, device)
    _host(log, device, ((1000, 64),) if small else ((100_000, 64), (100_000, 768), (1_000_000, 64)))
    _whole_runs(log, device, 2000 if small else 1_000_000)
    for n, d in () if small else LARGEST:
        _steps(log, device, n, d)
    _tiles(log, device, *((2000, 64) if small else (1_000_000, 768)))


def rows_of(n: int, d: int, device: str) -> Any:
    """Draw rows on the device, float32."""
    import torch

    generator = torch.Generator(device).manual_seed(SEED)
    rows_nd = torch.empty((n, d), dtype=torch.float32, device=device)
    return rows_nd.normal_(generator=generator)


def queries_of(g: int, d: int, m: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(SEED + 1)
    return [rng.normal(size=(m, d)) for _ in range(g)]


def median_ms(call: Callable[[], object], device: str, readings: int = READINGS) -> float:
    """Give the median milliseconds of a call, after one that is not counted."""
    taken = []
    for reading in range(readings + 1):
        start = clock(device)
        call()
        if reading:
            taken.append(clock(device) - start)
    return 1000 * statistics.median(taken)


def bandwidth(device: str, values: int) -> dict[str, Any]:
    """Copy floats from one place of the device to another, and read them for a sum."""
    import torch

    source = torch.ones(values, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    copied = median_ms(lambda: target.copy_(source), device, 10)
    summed = median_ms(source.sum, device, 10)
    size = 4 * values / 1e6
    return {"copy_gb_s": 2 * size / copied, "sum_gb_s": size / summed, "mb": size}


def free(device: str) -> None:
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


def start_of(rows_nd: Any) -> np.ndarray:
    """Give the information at uniform weights, (d, d)."""
    from modicum.daved.torch_pool import TorchPool

    return TorchPool(rows_nd).gram() / len(rows_nd)


def _steps(log: Log, device: str, n: int, d: int) -> None:
    """Time steps of the loop and its search alone, for rows of one size."""
    state: dict[str, Any] = {}

    def prepare() -> dict[str, Any]:
        state["rows"] = rows_of(n, d, device)
        begin = clock(device)
        state["start"] = start_of(state["rows"])
        return {"gram_ms": 1000 * (clock(device) - begin)}

    log.cell({"what": "rows", "n": n, "d": d}, prepare)
    for dtype in TYPES:
        if dtype != "float32" and "rows" in state:
            state["rows"] = _as(state["rows"], dtype)
        for g in BUYERS:
            cell = {"n": n, "d": d, "g": g, "dtype": dtype}
            for name, (backend, capture) in VARIANTS.items():
                log.cell(
                    {"what": "step", "variant": name, **cell},
                    lambda g=g, b=backend, c=capture: step_time(state, device, g, b, c),
                )
            for backend in ("triton", "torch", "plain"):
                log.cell(
                    {"what": "search", "variant": backend, **cell},
                    lambda g=g, b=backend: search_time(state["rows"], device, g, b),
                )
            free(device)
    state.clear()
    free(device)


def _as(rows_nd: Any, dtype: str) -> Any:
    import torch

    return rows_nd.to(getattr(torch, dtype))


def step_time(
    state: dict[str, Any], device: str, g: int, backend: Any, capture: int | None
) -> dict[str, Any]:
    from modicum.daved.solvers.frank_wolfe import FrankWolfe
    from modicum.daved.torch_frank_wolfe import DeviceRuns
    from modicum.daved.torch_pool import TorchPool

    rows_nd = state["rows"]
    pool = TorchPool(rows_nd, dtype=str(rows_nd.dtype).removeprefix("torch."))
    solvers = [FrankWolfe(max_iter=(READINGS + 1) * STEPS + 4, tol=0)] * g
    runs = DeviceRuns(
        pool,
        queries_of(g, pool.d),
        solvers,
        start_dd=state["start"],
        backend=backend,
        capture=capture,
    )
    runs.advance(2)
    ms = median_ms(lambda: runs.advance(STEPS), device) / STEPS
    size = rows_nd.numel() * rows_nd.element_size()
    return {"ms": ms, "gb_s": size / ms / 1e6, "open": int(runs.open_g.sum())}


def search_time(rows_nd: Any, device: str, g: int, backend: str) -> dict[str, Any]:
    """Time the search for the best rows alone; "plain" is one line of torch on all rows."""
    import torch

    from modicum.daved.kernels.block_best import block_best

    generator = torch.Generator(device).manual_seed(SEED)
    directions = torch.randn((g, 1, rows_nd.shape[1]), generator=generator, device=device)
    if backend == "plain":
        columns = directions[:, 0].T.to(rows_nd.dtype).contiguous()
        ms = median_ms(lambda: (rows_nd @ columns).square().argmax(0), device)
    else:
        ms = median_ms(lambda: block_best(rows_nd, directions, backend=backend), device)
    return {"ms": ms, "gb_s": rows_nd.numel() * rows_nd.element_size() / ms / 1e6}


def _picks(log: Log, device: str, sizes: tuple[tuple[int, int], ...]) -> None:
    """Compare the first picks with those of NumPy in float64."""
    for n, d in sizes:
        rows = rows_of(n, d, device)
        truth: dict[str, Any] = {}
        for dtype in TYPES:
            rounded = _as(rows, dtype)
            for backend in ("triton", "torch"):
                log.cell(
                    {"what": "picks", "variant": backend, "n": n, "d": d, "dtype": dtype},
                    lambda x=rows, r=rounded, w=truth, t=dtype, b=backend: picks(x, r, w, t, b),
                )
        rows = rounded = None
        free(device)


def picks(rows: Any, rounded: Any, truth: dict[str, Any], dtype: str, backend: Any) -> dict:
    from modicum.daved.batch import frank_wolfe_many
    from modicum.daved.pool import ArrayPool
    from modicum.daved.solvers.frank_wolfe import FrankWolfe
    from modicum.daved.torch_frank_wolfe import frank_wolfe_on_device
    from modicum.daved.torch_pool import TorchPool

    queries = queries_of(8, rows.shape[1], 2)
    solvers = [FrankWolfe(max_iter=STEPS, tol=0)] * len(queries)
    for name, given in (("float32", rows), (dtype, rounded)):
        if name not in truth:
            pool = ArrayPool(given.float().cpu().numpy())
            truth[name] = frank_wolfe_many(pool, queries, solvers)
    found = frank_wolfe_on_device(
        TorchPool(rounded, dtype=dtype), queries, solvers, backend=backend
    )

    def equal(name: str) -> int:
        pairs = zip(found, truth[name], strict=True)
        return sum(int((one.picks == other.picks).sum()) for one, other in pairs)

    def common(name: str) -> int:
        pairs = zip(found, truth[name], strict=True)
        return sum(len(np.intersect1d(one.picks, other.picks)) for one, other in pairs)

    return {
        "picks": STEPS * len(queries),
        "equal_on_rounded": equal(dtype),
        "equal_on_given": equal("float32"),
        "common_on_given": common("float32"),
        "distinct_on_given": sum(len(np.unique(other.picks)) for other in truth["float32"]),
    }


def _launches(log: Log, device: str) -> None:
    """Time steps of so few rows that launches are what they wait for."""
    state: dict[str, Any] = {}

    def prepare() -> dict[str, Any]:
        state["rows"] = rows_of(10_000, 64, device)
        state["start"] = start_of(state["rows"])
        return {}

    log.cell({"what": "rows", "n": 10_000, "d": 64}, prepare)
    for name, (backend, capture) in VARIANTS.items():
        log.cell(
            {"what": "step", "variant": name, "n": 10_000, "d": 64, "g": 1, "dtype": "float32"},
            lambda b=backend, c=capture: step_time(state, device, 1, b, c),
        )


def _host(log: Log, device: str, sizes: tuple[tuple[int, int], ...]) -> None:
    """Time a pass on the CPU, and one whose scores come from the device to the host."""
    for n, d in sizes:
        for g in BUYERS:
            for variant in ("NumPy, float64", "torch CPU, float32", "scores to the host"):
                log.cell(
                    {"what": "pass", "variant": variant, "n": n, "d": d, "g": g},
                    lambda n=n, d=d, g=g, v=variant: host_pass(n, d, g, v, device),
                )


def host_pass(n: int, d: int, g: int, variant: str, device: str) -> dict[str, Any]:
    from modicum.daved.pool import ArrayPool
    from modicum.daved.torch_pool import TorchPool

    rows_nd = rows_of(n, d, device)
    pool: Any = TorchPool(rows_nd)
    if variant.startswith("NumPy"):
        pool = ArrayPool(rows_nd.cpu().numpy())
    elif variant.startswith("torch"):
        pool = TorchPool(rows_nd.cpu())
    columns_dk = np.random.default_rng(SEED).normal(size=(d, g))
    return {"ms": median_ms(lambda: pool.grouped_scores(columns_dk, [1] * g), device, 1)}


def _whole_runs(log: Log, device: str, n: int) -> None:
    """Time a whole run of 20 steps with all that is not a step, in both loops."""
    for variant in ("loop on the device", "loop on the host"):
        for g in (1, 10):
            log.cell(
                {"what": "run", "variant": variant, "n": n, "d": 64, "g": g},
                lambda g=g, v=variant: whole_run(n, 64, g, v, device),
            )


def whole_run(n: int, d: int, g: int, variant: str, device: str) -> dict[str, Any]:
    from modicum.daved.batch import frank_wolfe_many
    from modicum.daved.solvers.frank_wolfe import FrankWolfe
    from modicum.daved.torch_pool import TorchPool

    pool = TorchPool(rows_of(n, d, device))
    # Records that may be picked once only are what the loop on the device does not know.
    solver = FrankWolfe(max_iter=STEPS, tol=0, repeat=variant == "loop on the device")
    return {"ms": median_ms(lambda: frank_wolfe_many(pool, queries_of(g, d), solver), device, 2)}


def _tiles(log: Log, device: str, n: int, d: int) -> None:
    """Time the kernel with other tiles than its own."""
    state: dict[str, Any] = {}
    log.cell(
        {"what": "rows", "n": n, "d": d}, lambda: state.update(rows=rows_of(n, d, device)) or {}
    )
    for dtype in TYPES:
        if dtype != "float32" and "rows" in state:
            state["rows"] = _as(state["rows"], dtype)
        for g in BUYERS:
            for name, options in TILES.items():
                log.cell(
                    {"what": "tile", "variant": name, "n": n, "d": d, "g": g, "dtype": dtype},
                    lambda g=g, o=options: tile_time(state["rows"], device, g, o),
                )


def tile_time(rows_nd: Any, device: str, g: int, options: dict[str, int]) -> dict[str, Any]:
    from modicum.daved.kernels.block_best import triton as fused

    own = fused.options_of
    fused.options_of = lambda columns: dict(options)
    try:
        return search_time(rows_nd, device, g, "triton")
    finally:
        fused.options_of = own


# The page ----------------------------------------------------------------------------------------


def page(path: Path) -> list[str]:
    """Make the lines of a section of results of what `measure` wrote."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    copied = next((r["copy_gb_s"] for r in records if "copy_gb_s" in r), None)
    lines = []
    if copied is not None:
        lines += [f"Bandwidth of the device: a copy moves {copied:,.0f} GB/s.", ""]
    lines += _pivot(records, "step", "A step of all buyers, ms (share of that bandwidth)", copied)
    lines += _pivot(records, "search", "The search in it alone, ms (share)", copied)
    lines += _pivot(records, "pass", "One pass otherwise, ms", None)
    lines += _pivot(records, "run", f"A run of {STEPS} steps with its start and end, ms", None)
    lines += _pivot(records, "tile", "The kernel with other tiles, ms (share)", copied)
    return lines + list(_picks_lines(records)) + list(_failures(records))


def _pivot(records: list[dict[str, Any]], what: str, title: str, copied: float | None) -> list[str]:
    found = [record for record in records if record["what"] == what]
    if not found:
        return []
    variants = list(dict.fromkeys(record["variant"] for record in found))
    keys = list(dict.fromkeys(_size(record) for record in found))
    rows = []
    for key in keys:
        by_variant = {r["variant"]: r for r in found if _size(r) == key}
        cells = [_cell(by_variant.get(variant), copied) for variant in variants]
        n, d, g, dtype = key
        rows.append([f"{n:,}", str(d), str(g), dtype, *cells])
    return [f"{title}:", "", *table(["n", "d", "buyers", "rows", *variants], rows), ""]


def _size(record: dict[str, Any]) -> tuple[int, int, int, str]:
    return record["n"], record["d"], record["g"], record.get("dtype", "float32")


def _cell(record: dict[str, Any] | None, copied: float | None) -> str:
    if record is None:
        return ""
    if "ms" not in record:
        return "not run" if record["error"] == NOT_RUN else "failed"
    share = f" ({record['gb_s'] / copied:.0%})" if copied and "gb_s" in record else ""
    return f"{record['ms']:.3g}{share}"


def _picks_lines(records: list[dict[str, Any]]) -> Iterator[str]:
    found = [record for record in records if record["what"] == "picks" and "picks" in record]
    if not found:
        return
    rows = [
        [
            f"{r['n']:,}",
            str(r["d"]),
            r["dtype"],
            r["variant"],
            f"{r['equal_on_rounded']} of {r['picks']}",
            f"{r['equal_on_given']} of {r['picks']}",
            f"{r['common_on_given']} of {r['distinct_on_given']}",
        ]
        for r in found
    ]
    header = ["n", "d", "rows", "search", "equal to float64 on the rounded rows"]
    header += ["equal to float64 on the rows", "records in common"]
    yield from [f"The first {STEPS} picks of 8 buyers:", "", *table(header, rows), ""]


def _failures(records: list[dict[str, Any]]) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for record in records:
        if record.get("error", NOT_RUN) != NOT_RUN:
            keys = [key for key in ("what", "variant", "n", "d", "g", "dtype") if key in record]
            where = " ".join(str(record[key]) for key in keys)
            reasons.setdefault(record["error"].splitlines()[0][:200], []).append(where)
    for reason, places in reasons.items():
        yield f"- Failed, {len(places)} cells, the first {places[0]}: {reason}"
    if reasons:
        yield ""
