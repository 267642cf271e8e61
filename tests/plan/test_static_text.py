"""Pipelines on text in native regions: what is rewritten, what is left alone, that results are the same."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxref import InferenceSession, NodeError, registry
from onnxref.dtypes import Array
from onnxref.errors import InputError, ResourceLimitError
from onnxref.limits import Limits

HEAD = '<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 3, "com.microsoft" : 1]> '
FLAT = "[flat] flat = Reshape(x, all)"
LOWER = '[lower] lower = StringNormalizer<case_change_action = "LOWER", is_case_sensitive = 0>({})'
TOKENS = """[tokens] tokens =
    com.microsoft.Tokenizer<mark = 0, mincharnum = 1, pad_value = "#", tokenexp = "{}">({})"""
JOINED = "[joined] joined = Flatten(tokens)"
COUNT = """[count] counts = TfIdfVectorizer<max_gram_length = 2, max_skip_count = 0, min_gram_length = 1,
    mode = "TF", ngram_counts = [0, 3], ngram_indexes = [0, 1, 2, 3],
    pool_strings = ["red", "green", "blue", "red", "green"]>({})"""
CLASSIFY = """[classify] label, scores = ai.onnx.ml.LinearClassifier<classlabels_strings = ["one", "two"],
    coefficients = [1.0, 2.0, 3.0, -1.0, 0.5, -0.5, 1.0, 1.0], intercepts = [0.1, 0.2], multi_class = 1,
    post_transform = "SOFTMAX">(counts)"""
TEXTS = [
    "Red green, blue",
    "green red green",
    "",
    "RED red-green\0blue",
    "nothing",
    "caf\xe9 red \U0001f600 green",
]


def graph(*nodes: str, outputs: str = "string[N] label, float[N, 2] scores") -> str:
    return f"g (string[N, 1] x) => ({outputs}) <int64[1] all = {{-1}}> {{ {' '.join(nodes)} }}"


def pipeline(tokenexp: str = "[a-zA-Z0-9_]+", **options: str) -> str:
    """Return what skl2onnx writes for CountVectorizer and LogisticRegression."""
    lower, tokens = LOWER.format("flat"), TOKENS.format(tokenexp, "lower")
    return graph(FLAT, lower, tokens, JOINED, COUNT.format("joined"), CLASSIFY, **options)


def session(text: str, backend: str = "numba", **options: Any) -> InferenceSession:
    return InferenceSession(onnx.parser.parse_model(HEAD + text), backend=backend, **options)


def feed(*texts: Any) -> dict[str, Array]:
    found = np.empty((len(texts), 1), object)
    found[:, 0] = texts
    return {"x": found}


def agrees(text: str, *feeds: dict[str, Any], **options: Any) -> InferenceSession:
    """Assert that both backends give the same, run after run; return the native session."""
    made, wanted = session(text, **options), session(text, "numpy")
    for given in feeds:
        for _ in range(3):
            assert_same(made.run(None, given), wanted.run(None, given))
    return made


def assert_same(found: list[Any], wanted: list[Any]) -> None:
    for y, e in zip(found, wanted, strict=True):
        if e.dtype == object:
            np.testing.assert_array_equal(y, e, strict=True)
        else:
            np.testing.assert_allclose(y, e, rtol=1e-6, atol=1e-7, strict=True)


def rows_of(made: InferenceSession) -> dict[str, tuple[tuple[str, ...], str]]:
    """Return the model's nodes and the kind of each operator of the last run."""
    return {row.operator.rpartition(":")[2]: (row.nodes, row.kind) for row in made.explain()}


# --- texts to counts -----------------------------------------------------------------------------


def test_a_pipeline_is_one_native_program_with_names_behind_it() -> None:
    made = agrees(pipeline(), feed(*TEXTS), feed("red"), feed(*TEXTS * 100))
    rows = rows_of(made)
    assert rows["TokenizedTfIdf"] == (("flat", "lower", "tokens", "joined", "count"), "native")
    assert rows["LinearClassifier"] == (("classify",), "native")
    assert rows["LabelNames"] == (("classify",), "reference")
    assert len(rows) == 3
    assert made._shortcuts


@pytest.mark.parametrize("names", [["scores"], ["label"], ["label", "scores"], ["scores", "label"]])
def test_outputs_that_are_asked_for(names: list[str]) -> None:
    made, wanted = session(pipeline()), session(pipeline(), "numpy")
    for _ in range(3):
        assert_same(made.run(names, feed(*TEXTS)), wanted.run(names, feed(*TEXTS)))


