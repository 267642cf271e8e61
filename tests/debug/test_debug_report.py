"""The report: where its nodes are drawn, what its page holds, and what a browser makes of it."""

from __future__ import annotations

import html
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import onnx
import onnx.parser
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from model_zoo import DRAWN_MODELS, REAL_MODELS, TORCH
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import onnxref
from onnxref.cli._report import add_report
from onnxref.debug._compare import compare
from onnxref.debug._html import html_table
from onnxref.debug._layout_graph import GAP_X, place
from onnxref.debug._page import Pages
from onnxref.debug._precision import precision
from onnxref.debug._profile import profile
from onnxref.debug._report import render_report, write_report
from onnxref.debug._trace import trace
from onnxref.errors import InputError, OutputError
from onnxref.model import load_model

ZOO = {model.name: model for model in (*REAL_MODELS, *DRAWN_MODELS)}
CHROMIUM = shutil.which("chromium")

NESTED = """
<ir_version: 10, opset_import: ["": 21, "own": 1]>
g (float[4] x, int64 n, bool c) => (float[4] y, float[4] z) {
  yes = Constant <value = bool {1}> ()
  h = own.twice (x)
  y = Loop (n, yes, h) <body = body (int64 i, bool k, float[4] s) => (bool keep, float[4] t) {
    keep = Identity (k)
    d = own.twice (s)
    t = Mul (d, x)
  }>
  z = If (c) <then_branch = yes () => (float[4] a) { a = Neg (h) },
              else_branch = no () => (float[4] b) { b = Abs (h) }>
}
<domain: "own", opset_import: ["": 21]>
twice (v) => (w) { w = Add (v, v) }
"""
NESTED_FEEDS = {"x": np.ones(4, np.float32), "n": np.int64(3), "c": np.bool_(True)}

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


def _parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def _data(page: str) -> dict[str, Any]:
    """Return what a page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def _page(model: Any, **results: Any) -> str:
    return render_report(load_model(model), title="model", **results)


def large_model(count: int) -> onnx.ModelProto:
    """Return a model of so many nodes, with branches and long skips."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    ends = ["x"]
    while len(nodes) < count:
        at, layer = len(nodes), len(ends) - 1
        for op, *names in (
            ("MatMul", ends[-1], "w"),
            ("Relu", f"v{at}"),
            ("Sigmoid", f"v{at}"),
            ("Mul", f"v{at + 1}", f"v{at + 2}"),
            ("Add", f"v{at + 3}", ends[-1]),
            ("Sub", f"v{at + 4}", ends[max(0, len(ends) - 9)]),
            ("Tanh", f"v{at + 5}"),
        ):
            output = f"v{len(nodes)}"
            nodes.append(helper.make_node(op, names, [output], name=f"/layers.{layer}/{op}"))
        ends.append(nodes[-1].output[0])
    weights = numpy_helper.from_array(rng.standard_normal((16, 16)).astype(np.float32) / 4, "w")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 16])]
    outputs = [helper.make_tensor_value_info(ends[-1], TensorProto.FLOAT, [2, 16])]
    graph = helper.make_graph(nodes, "large", inputs, outputs, [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


# ------------------------------------------------------------------------------------------ layout

EDGES = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(10, 200), min_size=n, max_size=n),
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda e: e[0] < e[1])),
    )
)


@settings(max_examples=60, deadline=None)
@given(EDGES)
def test_nodes_never_overlap_and_edges_lead_down(drawn: tuple[list[float], list[tuple[int, int]]]) -> None:
    widths, edges = drawn
    placed = place(widths, edges, 30)
    for a, b in edges:
        assert placed.layers[a] < placed.layers[b]
        assert placed.centers[a][1] < placed.centers[b][1]
        ys = [placed.centers[a][1], *(y for _, y in placed.corners.get((a, b), ())), placed.centers[b][1]]
        assert ys == sorted(ys)
    rows: dict[int, list[tuple[float, float]]] = {}
    for (x, y), width, layer in zip(placed.centers, widths, placed.layers, strict=True):
        assert x - width / 2 >= GAP_X - 0.1
        assert x + width / 2 <= placed.width
        assert 0 < y < placed.height
        rows.setdefault(layer, []).append((x - width / 2, x + width / 2))
    for row in map(sorted, rows.values()):
        assert all(left[1] + GAP_X <= right[0] + 0.2 for left, right in itertools.pairwise(row))


def test_a_chain_is_a_straight_line() -> None:
    placed = place([50] * 20, [(i, i + 1) for i in range(19)], 30)
    assert len({x for x, _ in placed.centers}) == 1


def test_constants_go_above_their_readers() -> None:
    # 0 is the input, 5 and 6 make a constant that the last node reads.
    edges = [(0, 1), (1, 2), (2, 3), (3, 7), (5, 6), (6, 7)]
    placed = place([50] * 8, edges, 30, inputs=[0])
    assert placed.layers[7] == 4
    assert (placed.layers[5], placed.layers[6]) == (2, 3)


