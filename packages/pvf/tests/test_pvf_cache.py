"""Keys and values that are kept: equal to the model when fresh, stale when they must be."""

import pytest
import torch
from pvf_checkpoints import EOS, MASK, VOCABULARY, random_ids, write_dream, write_llada

from modicum.pvf import (
    KLASS,
    PVF,
    EarlyCommit,
    EntropyBound,
    ExtraToken,
    Factor,
    Threshold,
    TopK,
    generate,
)
from modicum.pvf.decoder import Rows
from modicum.pvf.loading import load_mask_predictor

WRITERS = {"llada": write_llada, "dream": write_dream}
PLAN = PVF(threshold=0.6, plan_high=0.5, plan_vocab=range(40), unlock_threshold=2)
STRATEGIES = {
    "pvf": PLAN,
    "threshold": Threshold(0.5),
    "topk": TopK(steps=8),
    "factor": Factor(1.0),
    "entropy_bound": EntropyBound(0.5),
    "klass": KLASS(0.5),
    "early": EarlyCommit(),
    "extra": ExtraToken(0.6),
}
MODES = ["prefix", "dual"]
PROMPTS = [[1, 2, 3, 4, 5], [9], [7, 8, 9, 10, 11, 12, 13]]


@pytest.fixture(scope="module", params=WRITERS)
def model(request, tmp_path_factory):
    """LLaDA and Dream in float64, where rounding decides nothing."""
    path = WRITERS[request.param](tmp_path_factory.mktemp(request.param), seed=4)
    found = load_mask_predictor(path, device="cpu", dtype="float64")
    found.eos_id = None
    return found


def rows_of(canvases, start, width, call=0, block=0, sequence=None, lengths=None):
    """Give the rows of a call that asks for `width` columns from `start` on."""
    count, length = canvases.shape
    sequence = torch.arange(count) if sequence is None else torch.tensor(sequence)
    mask = None
    last = torch.full((count, 1), length - 1)
    if lengths is not None:
        last = torch.tensor(lengths)[:, None] - 1
        mask = torch.arange(length) <= last
    starts = torch.as_tensor(start).expand(count)[:, None]
    return Rows(
        ids=canvases,
        attention_mask=mask,
        positions=torch.minimum(starts + torch.arange(width), last),
        sequence=sequence,
        block=torch.full((count,), block),
        call=torch.full((count,), call),
    )


def direct(model, rows):
    with torch.no_grad():
        return model.forward(rows.ids, rows.attention_mask, rows.positions)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", WRITERS)
def test_a_fresh_cache_gives_what_the_model_gives(tmp_path, family, attention, mode):
    model = load_mask_predictor(
        WRITERS[family](tmp_path), device="cpu", dtype="float32", attn_implementation=attention
    )
    canvases = random_ids(1, 3, 26)
    for lengths, start in ((None, 11), ([20, 26, 17], [9, 11, 13]), (None, 0)):
        forward = model.cached(mode)
        rows = rows_of(canvases, start, 6, lengths=lengths)
        expected = direct(model, rows)
        logits, columns, whole = forward(rows)
        assert (logits - expected).abs().max() <= 1e-5
        assert whole.all() and columns.tolist() == [26] * 3
        # The same canvases again: only the windows go through the network.
        logits, columns, whole = forward(rows)
        assert (logits - expected).abs().max() <= 1e-5
        assert not whole.any()
        assert mode == "prefix" or columns.tolist() == [6 + int(model.right_shift)] * 3
        assert mode == "dual" or (columns < 26).all() or start == 0