@pytest.mark.parametrize(
    "nodes",
    [
        (FLAT, LOWER.format("flat"), TOKENS.format("[a-z]+", "lower"), COUNT.format("tokens")),
        (FLAT, TOKENS.format("[a-z]+", "flat"), JOINED, COUNT.format("joined")),
        (TOKENS.format("[^ ,]+", "x"), JOINED, COUNT.format("joined")),
        (TOKENS.format(".", "x"), JOINED, COUNT.format("joined")),
    ],
)
def test_the_graphs_that_exporters_write(nodes: tuple[str, ...]) -> None:
    made = agrees(graph(*nodes, outputs="float[N, 4] counts"), feed("red Green", "blue,red green"), feed("b"))
    rows = rows_of(made)
    assert len(rows) == 1
    assert rows["TokenizedTfIdf"][1] == "native"


@pytest.mark.parametrize("value", ["flat", "lower", "tokens", "joined"])
def test_values_that_are_wanted_themselves_are_made(value: str) -> None:
    made, wanted = session(pipeline()), session(pipeline(), "numpy")
    for _ in range(2):
        names = ["scores", value]
        assert_same(made.run(names, feed(*TEXTS)), wanted.run(names, feed(*TEXTS)))


@pytest.mark.parametrize(
    ("tokenexp", "reason"), [("(a|b)+", "no run of one class"), ("[a-z]+|[0-9]+", "no run of one class")]
)
def test_other_expressions_stay_on_the_reference_and_it_is_said_why(tokenexp: str, reason: str) -> None:
    made = agrees(pipeline(tokenexp), feed("red green", "a b"))
    (row,) = (row for row in made.explain() if row.operator.endswith("TokenizedTfIdf"))
    assert row.kind == "reference"
    assert reason in row.reason


def test_stop_words_decide_how_many_texts_there_are() -> None:
    text = pipeline().replace("is_case_sensitive = 0", 'is_case_sensitive = 0, stopwords = ["nothing"]')
    made = agrees(text, feed(*TEXTS), feed("nothing", "red"))
    assert rows_of(made)["TokenizedTfIdf"] == (("tokens", "joined", "count"), "native")
    assert rows_of(made)["StringNormalizer"] == (("lower",), "reference")


def test_no_texts_at_all() -> None:
    agrees(pipeline(), feed(), feed("red"))


def test_many_texts_in_a_row_are_left_to_the_reference() -> None:
    text = graph(TOKENS.format("[a-z]+", "x"), JOINED, COUNT.format("joined"), outputs="float[N, 4] counts")
    x = np.array([["red", "green blue"], ["blue", ""]], object)
    made = agrees(text.replace("string[N, 1]", "string[N, 2]"), {"x": x})
    assert rows_of(made)["TokenizedTfIdf"][1] == "reference"


@pytest.mark.parametrize("texts", [["\u0130 red"], ["red", "\u212a"], ["red"] * 50 + ["\u212aelvin green"]])
def test_letters_that_native_code_does_not_know_are_right_all_the_same(texts: list[str]) -> None:
    made = session(pipeline())
    for _ in range(3):
        made.run(None, feed(*["red green"] * len(texts)))
    assert made._shortcuts
    wanted = session(pipeline(), "numpy").run(None, feed(*texts))
    assert_same(made.run(None, feed(*texts)), wanted)
    assert_same(
        made.run(None, feed(*["red green"] * len(texts)))[:1], [np.array(["one"] * len(texts), object)]
    )


def test_what_stands_for_strings_is_seen_on_the_short_way() -> None:
    made, wanted = session(pipeline()), session(pipeline(), "numpy")
    for _ in range(3):
        made.run(None, feed("red", "green"))
    assert made._shortcuts

    class Text(str):
        """A string of a type of its own."""

    for odd in (b"green", np.str_("green"), Text("green")):
        assert_same(made.run(None, feed("red", odd)), wanted.run(None, feed("red", odd)))
    plain = np.array([["red"], ["green"]])
    assert_same(made.run(None, {"x": plain}), wanted.run(None, {"x": plain}))
    apart = np.array([["red", "x"], ["green", "y"]], object)[:, :1]
    assert_same(made.run(None, {"x": apart}), wanted.run(None, {"x": apart}))
    with pytest.raises(InputError, match="strings only"):
        made.run(None, feed("red", 3))
    with pytest.raises(InputError, match="strings only"):
        made.run(None, feed("red", None))