def test_nothing_to_place() -> None:
    assert place([], [], 30).centers == ()


@pytest.mark.parametrize("edge", [(1, 0), (1, 1), (0, 2), (-1, 1)])
def test_an_edge_that_leads_back(edge: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="from an earlier node to a later one"):
        place([50, 50], [edge], 30)


def test_long_edges_have_a_bounded_number_of_corners() -> None:
    count = 400
    edges = [(i, i + 1) for i in range(count - 1)] + [(0, i) for i in range(2, count)]
    placed = place([50] * count, edges, 30)
    assert sum(map(len, placed.corners.values())) <= 8 * count + 500


# --------------------------------------------------------------------------------------- page data


def test_all_graphs_are_drawn_and_found_by_path() -> None:
    pages = Pages(load_model(_parse(NESTED)))
    main = pages.graphs[0]
    by_name = {node["name"]: node for node in main["nodes"]}
    loop = next(node for node in main["nodes"] if node["op"] == "Loop")
    chosen = next(node for node in main["nodes"] if node["op"] == "If")
    calls = [node for graph in pages.graphs for node in graph["nodes"] if node["op"] == "twice"]
    assert [suffix for suffix, _ in loop["bodies"]] == ["[*]/body/"]
    assert {suffix for suffix, _ in chosen["bodies"]} == {"/then_branch/", "/else_branch/"}
    assert len({call["bodies"][0][1] for call in calls}) == 1, "a function is drawn once"
    assert {node["end"] for node in by_name.values() if "end" in node} == {"input", "output"}
    body = pages.graphs[loop["bodies"][0][1]]
    assert "outside" in {node.get("end") for node in body["nodes"]}
    # x is used inside of the body only: the edge to the loop is there all the same.
    numbers = {node["name"]: i for i, node in enumerate(main["nodes"])}
    assert [numbers["x"], numbers[loop["name"]]] in [edge[:2] for edge in main["edges"]]


def test_what_the_specification_says_is_there() -> None:
    pages = Pages(load_model(TORCH / "cnn_dynamo_opset20.onnx"))
    conv = next(node for node in pages.graphs[0]["nodes"] if node["op"] == "Conv")
    assert conv["spec"] == "Conv-11"
    assert "convolution" in pages.specs["Conv-11"]["doc"]
    assert {name for name, *_ in pages.specs["Conv-11"]["inputs"]} == {"X", "W", "B"}
    assert conv["attributes"]["strides"].startswith("[")
    weights = pages.graphs[0]["constants"][conv["in"][1]]
    assert weights.startswith("tensor(float)[")


def test_statistics_errors_and_times_are_with_their_nodes() -> None:
    model = _parse(NESTED)
    found = _data(
        _page(
            model,
            trace=trace(model, NESTED_FEEDS),
            profile=profile(model, NESTED_FEEDS, runs=1, backend="numpy"),
            comparison=compare(model, NESTED_FEEDS, "numba"),
            precision=precision(model, NESTED_FEEDS),
        )
    )
    inner = "Loop#2[*]/body/Mul#2"
    assert found["times"][inner]["calls"] == 3
    (value,) = found["values"][inner]
    assert value["name"] == "Loop#2[*]/body/t"
    assert (value["times"], value["size"], value["min"], value["max"]) == (3, 12, 4, 16)
    assert found["errors"]["Loop#2"]["verdict"] == "agrees"
    assert found["precision"]
    assert found["profile"]["memory"]["peak_bytes"] > 0
    paths = set(found["values"]) | set(found["times"])
    known = _paths(found)
    assert {path for path in paths if path} <= known | {"Constant#0"}


def _paths(data: dict[str, Any]) -> set[str]:
    """Return the paths of all nodes as the page's script builds them."""

    def walk(graph: int, scope: str) -> Iterator[str]:
        for node in data["graphs"][graph]["nodes"]:
            path = scope + node["name"]
            yield path
            for suffix, inner in node.get("bodies", ()):
                yield from walk(inner, path + suffix)

    return set(walk(0, ""))


def test_fused_nodes_point_to_the_op_that_they_run_in() -> None:
    real = ZOO["torch cnn_dynamo_opset20"]
    found = _data(_page(real.model(), profile=profile(real.model(), real.calls()[0], runs=1)))
    inside = {path: entry["into"] for path, entry in found["times"].items() if "into" in entry}
    assert inside["node_relu"] == "node_Conv_38"
    assert "node_relu" in found["times"]["node_Conv_38"]["with"]
    assert found["times"]["node_Conv_38"]["own"] > 0
    assert set(found["times"]) <= _paths(found)


