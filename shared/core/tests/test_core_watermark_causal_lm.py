"""Language-model anchors against one plain forward pass per position, on tiny random models."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from modicum.core.watermark.anchors import (  # noqa: E402
    anchor_windows,
    iter_sequence_log_probs,
    validate_anchor_log_probs,
)
from modicum.core.watermark.causal_lm import (  # noqa: E402
    CausalLMAnchor,
    SelfAnchor,
    model_fingerprint,
)

V = 37
SHAPE = {"vocab_size": V, "bos_token_id": 1, "eos_token_id": 2}


def build(kind: str, seed: int = 0, **more):
    torch.manual_seed(seed)
    small = SHAPE | {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    llama = small | {"intermediate_size": 24, "max_position_embeddings": 128}
    t = transformers
    models = {
        "gpt2": lambda: t.GPT2LMHeadModel(
            t.GPT2Config(**SHAPE, n_embd=16, n_layer=2, n_head=2, n_positions=128, **more)
        ),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**llama, **more)),
        "mistral": lambda: t.MistralForCausalLM(
            t.MistralConfig(**llama, num_key_value_heads=1, sliding_window=6, **more)
        ),
        "bloom": lambda: t.BloomForCausalLM(
            t.BloomConfig(**SHAPE, hidden_size=16, n_layer=2, n_head=2, **more)
        ),
        "mamba": lambda: t.MambaForCausalLM(
            t.MambaConfig(**SHAPE, hidden_size=16, num_hidden_layers=2, state_size=4, **more)
        ),
    }
    model = models[kind]().eval()
    with torch.no_grad():
        # Random initialisation is nearly uniform; spread the laws so that mistakes show.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    # With weights this large a recurrent state amplifies rounding, by how much depends on the
    # processor; in double precision nothing of it is left.
    return model.double() if kind == "mamba" else model


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # Matrices of 16 columns: handing them to several threads only costs time.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["gpt2", "llama", "mistral", "bloom", "mamba"])
def model(request):
    return build(request.param)


@pytest.fixture(scope="module")
def llama():
    return build("llama")


def naive(model, ids, temperature=1.0, size=V):
    """Law after ``ids``, one sequence, no padding, no cache."""
    if not len(ids):
        return np.full(size, 1 / size)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(ids)])).logits[0, -1, :size].double()
    return (logits / temperature).softmax(-1).numpy()


def text(seed, length):
    return np.random.default_rng(seed).integers(0, V, length)


def contexts(lists, width=None):
    width = max(map(len, lists)) if width is None else width
    ids = np.full((len(lists), width), -1)
    for i, row in enumerate(lists):
        ids[i, width - len(row) :] = row
    return ids, np.array([len(row) for row in lists])


@pytest.mark.parametrize("bos", [None, 1])
def test_window_equals_one_forward_per_position(model, bos):
    ids = text(0, 25)
    anchor = CausalLMAnchor(model, window=7, temperature=1.5, bos_token_id=bos, batch_size=6)
    before = [] if bos is None else [bos]
    want = np.stack(
        [naive(model, before + ids[max(0, t - 7) : t].tolist(), 1.5) for t in range(25)]
    )
    assert np.abs(want[2] - want[-1]).sum() > 0.2  # the laws do differ
    got = anchor.log_probs(*anchor_windows(ids, 7))
    assert got.dtype == np.float32
    validate_anchor_log_probs(got, V)
    np.testing.assert_allclose(np.exp(got), want, atol=1e-5)
    np.testing.assert_allclose(np.exp(anchor.log_probs_sequence(ids)), want, atol=1e-5)
    # A longer context than the window is cut.
    np.testing.assert_allclose(np.exp(anchor.log_probs(*anchor_windows(ids, 15))), want, atol=1e-5)


@pytest.mark.parametrize("bos", [None, 1])
def test_prefix_sequence_equals_one_forward_per_position(model, bos):
    ids = text(1, 30)
    before = [] if bos is None else [bos]
    want = np.stack([naive(model, before + ids[:t].tolist()) for t in range(30)])
    for batch_size in (1, 7, 64):
        anchor = CausalLMAnchor(model, mode="prefix", bos_token_id=bos, batch_size=batch_size)
        assert anchor.window is None
        np.testing.assert_allclose(np.exp(anchor.log_probs_sequence(ids)), want, atol=1e-5)
    some = np.array([0, 4, 5, 19, 30])
    places, laws = zip(*iter_sequence_log_probs(anchor, ids, some), strict=True)
    np.testing.assert_array_equal(np.concatenate(places), some)
    got = torch.cat(laws).exp().numpy()
    np.testing.assert_allclose(got[:4], want[some[:4]], atol=1e-5)
    np.testing.assert_allclose(got[4], naive(model, before + ids.tolist()), atol=1e-5)


def test_prefix_cache_follows_a_batch_that_grows_shrinks_and_changes(model):
    anchor = CausalLMAnchor(model, mode="prefix", bos_token_id=1)
    rng = np.random.default_rng(3)
    rows = [rng.integers(0, V, n).tolist() for n in (0, 3, 9, 5)]
    hits = 0

    def check():
        nonlocal hits
        before = anchor._cache
        got = np.exp(anchor.log_probs(*contexts(rows)))
        hits += before is not None and anchor._cache is before
        np.testing.assert_allclose(got, [naive(model, [1, *row]) for row in rows], atol=1e-5)

    def grow(steps=1):
        for row in rows:
            row.extend(rng.integers(0, V, steps).tolist())

    check()
    for _ in range(8):
        grow()
        check()
    grow(4)
    check()
    expected = 9
    rows = [rows[2], rows[0]]  # two rows finished, the others changed places
    grow()
    check()
    rows = [list(rows[1]), list(rows[1]), list(rows[1])]  # one row sampled three times
    grow()
    check()
    expected += 2
    rows[1][2] = (rows[1][2] + 1) % V  # an edit in the past
    grow()
    check()
    rows.append(rng.integers(0, V, 6).tolist())  # a new request
    check()
    grow()
    rows[0].append(4)  # rows no longer advance in step
    check()
    check()  # nothing new
    grow()
    check()
    expected += 1
    assert hits == (expected if anchor._caches else 0)
    assert anchor._caches == (type(model).__name__[:5] not in ("Bloom", "Mamba"))
    anchor.reset()
    assert anchor._cache is None
    check()


def test_cached_steps_compute_only_new_tokens(llama, monkeypatch):
    anchor = CausalLMAnchor(llama, mode="prefix", bos_token_id=1)
    widths = []
    forward = anchor._forward
    monkeypatch.setattr(
        anchor,
        "_forward",
        lambda ids, *a, **k: widths.append(ids.shape[1]) or forward(ids, *a, **k),
    )
    ids = text(4, 12)
    for t in range(13):
        anchor.log_probs(ids[None, :t], np.array([t]))
    assert widths == [1] * 13


def test_sequence_detection_leaves_a_running_generation_alone(llama):
    anchor = CausalLMAnchor(llama, mode="prefix", bos_token_id=1)
    ids = text(5, 10)
    anchor.log_probs(ids[None, :6], np.array([6]))
    cache = anchor._cache
    anchor.log_probs_sequence(text(6, 20))
    assert anchor._cache is cache
    got = np.exp(anchor.log_probs(ids[None, :7], np.array([7])))[0]
    np.testing.assert_allclose(got, naive(llama, [1, *ids[:7]]), atol=1e-5)


@pytest.mark.parametrize("mode", ["window", "prefix"])
def test_batch_invariance(model, mode):
    rows = [text(s, n).tolist() for s, n in enumerate((1, 12, 4, 20, 20, 7))]
    anchor = CausalLMAnchor(model, window=20, mode=mode, bos_token_id=1)
    together = anchor.log_probs(*contexts(rows))
    for i, row in enumerate(rows):
        alone = anchor.log_probs(*contexts([row], 25))
        np.testing.assert_allclose(alone[0], together[i], atol=1e-5)


def test_torch_in_torch_out_and_half_precision(llama):
    anchor = CausalLMAnchor(llama, window=5)
    ids, lengths = anchor_windows(text(8, 9), 5)
    got = anchor.log_probs(torch.from_numpy(ids), torch.from_numpy(lengths))
    assert torch.is_tensor(got)
    assert got.dtype == torch.float32
    assert not got.requires_grad
    np.testing.assert_allclose(got.numpy(), anchor.log_probs(ids, lengths), atol=1e-6)
    assert torch.is_tensor(anchor.log_probs_sequence(torch.from_numpy(text(8, 9))))
    half = CausalLMAnchor(copy.deepcopy(llama).bfloat16(), window=5)
    law = half.log_probs(ids, lengths)
    assert law.dtype == np.float32
    assert np.abs(np.exp(law.astype(float)).sum(-1) - 1).max() < 1e-5


def test_vocabulary_is_cut_or_padded(llama):
    ids, lengths = anchor_windows(text(9, 8) % 30, 5)
    cut = CausalLMAnchor(llama, vocab_size=30, window=5).log_probs(ids, lengths)
    want = np.stack([naive(llama, row[row >= 0], size=30) for row in ids])
    np.testing.assert_allclose(np.exp(cut), want, atol=1e-5)
    padded = CausalLMAnchor(llama, vocab_size=50, window=5)
    law = padded.log_probs(ids, lengths)
    assert np.isneginf(law[1:, V:]).all()
    full = CausalLMAnchor(llama, window=5).log_probs(ids, lengths)
    np.testing.assert_allclose(law[1:, :V], full[1:], atol=1e-6)
    # A token without a row in the embedding is read as a known one instead of crashing.
    strange = padded.log_probs(np.array([[3, 45]]), np.array([2]))
    np.testing.assert_allclose(np.exp(strange[0, :V]), naive(llama, [3, 0]), atol=1e-5)


def test_empty_context(llama):
    nothing = np.zeros((2, 0), int), np.zeros(2, int)
    for mode in ("window", "prefix"):
        plain = CausalLMAnchor(llama, mode=mode)
        np.testing.assert_allclose(np.exp(plain.log_probs(*nothing)), 1 / V, atol=1e-6)
        bos = CausalLMAnchor(llama, mode=mode, bos_token_id=1)
        np.testing.assert_allclose(
            np.exp(bos.log_probs(*nothing)), [naive(llama, [1])] * 2, atol=1e-5
        )
        assert plain.log_probs_sequence([]).shape == (0, V)
        assert plain.log_probs_sequence([3]).shape == (1, V)
        assert plain.log_probs(np.zeros((0, 4), int), np.zeros(0, int)).shape == (0, V)
        mixed = plain.log_probs(*contexts([[], [5]]))
        np.testing.assert_allclose(np.exp(mixed[1]), naive(llama, [5]), atol=1e-5)


def test_self_anchor_reads_the_prompt(llama):
    prompt, ids = text(10, 6), text(11, 9)
    anchor = SelfAnchor(llama, prompt, temperature=0.7)
    want = [naive(llama, [*prompt, *ids[:t]], 0.7) for t in range(9)]
    np.testing.assert_allclose(np.exp(anchor.log_probs_sequence(ids)), want, atol=1e-5)
    for t in range(9):
        got = anchor.log_probs(ids[None, :t], np.array([t]))
        np.testing.assert_allclose(np.exp(got[0]), want[t], atol=1e-5)
    alone = SelfAnchor(llama, bos_token_id=1).log_probs_sequence(ids)
    np.testing.assert_allclose(np.exp(alone[3]), naive(llama, [1, *ids[:3]]), atol=1e-5)
    assert anchor.fingerprint != SelfAnchor(llama, temperature=0.7).fingerprint
    assert anchor.fingerprint == SelfAnchor(llama, ids, temperature=0.7).fingerprint


def test_fingerprint_names_the_law(llama, tmp_path):
    base = CausalLMAnchor(llama, window=5)
    again = CausalLMAnchor(build("llama"), window=5, batch_size=3)
    assert base.fingerprint == again.fingerprint
    again.model.config.pad_token_id = 2
    assert model_fingerprint(again.model) == model_fingerprint(llama)
    nudged = copy.deepcopy(llama)
    with torch.no_grad():
        nudged.model.layers[1].mlp.up_proj.weight[3, 7] += 1e-3
    rotated = build("llama", rope_parameters={"rope_type": "default", "rope_theta": 5e3})
    rivals = [
        CausalLMAnchor(nudged, window=5),
        CausalLMAnchor(rotated, window=5),
        CausalLMAnchor(build("llama", seed=1), window=5),
        CausalLMAnchor(copy.deepcopy(llama).bfloat16(), window=5),
        CausalLMAnchor(llama, window=6),
        CausalLMAnchor(llama, window=5, temperature=2.0),
        CausalLMAnchor(llama, window=5, bos_token_id=1),
        CausalLMAnchor(llama, window=5, vocab_size=30),
        CausalLMAnchor(llama, mode="prefix"),
        SelfAnchor(llama),
    ]
    names = {base.fingerprint, *(a.fingerprint for a in rivals)}
    assert len(names) == len(rivals) + 1


def test_from_pretrained(llama, tmp_path):
    llama.save_pretrained(tmp_path)
    anchor = CausalLMAnchor.from_pretrained(tmp_path, window=5)
    assert anchor.bos_token_id == 1
    assert anchor.fingerprint == CausalLMAnchor(llama, window=5, bos_token_id=1).fingerprint
    ids = text(12, 9)
    np.testing.assert_allclose(
        anchor.log_probs_sequence(ids),
        CausalLMAnchor(llama, window=5, bos_token_id=1).log_probs_sequence(ids),
        atol=1e-6,
    )
    half = CausalLMAnchor.from_pretrained(tmp_path, dtype=torch.bfloat16, bos_token_id=None)
    assert next(half.model.parameters()).dtype == torch.bfloat16
    assert half.bos_token_id is None


def test_refusals(llama):
    with pytest.raises(TypeError, match="from_pretrained"):
        CausalLMAnchor("gpt2")
    with pytest.raises(ValueError, match="eval"):
        CausalLMAnchor(copy.deepcopy(llama).train())
    for bad in (
        {"window": 0},
        {"temperature": 0.0},
        {"mode": "all"},
        {"batch_size": 0},
        {"bos_token_id": V},
        {"window": 500},
    ):
        with pytest.raises(ValueError):
            CausalLMAnchor(llama, **bad)
    with pytest.raises(TypeError):
        CausalLMAnchor(llama, window=2.5)
    anchor = CausalLMAnchor(llama, mode="prefix")
    with pytest.raises(ValueError, match="at most 128"):
        anchor.log_probs_sequence(text(0, 200))
    with pytest.raises(ValueError, match="at most 128"):
        anchor.log_probs(text(0, 200)[None], np.array([200]))
    with pytest.raises(ValueError, match="right-aligned"):
        anchor.log_probs(np.array([[V]]), np.array([1]))


@pytest.mark.gpu
def test_on_the_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cpu = build("llama")
    gpu = copy.deepcopy(cpu).cuda()
    ids = text(13, 30)
    assert model_fingerprint(cpu) == model_fingerprint(gpu)
    for settings in ({"window": 7}, {"mode": "prefix", "bos_token_id": 1}):
        want = CausalLMAnchor(cpu, **settings).log_probs_sequence(ids)
        anchor = CausalLMAnchor(gpu, **settings)
        np.testing.assert_allclose(anchor.log_probs_sequence(ids), want, atol=1e-3)
        contexts_NL, lengths_N = anchor_windows(ids, 7)
        got = anchor.log_probs(
            torch.from_numpy(contexts_NL).cuda(), torch.from_numpy(lengths_N).cuda()
        )
        assert got.device.type == "cuda"