def test_errors_name_the_node() -> None:
    made = session(pipeline())
    for _ in range(2):
        made.run(None, feed("red"))
    with pytest.raises(
        NodeError, match=r"node 'tokens' \(com.microsoft:Tokenizer, opset 1\): .*valid Unicode"
    ):
        made.run(None, feed("red\udc80"))
    made.run(None, feed("red"))
    deep = graph(TOKENS.format("[a-z]+", "x"), COUNT.format("tokens"), outputs="float[N, 4] counts")
    with pytest.raises(NodeError, match=r"node 'count' \(TfIdfVectorizer, opset 21\): X must have shape"):
        session(deep).run(None, feed("red"))


def test_a_shape_that_callers_may_replace_is_no_constant() -> None:
    nodes = (FLAT, LOWER.format("flat"), TOKENS.format("[a-z]+", "lower"), JOINED, COUNT.format("joined"))
    text = graph(*nodes, outputs="float[N, 4] counts").replace(
        "string[N, 1] x)", "string[N, 1] x, int64[1] all)"
    )
    made = agrees(text, feed("Red green", "blue"), {**feed("Red green"), "all": np.array([1])})
    assert rows_of(made)["TokenizedTfIdf"][0] == ("lower", "tokens", "joined", "count")
    with pytest.raises(NodeError, match="'flat'"):
        made.run(None, {**feed("red", "green"), "all": np.array([1])})


def test_observers_see_the_models_own_nodes() -> None:
    made, seen = session(pipeline()), []
    made.run(None, feed(*TEXTS))
    made.run_named(None, feed(*TEXTS), observers=[lambda e: seen.append((e.node.name, e.node.op_type))])
    assert seen == [
        ("flat", "Reshape"),
        ("lower", "StringNormalizer"),
        ("tokens", "Tokenizer"),
        ("joined", "Flatten"),
        ("count", "TfIdfVectorizer"),
        ("classify", "LinearClassifier"),
    ]


def test_watchers_and_limits() -> None:
    made, seen = session(pipeline()), []
    made.run(None, feed(*TEXTS))
    made.run_named(None, feed(*TEXTS), watcher=lambda scope, ran, started, seconds: seen.append(ran))
    assert len(seen) == 3
    tight = session(pipeline(), limits=Limits(tensor_bytes=1000))
    with pytest.raises(ResourceLimitError):
        tight.run(None, feed(*TEXTS * 100))


@pytest.fixture
def user_operators() -> Iterator[None]:
    before = dict(registry._user_table)
    yield
    registry._user_table.clear()
    registry._user_table.update(before)


