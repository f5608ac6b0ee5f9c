import numpy as np
import pytest
import tokenizers
import torch
import transformers
from datasets import Dataset, DatasetDict
from PIL import Image

from modicum.daved.errors import DAVEDWarning
from modicum.daved.features import Shaped, make_features
from modicum.daved.integrations.transformers import ImageFeatures, TextFeatures, select_dataset

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "drug", "helped", "me", "not", "at", "all"]
# Of several lengths and out of order, so that sorting and padding both matter.
TEXTS = ["the drug helped me", "not", "the drug helped me not at all at all", "me at", "drug drug"]
# Names with the hidden sizes of the tiny models.
TEXT_MODELS = {"gpt2": 12, "bert": 16, "roberta": 16, "t5": 8}


def tokenizer_of(kind):
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"unk_token": "[UNK]"}
    if kind != "gpt2":
        words.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        special |= {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, model_max_length=20, **special
    )


def model_of(kind):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"intermediate_size": 24, "max_position_embeddings": 24, "vocab_size": len(WORDS)}
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=len(WORDS), n_positions=12, n_embd=12, n_layer=2, n_head=2,
            bos_token_id=1, eos_token_id=1,
        )  # fmt: skip
        return transformers.GPT2Model(config)
    if kind == "bert":
        return transformers.BertModel(transformers.BertConfig(**shape))
    if kind == "roberta":
        # Positions are counted by what is not padding, from the padding's number on.
        return transformers.RobertaModel(transformers.RobertaConfig(**shape, pad_token_id=0))
    config = transformers.T5Config(
        vocab_size=len(WORDS), d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2
    )
    return transformers.T5Model(config)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of tiny models with random weights, as they come from the hub."""
    found = {}
    for kind in TEXT_MODELS:
        found[kind] = tmp_path_factory.mktemp(kind)
        model_of(kind).save_pretrained(found[kind])
        tokenizer_of(kind).save_pretrained(found[kind])
    vision = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 16, "patch_size": 8, "projection_dim": 10,
    }  # fmt: skip
    torch.manual_seed(0)
    models = {
        "clip-vision": transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(**vision)
        ),
        "clip": transformers.CLIPModel(
            transformers.CLIPConfig(
                text_config={
                    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
                    "num_attention_heads": 2, "vocab_size": 20, "max_position_embeddings": 8,
                },
                vision_config=vision,
                projection_dim=6,
            )
        ),
    }  # fmt: skip
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    for kind, model in models.items():
        found[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(found[kind])
        processor.save_pretrained(found[kind])
    return {kind: str(path) for kind, path in found.items()}


def states_of(folder, text, layer=-1):
    """Hidden states of one unpadded text, (t, D), without anything of the module under test."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    ids = transformers.AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    with torch.no_grad():
        made = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    return made.hidden_states[layer][0].numpy()


@pytest.mark.parametrize("kind", TEXT_MODELS)
def test_batches_with_padding_equal_each_text_alone(kind, folders):
    expected = np.stack([states_of(folders[kind], text).mean(axis=0) for text in TEXTS])
    assert expected.shape == (5, TEXT_MODELS[kind])
    # Different texts are further apart than the tolerance, so that a wrong order cannot pass.
    assert np.abs(expected[:, None] - expected[None])[np.triu_indices(5, 1)].max(1).min() > 1e-2
    for batch_size in (1, 2, 5):
        found = TextFeatures(folders[kind], batch_size=batch_size, device="cpu").transform(TEXTS)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", TEXT_MODELS)
@pytest.mark.parametrize(("pooling", "token"), [("first", 0), ("last", -1)])
def test_single_tokens_of_padded_texts(kind, pooling, token, folders):
    expected = np.stack([states_of(folders[kind], text)[token] for text in TEXTS])
    found = TextFeatures(folders[kind], pooling=pooling, device="cpu").transform(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, -2])
def test_states_of_other_layers(layer, folders):
    expected = np.stack([states_of(folders["bert"], text, layer).mean(0) for text in TEXTS])
    found = TextFeatures(folders["bert"], layer=layer, device="cpu").transform(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match="hidden states 0 to 2, not 3"):
        TextFeatures(folders["bert"], layer=3, device="cpu").transform(TEXTS)