def test_a_wrong_kernel_in_a_real_model_is_on_the_page() -> None:
    @onnxref.register_op("WrongClip", domain="test.wrong")
    def wrong(x: Any, low: Any = None, high: Any = None) -> Any:
        return np.clip(x, low, high) * np.float32(1.01)

    try:
        model = onnx.load(TORCH / "cnn_dynamo_opset20.onnx")
        broken = onnx.load(TORCH / "cnn_dynamo_opset20.onnx")
        clip = next(node for node in broken.graph.node if node.op_type == "Clip")
        clip.op_type, clip.domain = "WrongClip", "test.wrong"
        broken.opset_import.append(helper.make_opsetid("test.wrong", 1))
        feeds = ZOO["torch cnn_dynamo_opset20"].calls()[0]
        result = compare(model, feeds, "numpy", other_model=broken)
    finally:
        onnxref.unregister_op("WrongClip", domain="test.wrong")
    found = _data(_page(model, comparison=result))
    wrong_nodes = [path for path, error in found["errors"].items() if error["verdict"] == "wrong"]
    first = found["comparison"]["first"]
    assert first == clip.name
    assert wrong_nodes == [] or wrong_nodes == [clip.name]
    assert found["errors"][clip.name]["cumulative"] == pytest.approx(0.01, rel=0.01)


def test_a_nan_in_a_real_model_is_on_the_page() -> None:
    real = ZOO["torch encoder_opset17"]
    model = onnx.load(real.model())
    product = next(node for node in model.graph.node if node.op_type == "MatMul")
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == product.output[0]:
                node.input[i] = "bad"
    root = helper.make_node("Sqrt", [product.output[0]], ["bad"], name="bad one")  # half of it is negative
    model.graph.node.insert(list(model.graph.node).index(product) + 1, root)
    found = _data(_page(model, trace=trace(model, real.calls()[0])))
    broken = [path for path, values in found["values"].items() if any(v.get("nan") for v in values)]
    assert broken[0] == "bad one"


def test_results_may_come_from_files() -> None:
    model = _parse(NESTED)
    kept = json.loads(json.dumps(trace(model, NESTED_FEEDS).to_json()))
    assert (
        _data(_page(model, trace=kept))["values"]
        == _data(_page(model, trace=trace(model, NESTED_FEEDS)))["values"]
    )


@pytest.mark.parametrize("kind", ["trace", "comparison", "precision", "profile"])
def test_a_result_of_another_kind(kind: str) -> None:
    with pytest.raises(InputError, match=rf"{kind} must be a result of onnxref.debug .* \(got a int\)"):
        _page(_parse(NESTED), **{kind: 3})
    if kind != "profile":
        key = "values" if kind == "trace" else "nodes"
        with pytest.raises(InputError, match=f"'{key}' of a result must be a list"):
            _page(_parse(NESTED), **{kind: {key: "text"}})


def test_odd_numbers_are_valid_json() -> None:
    odd = {"values": [{"path": "h", "node": "twice#1", "max": float("inf"), "mean": float("nan"), "nan": 2}]}
    assert _data(_page(_parse(NESTED), trace=odd))["values"]["twice#1"][0]["max"] == "inf"


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write the report to .*No such file"):
        write_report(tmp_path / "nowhere" / "report.html", _parse(NESTED))


# ------------------------------------------------------------------------------- hostile names, size


def hostile_model() -> onnx.ModelProto:
    model = _parse(NESTED)
    model.graph.name = EVIL + "%%data%%title"
    model.doc_string = EVIL
    for node, name in zip(model.graph.node, (EVIL, EVIL + "2", "__proto__", "constructor"), strict=False):
        node.name = name
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    loop.name = EVIL
    loop.metadata_props.add(key=EVIL, value=EVIL)
    loop.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=f'File "{EVIL}", line 1, in f\n  {EVIL}')
    return model


def test_no_name_becomes_html() -> None:
    model = hostile_model()
    loaded = load_model(model)
    page = render_report(loaded, title=EVIL + "%%data", trace=trace(model, NESTED_FEEDS))
    template = _page(_parse(NESTED))
    for tag in ("<script", "</script", "<img", "onerror=alert(1)>"):
        assert page.count(tag) == template.count(tag)
    data = _data(page)
    assert data["graphs"][0]["title"] == EVIL + "%%data%%title"
    assert data["title"] == EVIL + "%%data"
    assert f"<title>{html.escape(EVIL)}%%data</title>" in page


def test_the_page_asks_no_network() -> None:
    page = _page(hostile_model())
    markup = page.replace("http://www.w3.org/2000/svg", "")
    code = re.sub(r'id="data">.*?</script>', "", markup, flags=re.DOTALL)
    assert not re.search(
        r"https?:|//\w+\.\w+|@import|url\(|<link|<img|\bsrc=|fetch\(|XMLHttpRequest|import\(", code
    )
    assert "default-src 'none'" in code