@pytest.mark.parametrize("mode", MODES)
def test_what_is_outside_the_window_is_as_it_was(model, mode):
    canvases = random_ids(2, 1, 24)
    rows = rows_of(canvases, 8, 6)
    forward = model.cached(mode)
    forward(rows)
    changed = canvases.clone()
    changed[0, 2] = (changed[0, 2] + 1) % MASK
    stale, _, whole = forward(rows_of(changed, 8, 6, call=1))
    assert not whole.any()
    assert torch.allclose(stale, direct(model, rows), atol=1e-10)
    assert not torch.allclose(stale, direct(model, rows_of(changed, 8, 6)), atol=1e-3)
    # Behind the window a prefix cache sees everything, a dual cache nothing.
    behind = canvases.clone()
    behind[0, 20] = (behind[0, 20] + 1) % MASK
    found, _, _ = forward(rows_of(behind, 8, 6, call=2))
    sees = not torch.allclose(found, direct(model, rows), atol=1e-6)
    assert sees == (mode == "prefix")
    # Another block makes it fresh.
    anew, _, whole = forward(rows_of(changed, 8, 6, call=3, block=1))
    assert whole.all()
    assert torch.allclose(anew, direct(model, rows_of(changed, 8, 6)), atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_columns_in_the_window_are_never_stale(model, mode):
    canvases = random_ids(3, 2, 24)
    forward = model.cached(mode)
    forward(rows_of(canvases, 8, 6))
    changed = canvases.clone()
    changed[:, 9:12] = random_ids(4, 2, 3)
    found, _, _ = forward(rows_of(changed, 8, 6, call=1))
    before = direct(model, rows_of(canvases, 8, 6))
    assert ((found - before).abs().amax((-1, -2)) > 1e-3).all()
    # One network layer would see the new tokens exactly; three see them through old neighbours.
    exact = direct(model, rows_of(changed, 8, 6))
    assert ((found - exact).abs().mean() < (before - exact).abs().mean()).all()


@pytest.mark.parametrize("mode", MODES)
def test_refresh_every_counts_calls(model, mode):
    canvases = random_ids(2, 2, 24)
    forward = model.cached(mode, refresh_every=3)
    wholes = [bool(forward(rows_of(canvases, 8, 6, call=call))[2].all()) for call in range(8)]
    assert wholes == [True, False, False, True, False, False, True, False]


def dual_by_hand(model, base, draft, window, start=8):
    """Give logits of a draft whose outside is the base's: the base's keys, layer by layer.

    The network runs on base and draft side by side; before each attention the draft's hidden
    states outside the window are replaced by the base's, which is what keeping their keys means.
    """
    outside = torch.ones(base.shape[-1], dtype=torch.bool)
    outside[window] = False
    handles = []

    def keep(_, args, kwargs):
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        mixed = hidden.clone()
        mixed[1, outside] = hidden[0, outside]
        if "hidden_states" in kwargs:
            return args, {**kwargs, "hidden_states": mixed}
        return (mixed, *args[1:]), kwargs

    for layer in model.model.model.layers:
        handles.append(layer.register_forward_pre_hook(keep, with_kwargs=True))
    both = torch.stack([base, draft])
    asked = rows_of(both, start, 6)
    try:
        return direct(model, asked)[1]
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("is_fresh", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_drafts_see_the_base_outside_and_themselves_inside(model, mode, is_fresh):
    canvases = random_ids(5, 2, 24)
    rows = [canvases[0], canvases[0], canvases[0], canvases[1], canvases[1]]
    drafts = torch.stack(rows)
    for row, column in ((1, 8), (2, 11), (4, 13)):
        drafts[row, column] = (drafts[row, column] + 7) % MASK
    forward = model.cached(mode)
    if not is_fresh:
        forward(rows_of(canvases, 8, 6))
    rows = rows_of(drafts, 8, 6, call=1, sequence=[0, 0, 0, 1, 1])
    logits, columns, whole = forward(rows)
    shift = int(model.right_shift)
    window = slice(8 - shift, 14 if mode == "dual" else 24)
    width = len(range(*window.indices(24)))
    assert whole.tolist() == [is_fresh, False, False, is_fresh, False]
    assert columns.tolist() == [24 if row else width for row in whole.tolist()]
    for row, base in ((1, 0), (2, 0), (4, 3)):
        expected = dual_by_hand(model, drafts[base], drafts[row], window)
        assert torch.allclose(logits[row], expected, atol=1e-9)
    expected = direct(model, rows)
    for row in (0, 3):
        assert torch.allclose(logits[row], expected[row], atol=1e-9)
    # What is kept is the base's: a base row alone gives the same as before the drafts.
    again, _, _ = forward(rows_of(canvases, 8, 6, call=2))
    assert torch.allclose(again, expected[[0, 3]], atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_columns_that_repeat_at_the_end_of_a_span_are_one_key(model, mode):
    canvases = random_ids(7, 1, 24)
    drafts = canvases.repeat(2, 1)
    drafts[1, 21] = (drafts[1, 21] + 7) % MASK
    rows = rows_of(drafts, 20, 6, sequence=[0, 0])
    assert rows.positions[0].tolist() == [20, 21, 22, 23, 23, 23]
    logits, _, _ = model.cached(mode)(rows)
    expected = dual_by_hand(model, drafts[0], drafts[1], slice(20 - int(model.right_shift), 24), 20)
    assert torch.allclose(logits[1], expected, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", STRATEGIES)
def test_all_strategies_decode_and_ragged_batches_are_as_if_alone(model, name, mode):
    options = {
        "strategy": STRATEGIES[name],
        "gen_length": 22,
        "block_length": 8,
        "cache": mode,
        "seed": 0,
    }
    together = generate(model, PROMPTS, batch_size=3, **options)
    assert not (together.generated == MASK).any()
    for stats in together.stats:
        assert stats.nfe == stats.nfe_full + stats.nfe_window
        assert stats.nfe_full >= 1
        if name != "early":
            assert stats.nfe_full <= 3 < stats.nfe
    # The draws of a strategy depend on the number of a prompt, so only the first can be alone.
    alone = generate(model, PROMPTS[0], **options)
    assert torch.equal(alone.generated[0], together.generated[0])
    if name != "extra":
        for number, prompt in enumerate(PROMPTS):
            alone = generate(model, prompt, **options)
            assert torch.equal(alone.generated[0], together.generated[number])
            assert alone.stats[0].nfe == together.stats[number].nfe
            assert alone.stats[0].nfe_full == together.stats[number].nfe_full


@pytest.mark.parametrize("mode", MODES)
def test_without_stale_keys_the_answer_is_the_models(model, mode):
    """Refreshed in every call, a strategy of one row decodes as without a cache."""
    options = {"strategy": Threshold(0.5), "gen_length": 22, "block_length": 8, "batch_size": 3}
    plain = generate(model, PROMPTS, **options)
    kept = generate(model, PROMPTS, cache=mode, **options)
    fresh = generate(model, PROMPTS, cache=mode, refresh_every=1, **options)
    assert torch.equal(plain.generated, fresh.generated)
    for before, after, cheap in zip(plain.stats, fresh.stats, kept.stats, strict=True):
        assert before.token_evals == after.token_evals and after.nfe_window == 0
        assert cheap.token_evals < after.token_evals


def test_token_evaluations_are_those_of_the_windows(model):
    out = generate(
        model, [[1, 2, 3, 4]], strategy=TopK(steps=16), gen_length=16, block_length=4, cache="dual"
    )
    stats = out.stats[0]
    # A horizon of two blocks, and the column to the left where hidden states predict the next.
    # The last block's horizon ends with the canvas and is as wide, in columns that repeat.
    window = 8 + int(model.right_shift)
    assert (stats.nfe_full, stats.nfe_window) == (4, 12)
    assert stats.token_evals == 4 * 20 + 12 * window


def test_a_batch_of_another_composition_finds_its_keys(model):
    """Sequences that come and go between calls keep what is theirs."""
    canvases = random_ids(6, 3, 24)
    forward = model.cached("dual")
    forward(rows_of(canvases[:1], 8, 6))
    forward(rows_of(canvases, 8, 6, call=1))
    rows = rows_of(canvases[[0, 2]], 8, 6, call=2, sequence=[0, 2])
    logits, _, whole = forward(rows)
    assert not whole.any()
    assert torch.allclose(logits, direct(model, rows), atol=1e-9)


def test_a_fixed_number_of_rows_changes_nothing(model):
    options = {"strategy": PLAN, "gen_length": 22, "block_length": 8, "cache": "dual"}
    loose = generate(model, PROMPTS, batch_size=3, **options)
    fixed = generate(model, PROMPTS, batch_size=3, deterministic=True, **options)
    assert torch.equal(loose.generated, fixed.generated)
    for one, other in zip(loose.stats, fixed.stats, strict=True):
        assert (one.nfe, one.rows) == (other.nfe, other.rows)
        assert (one.nfe_full, one.token_evals) == (other.nfe_full, other.token_evals)


def test_arguments_that_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="refresh_every"):
        model.cached("dual", refresh_every=0)
    with pytest.raises(ValueError, match=r"'duel'.*did you mean 'dual'"):
        model.cached("duel")
    with pytest.raises(ValueError, match="97 columns, the model takes 96"):
        model.cached("dual")(rows_of(random_ids(0, 1, 97), 8, 6))
    flex = load_mask_predictor(
        write_llada(tmp_path), device="cpu", dtype="float32", attn_implementation="sdpa"
    )
    flex.model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="attn_implementation 'sdpa' or 'eager'"):
        flex.cached("dual")


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", WRITERS)
def test_on_the_device_a_fresh_cache_gives_what_the_model_gives(tmp_path, family, mode):
    model = load_mask_predictor(WRITERS[family](tmp_path), device="cuda", dtype="float32")
    canvases = random_ids(1, 3, 26).cuda()
    rows = rows_of(canvases.cpu(), 11, 6, lengths=[20, 26, 17])
    rows = Rows(**{name: value.cuda() for name, value in vars(rows).items()})
    forward = model.cached(mode)
    expected = direct(model, rows)
    for _ in range(2):
        logits, _, _ = forward(rows)
        assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()
    out = generate(
        model, PROMPTS, strategy=PLAN, gen_length=22, block_length=8, cache=mode, batch_size=3
    )
    assert not (out.generated == MASK).any() and int(out.generated.max()) < VOCABULARY
    assert EOS < VOCABULARY


@pytest.mark.parametrize("mode", MODES)
def test_a_call_in_parts_is_one_call(model, mode):
    options = {"strategy": PLAN, "gen_length": 22, "block_length": 8, "cache": mode}
    whole = generate(model, PROMPTS, **options)
    parts = generate(model, PROMPTS, max_rows=1, **options)
    assert torch.equal(whole.sequences, parts.sequences)
    for one, other in zip(whole.stats, parts.stats, strict=True):
        counted = (one.nfe, one.rows, one.nfe_full, one.nfe_window)
        assert counted == (other.nfe, other.rows, other.nfe_full, other.nfe_window)
    assert sum(stats.rows - stats.nfe for stats in whole.stats) > 0