def test_double_precision_equals_each_text_alone_far_closer(folders):
    features = TextFeatures(folders["bert"], dtype=torch.float64, device="cpu")
    together = features.transform(TEXTS)
    assert together.dtype == np.float64
    alone = np.concatenate([features.transform([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-12)


def test_a_loaded_model_gives_the_same_and_keeps_its_mode(folders):
    model = transformers.AutoModel.from_pretrained(folders["bert"]).train()
    features = TextFeatures(model, tokenizer_of("bert"))
    expected = TextFeatures(folders["bert"], device="cpu").transform(TEXTS)
    np.testing.assert_allclose(features.transform(TEXTS), expected, atol=1e-6)
    assert model.training
    with pytest.raises(ValueError, match="give tokenizer="):
        TextFeatures(model)


def test_a_padding_token_that_the_model_does_not_know_is_never_shown_to_it(folders):
    tokenizer = tokenizer_of("gpt2")
    tokenizer.add_special_tokens({"pad_token": "[ADDED]"})
    model = transformers.AutoModel.from_pretrained(folders["gpt2"])
    assert tokenizer.pad_token_id == model.config.vocab_size
    expected = TextFeatures(folders["gpt2"], device="cpu").transform(TEXTS)
    np.testing.assert_allclose(TextFeatures(model, tokenizer).transform(TEXTS), expected, atol=1e-6)


def test_long_texts_are_cut_and_counted(folders):
    long = " ".join(["drug"] * 9 + ["me"] * 9)
    with pytest.warns(DAVEDWarning, match="1 of 2 texts are longer than 12 tokens"):
        found = TextFeatures(folders["gpt2"], device="cpu").transform(["not", long])
    # A causal model does not see what was cut.
    model = transformers.AutoModel.from_pretrained(folders["gpt2"]).eval()
    with torch.no_grad():
        states = model(torch.tensor([[5] * 9 + [7] * 3])).last_hidden_state
    np.testing.assert_allclose(found[1], states[0].mean(0).numpy(), atol=1e-5)
    with pytest.warns(DAVEDWarning, match="2 of 5 texts are longer than 5 tokens"):
        TextFeatures(folders["bert"], max_length=5, device="cpu").transform(TEXTS)


def test_a_text_of_just_the_length_is_not_cut(folders):
    TextFeatures(folders["gpt2"], device="cpu").transform([" ".join(["drug"] * 12)])


def test_mistakes_with_texts_are_named(folders):
    features = TextFeatures(folders["gpt2"], device="cpu")
    with pytest.raises(ValueError, match=r"1 texts have no token.*first number 1: ''"):
        features.transform(["drug", ""])
    with pytest.raises(ValueError, match="no texts"):
        features.transform([])
    with pytest.raises(TypeError, match="single text into a list"):
        features.transform("drug")
    with pytest.raises(TypeError, match="record 1 is NoneType"):
        features.transform(["drug", None])
    with pytest.raises(ValueError, match="pooling is one of"):
        TextFeatures("gpt2", pooling="max")
    with pytest.raises(ValueError, match="max_length"):
        TextFeatures("gpt2", max_length=0)
    with pytest.raises(ValueError, match="batch_size"):
        TextFeatures("gpt2", batch_size=0)


# Images.


def images():
    rng = np.random.default_rng(0)
    sizes = [(20, 16), (16, 16), (40, 25), (17, 30), (16, 64)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.mark.parametrize(("kind", "dim"), [("clip", 6), ("clip-vision", 10)])
def test_images_in_batches_equal_each_alone(kind, dim, folders):
    processor = transformers.AutoImageProcessor.from_pretrained(folders[kind])
    expected = []
    for image in images():
        pixels = processor(images=image, return_tensors="pt")
        with torch.no_grad():
            if kind == "clip":
                model = transformers.CLIPModel.from_pretrained(folders[kind]).eval()
                expected.append(model.get_image_features(**pixels).pooler_output[0].numpy())
            else:
                model = transformers.CLIPVisionModelWithProjection.from_pretrained(folders[kind])
                expected.append(model.eval()(**pixels).image_embeds[0].numpy())
    expected = np.stack(expected)
    assert np.abs(expected[:, None] - expected[None])[np.triu_indices(5, 1)].max(1).min() > 1e-3
    for batch_size in (1, 2, 5):
        found = ImageFeatures(folders[kind], batch_size=batch_size, device="cpu")
        assert found.transform(images()).shape == (5, dim)
        np.testing.assert_allclose(found.transform(images()), expected, atol=1e-5)


def test_arrays_and_grey_images_are_taken(folders):
    features = ImageFeatures(folders["clip-vision"], device="cpu")
    colour = images()[0]
    np.testing.assert_allclose(
        features.transform([np.asarray(colour)]), features.transform([colour]), atol=1e-6
    )
    grey = colour.convert("L")
    np.testing.assert_array_equal(
        features.transform([grey]), features.transform([grey.convert("RGB")])
    )


def test_mistakes_with_images_are_named(folders):
    with pytest.raises(ValueError, match="no images"):
        ImageFeatures(folders["clip-vision"], device="cpu").transform([])
    with pytest.raises(ValueError, match="type 'bert', not of CLIP"):
        ImageFeatures(folders["bert"], device="cpu").transform(images())
    model = transformers.CLIPVisionModelWithProjection.from_pretrained(folders["clip-vision"])
    with pytest.raises(ValueError, match="give processor="):
        ImageFeatures(model)


# Names, fingerprints and datasets.


def test_names_make_the_maps(folders):
    made = make_features(f"hf:{folders['bert']}", normalize="l2", pooling="first", device="cpu")
    assert isinstance(made, Shaped)
    np.testing.assert_allclose(np.linalg.norm(made.transform(TEXTS), axis=1), 1, rtol=1e-6)
    found = make_features(f"clip:{folders['clip']}", device="cpu").transform(images())
    assert found.shape == (5, 6)


def test_a_revision_follows_the_name_and_a_folder_may_have_its_sign(tmp_path):
    assert TextFeatures("org/model@abc").revision == "abc"
    assert TextFeatures("org/model@abc").name == "org/model"
    assert TextFeatures("org/model").revision is None
    folder = tmp_path / "at@home"
    folder.mkdir()
    assert TextFeatures(folder).name == str(folder)
    assert TextFeatures(folder).revision is None


def test_a_fingerprint_is_of_the_model_and_not_of_its_place_or_use(folders, tmp_path):
    first = TextFeatures(folders["bert"], device="cpu")
    expected = first.fingerprint()
    first.transform(TEXTS)
    assert first.fingerprint() == expected
    transformers.AutoModel.from_pretrained(folders["bert"]).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(folders["bert"]).save_pretrained(tmp_path)
    assert TextFeatures(tmp_path, batch_size=2, device="cpu").fingerprint() == expected


def test_fingerprints_tell_models_and_settings_apart(folders):
    other = model_of("bert")
    with torch.no_grad():
        other.embeddings.word_embeddings.weight[5, 0] += 1e-3
    tokens = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]"))
    wrong = transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, model_max_length=20)
    made = [
        TextFeatures(folders["bert"], device="cpu"),
        TextFeatures(folders["bert"], device="cpu", pooling="first"),
        TextFeatures(folders["bert"], device="cpu", layer=1),
        TextFeatures(folders["bert"], device="cpu", max_length=5),
        TextFeatures(folders["bert"], device="cpu", dtype=torch.float64),
        TextFeatures(folders["bert"], wrong, device="cpu"),
        TextFeatures(other, tokenizer_of("bert")),
        TextFeatures(folders["gpt2"], device="cpu"),
        ImageFeatures(folders["clip"], device="cpu"),
        ImageFeatures(folders["clip-vision"], device="cpu"),
    ]
    assert len({features.fingerprint() for features in made}) == len(made)


def test_columns_of_a_dataset_are_embedded_and_purchases_keep_their_order(folders):
    dataset = Dataset.from_dict({"text": TEXTS, "rating": [1, 2, 3, 4, 5]})
    features = TextFeatures(folders["gpt2"], device="cpu")
    np.testing.assert_array_equal(features.transform(dataset["text"]), features.transform(TEXTS))
    bought = select_dataset(dataset, np.array([3, 0, 4]))
    assert list(bought["rating"]) == [4, 1, 5]

    class Purchase:
        indices = np.array([2, 1])

    assert list(select_dataset(dataset, Purchase())["text"]) == [TEXTS[2], TEXTS[1]]
    assert len(select_dataset(dataset, [])) == 0


def test_an_image_column_is_embedded(folders):
    dataset = Dataset.from_dict({"image": images()})
    features = ImageFeatures(folders["clip"], batch_size=2, device="cpu")
    np.testing.assert_allclose(
        features.transform(dataset["image"]), features.transform(images()), atol=1e-6
    )


def test_mistakes_with_datasets_are_named():
    dataset = Dataset.from_dict({"rating": [1, 2]})
    for wrong in (2, -1):
        with pytest.raises(ValueError, match=f"rows 0 to 1, not {wrong}"):
            select_dataset(dataset, [0, wrong])
    with pytest.raises(TypeError, match="not from IterableDataset"):
        select_dataset(dataset.to_iterable_dataset(), [0])
    with pytest.raises(TypeError, match="name a split"):
        select_dataset(DatasetDict({"train": dataset}), [0])