def test_html_table_escapes() -> None:
    table = html_table([[EVIL, 0.5, 3, None]], [EVIL, "b", "c", "d"], title=EVIL)
    assert "<script" not in table
    assert "<td>0.5</td><td>3</td>" in table
    assert "and 2 more rows" in html_table([[1]] * 5, ["n"], most=3)


def test_two_thousand_nodes(tmp_path: Path) -> None:
    model = large_model(2000)
    feeds = {"x": np.ones((2, 16), np.float32)}
    target = write_report(tmp_path / "large.html", model, trace=trace(model, feeds))
    assert target.stat().st_size < 5_000_000
    data = _data(target.read_text())
    graph = data["graphs"][0]
    assert len(graph["nodes"]) == len(model.graph.node) + 2 >= 2002
    # Narrow and long: the skips lie beside the chain, not across the page.
    assert graph["width"] < graph["height"] / 10


# ----------------------------------------------------------------------------------------- a browser


def _browse(path: Path, fragment: str, profile_folder: Path) -> str:
    """Return the page's DOM as it is once its script has run."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile_folder}"]
    command += ["--virtual-time-budget=4000", "--dump-dom", f"file://{path}#{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    # What the script has made is between the header and the data.
    return re.sub(r'<script type="application/json".*', "", done.stdout, flags=re.DOTALL)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_a_clicked_node_in_a_browser(tmp_path: Path) -> None:
    model = hostile_model()
    results = {
        "trace": trace(model, NESTED_FEEDS),
        "profile": profile(model, NESTED_FEEDS, runs=1, backend="numpy"),
    }
    target = write_report(tmp_path / "report.html", model, **results)
    path = f"{EVIL}[*]/body/Mul#2"
    dom = _browse(target, f"tab=table&colour=time&node={quote(path)}", tmp_path / "profile")
    panel = dom[dom.index('<aside id="panel">') :]
    assert "<h2>Mul</h2>" in panel
    assert html.escape(path, quote=False) in panel
    assert "3 times" in panel
    assert '<svg class="histogram"' in panel
    assert "Specification: Mul-14" in panel
    assert "<title>owned</title>" not in dom
    assert dom.count("<tr") > 5
    assert "Time by operator" in dom


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_two_thousand_nodes_in_a_browser(tmp_path: Path) -> None:
    target = write_report(tmp_path / "large.html", large_model(2000))
    node = "/layers.200/Tanh"
    dom = _browse(target, f"q=tanh+layers.20&node={quote(node)}", tmp_path / "profile")
    assert f'<div class="path">{node}</div>' in dom
    assert "11 found" in dom
    # The table makes only the rows that are in sight.
    assert dom.count("<tr") < 400


# -------------------------------------------------------------------------------------------- command


def _invoke(*arguments: Any) -> Any:
    app = typer.Typer()
    app.callback()(lambda: None)
    add_report(app)
    return CliRunner(env={"COLUMNS": "250"}).invoke(app, ["report", *map(str, arguments)])


def test_command(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    model = TORCH / "cnn_dynamo_opset20.onnx"
    options = ("--against", "numba", "--precision", "--backend", "numpy", "--runs", 1)
    result = _invoke(model, "--out", target, *options)
    assert result.exit_code == 0, result.output
    assert "graph, trace, profile, comparison, precision written to" in result.stdout
    data = _data(target.read_text())
    assert data["title"] == model.name
    assert data["values"]
    assert data["errors"]
    assert data["times"]


def test_command_as_json(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    result = _invoke(TORCH / "cnn_dynamo_opset20.onnx", "--out", target, "--graph-only", "--json")
    found = json.loads(result.stdout)
    assert found == {"report": str(target), "bytes": target.stat().st_size, "parts": []}


def test_a_run_that_fails_is_reported_up_to_there(tmp_path: Path) -> None:
    model = _parse(
        """<ir_version: 10, opset_import: ["": 21]> g (float[2, 3] x) => (float[n] y) {
        a = Neg (x) s = Constant <value_ints = [5]> () y = Reshape (a, s) }"""
    )
    path, target = tmp_path / "model.onnx", tmp_path / "report.html"
    onnx.save(model, path)
    result = _invoke(path, "--out", target)
    assert result.exit_code == 1
    assert "NodeError" in result.stderr
    data = _data(target.read_text())
    assert "Neg#0" in data["values"]
    assert "Reshape" in data["trace"]["error"]


def test_command_errors(tmp_path: Path) -> None:
    result = _invoke(TORCH / "cnn_dynamo_opset20.onnx", "--graph-only", "--out", tmp_path / "no" / "r.html")
    assert result.exit_code == 1
    assert "OutputError: cannot write the report" in result.stderr