@pytest.mark.parametrize("op_type", ["Tokenizer", "TfIdfVectorizer", "StringNormalizer", "LinearClassifier"])
def test_operators_of_the_users_own_are_not_touched(user_operators: None, op_type: str) -> None:
    domain = {"Tokenizer": "com.microsoft", "LinearClassifier": "ai.onnx.ml"}.get(op_type, "")
    calls = []
    own = registry.find(domain, op_type, 21 if not domain else 1)

    def kernel(x: Array, **attributes: Any) -> Any:
        calls.append(op_type)
        arguments: dict[str, Any] = {"prepared": own.prepare(**attributes)} if own.prepare else attributes
        if own.takes_context:
            arguments["ctx"] = registry.Context()
        return own.kernel(x, **arguments)

    taken = inspect.Parameter("x", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    kernel.__signature__ = inspect.Signature([taken, *own.attributes.values()])  # type: ignore[attr-defined]
    registry.register_op(op_type, domain=domain, since=1)(kernel)
    made, wanted = session(pipeline()), session(pipeline(), "numpy")
    expected = wanted.run(None, feed(*TEXTS))
    calls.clear()
    for _ in range(3):
        assert_same(made.run(None, feed(*TEXTS)), expected)
    assert len(calls) >= 3


def test_threads_share_a_session() -> None:
    made, wanted = session(pipeline()), session(pipeline(), "numpy")
    feeds = [feed(*TEXTS[i:], *TEXTS[:i]) for i in range(len(TEXTS))]
    expected = [wanted.run(None, f) for f in feeds]
    shared, stop, failures = feed(*TEXTS), threading.Event(), []

    def run(number: int) -> None:
        try:
            for _ in range(200):
                assert_same(made.run(None, feeds[number]), expected[number])
                made.run(None, shared)  # whatever it holds just now
        except Exception as error:  # noqa: BLE001 - whatever it is, the test's thread is to show it
            failures.append(error)

    def change() -> None:
        """Replace strings that runs are reading: the old ones are freed."""
        count = 0
        while not stop.is_set():
            for i in range(len(TEXTS)):
                shared["x"][i, 0] = "".join(["red ", str(count), " green"] * 20)
                count += 1

    workers = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    changer = threading.Thread(target=change)
    for thread in (*workers, changer):
        thread.start()
    for worker in workers:
        worker.join()
    stop.set()
    changer.join()
    assert not failures


# --- strings elsewhere ---------------------------------------------------------------------------


def test_strings_that_a_region_only_passes_on_are_no_business_of_its() -> None:
    text = """g (string[N] x, float[N] y) => (string[M, 2] s, float[N] z, int64[1] n)
        <int64[2] shape = {-1, 2}> { n = Shape(x) z = Exp(y) s = Reshape(x, shape) }"""
    agrees(text, {"x": np.array(["a", "b"], object), "y": np.ones(2, np.float32)})


def test_operators_that_cannot_read_strings_natively_are_the_references() -> None:
    text = """g (string[N] x, string[N] y, float[N] z) => (bool[N] same, float[N] w) {
        same = Equal(x, y) w = Exp(z) }"""
    x, y = (np.array(texts, object) for texts in (["a", "b"], ["a", "c"]))
    made = agrees(text, {"x": x, "y": y, "z": np.ones(2, np.float32)})
    (row,) = (row for row in made.explain() if row.operator == "Equal")
    assert (row.kind, row.reason) == ("reference", "an input is strings")
    assert rows_of(made)["Exp" if "Exp" in rows_of(made) else "Chain"][1] == "native"


def test_a_branch_that_passes_strings_on_is_left_alone() -> None:
    text = """g (bool c, string[N] x, float[N] y) => (string[N] s, float[N] z) {
        s = If (c) <then_branch = t () => (a) { a = Identity(x) },
            else_branch = e () => (b) { b = Identity(x) }>
        z = Exp(y) }"""
    feeds = {"x": np.array(["a", "b"], object), "y": np.ones(2, np.float32)}
    agrees(text, {**feeds, "c": np.array(True)}, {**feeds, "c": np.array(False)})


def test_labels_that_are_read_again_are_there_in_time() -> None:
    text = pipeline(outputs="string[N] again, float[N, 2] scores, int64[N] number").replace(
        "(counts) }",
        """(counts) again = Identity(label)
        number = ai.onnx.ml.LabelEncoder<keys_strings = ["two", "one"], values_int64s = [20, 10]>(label) }""",
    )
    agrees(text, feed(*TEXTS), feed("red"))


def test_encoders_of_strings_are_part_of_a_program() -> None:
    text = """g (string[N, 1] x) => (float[N, 1] y, float[N, 1, 3] z) {
        [encode] n = ai.onnx.ml.LabelEncoder<keys_strings = ["a", "bb"], values_floats = [1.0, 2.0]>(x)
        y = Exp(n)
        [hot] z = ai.onnx.ml.OneHotEncoder<cats_strings = ["bb", "a", "c"]>(x) }"""
    made = agrees(text, feed("a", "bb", "", "\xe9", "c"))
    assert {kind for _, kind in rows_of(made).values()} == {"native"}
    assert made._shortcuts


TREE = """label, scores = ai.onnx.ml.TreeEnsembleClassifier<classlabels_strings = ["no", "yes"],
    class_ids = [0, 1], class_nodeids = [1, 2], class_treeids = [0, 0], class_weights = [1.0, 1.0],
    nodes_falsenodeids = [2, 0, 0], nodes_featureids = [0, 0, 0],
    nodes_modes = ["BRANCH_LEQ", "LEAF", "LEAF"],
    nodes_nodeids = [0, 1, 2], nodes_treeids = [0, 0, 0], nodes_truenodeids = [1, 0, 0],
    nodes_values = [0.5, 0.0, 0.0], post_transform = "NONE">(x)"""
VECTORS = """label, scores = ai.onnx.ml.SVMClassifier<classlabels_strings = ["no", "yes"],
    coefficients = [1.0, -1.0], kernel_params = [0.5, 0.0, 3.0], kernel_type = "RBF", post_transform = "NONE",
    rho = [0.1], support_vectors = [0.0, 1.0, 1.0, 0.0], vectors_per_class = [1, 1]>(x)"""
LINEAR = """label, scores = ai.onnx.ml.LinearClassifier<classlabels_strings = ["no", "yes"],
    coefficients = [1.0, -1.0], intercepts = [0.1], post_transform = "LOGISTIC">(x)"""


@pytest.mark.parametrize("classifier", [TREE, VECTORS, LINEAR], ids=["tree", "vectors", "linear"])
@pytest.mark.parametrize("outputs", ["string[N] label, float[N, 2] scores", "float[N, 2] scores"])
def test_classifiers_whose_labels_are_strings_are_native(classifier: str, outputs: str) -> None:
    text = f"g (float[N, 2] x) => ({outputs}) {{ {classifier} }}"
    x = np.random.default_rng(0).random((40, 2)).astype(np.float32)
    made = agrees(text, {"x": x}, {"x": x[:1]})
    rows = rows_of(made)
    assert {kind for operator, (_, kind) in rows.items() if operator.endswith("Classifier")} == {"native"}
    assert ("LabelNames" in rows) == ("label" in outputs)
    assert made._shortcuts


def test_numbers_that_are_read_from_strings_are_computed_with_natively() -> None:
    text = "g (string[N] x) => (float[N] y) { a = Cast<to = 1>(x) b = Mul(a, a) y = Exp(b) }"
    made = agrees(text, {"x": np.array(["1.5", "-2", "NaN"], object)})
    kinds = {row.operator.rpartition(":")[2]: row.kind for row in made.explain()}
    assert kinds["Cast"] == "reference"
    assert "native" in kinds.values()


def mapped() -> str:
    """Return what skl2onnx writes by default: maps of probabilities, and an Identity of the labels."""
    ends = """(counts) sums = ai.onnx.ml.Normalizer<norm = "L1">(scores) again = Identity(label)
        maps = ai.onnx.ml.ZipMap<classlabels_strings = ["one", "two"]>(sums) }"""
    text = pipeline(outputs="string[N] again, seq(map(string, float)) maps")
    return text.replace("(counts) }", ends)


@pytest.mark.parametrize("names", [None, ["maps"], ["label", "again", "maps"], ["again", "sums"]])
def test_maps_and_names_come_last(names: list[str] | None) -> None:
    made, wanted = session(mapped()), session(mapped(), "numpy")
    for _ in range(3):
        for texts in (TEXTS, TEXTS[:1]):
            for y, e in zip(made.run(names, feed(*texts)), wanted.run(names, feed(*texts)), strict=True):
                if isinstance(e, np.ndarray):
                    assert_same([y], [e])
                else:
                    assert [list(m) for m in y] == [list(m) for m in e]
                    assert all(type(v) is np.float32 for m in y for v in m.values())
                    np.testing.assert_allclose(
                        [[*m.values()] for m in y], [[*m.values()] for m in e], rtol=1e-6
                    )
    assert made._shortcuts
    labels = [row.nodes for row in made.explain(names) if row.operator == "LabelNames"]
    both = [("classify",), ("classify", "Identity#7")]
    assert labels == (both if names and "label" in names else [] if names == ["maps"] else both[1:])


def test_names_under_two_names_share_no_memory() -> None:
    made = session(mapped())
    for _ in range(3):
        label, again = made.run(["label", "again"], feed(*TEXTS))
        assert label is not again
        assert not np.shares_memory(label, again)


def test_limits_of_sequences_hold_on_the_short_way() -> None:
    tight = session(mapped(), limits=Limits(sequence_length=3))
    for _ in range(3):
        tight.run(None, feed(*TEXTS[:3]))
    with pytest.raises(ResourceLimitError, match="sequence"):
        tight.run(None, feed(*TEXTS))


def test_a_classifier_may_read_what_another_one_says() -> None:
    nodes = """(counts)
        number = ai.onnx.ml.LabelEncoder<keys_strings = ["two", "one"], values_floats = [2.0, 1.0]>(label)
        flat_number = Reshape(number, column) last, sure = ai.onnx.ml.LinearClassifier<
            classlabels_strings = ["few", "many"], coefficients = [1.0, -1.0], intercepts = [-1.5, 1.5],
            multi_class = 1, post_transform = "NONE">(flat_number) }"""
    text = pipeline(outputs="string[N] last, float[N, 2] sure, float[N, 2] scores").replace(
        "(counts) }", nodes
    )
    agrees(text.replace("{-1}>", "{-1}, int64[2] column = {-1, 1}>"), feed(*TEXTS), feed("red"))
