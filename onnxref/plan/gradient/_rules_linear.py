"""Derivatives of matrix products."""

from __future__ import annotations

from ...registry import INTERNAL
from ._table import Call, Gradients, decomposition, rule
from ._tape import Term


@rule("MatMul")
def _matmul(call: Call) -> Gradients:
    a, b = call.x, call[1]
    shapes = call.tape.emit_many(3, "MatMulShapes", a, b, domain=INTERNAL, opset=1)
    # Vectors become matrices of one row (left) or column (right).
    left, right, grad = (x.reshape(s) for x, s in zip((a, b, call.grad), shapes, strict=True))
    to_a = grad.apply("MatMul", right.internal("SwapLast")).fit(shapes[0])
    to_b = left.internal("SwapLast").apply("MatMul", grad).fit(shapes[1])
    return [to_a.reshape(a.shape), to_b.reshape(b.shape)]


@decomposition("Gemm")
def _gemm(call: Call) -> Gradients:
    a = call.x.apply("Transpose") if call.attribute("transA") else call.x
    b = call[1].apply("Transpose") if call.attribute("transB") else call[1]
    alpha, beta = call.attribute("alpha"), call.attribute("beta")
    product = a.apply("MatMul", b)
    product = product if alpha == 1 else product * alpha
    c = call.get(2)
    if c is None or beta == 0:
        return [product]
    return [product + (c if beta == 1 else c * beta)]


@rule("Einsum")
def _einsum(call: Call) -> Gradients:
    """Each gradient is an Einsum of the output's gradient and the other operands."""
    equation = call.attribute("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        once = sorted(c for c in set(letters) if letters.count(c) == 1)
        right = ("..." if "..." in left else "") + "".join(once)
    for term in terms:
        letters = term.replace(".", "")
        if len(set(letters)) < len(letters):
            raise call.unsupported(f"index repeated within a term of {equation!r}")
    operands = [x for x in call.inputs if x]
    return [_einsum_gradient(call, operands, terms, right, i) for i in range(len(operands))]


def _einsum_gradient(call: Call, operands: list[Term], terms: list[str], right: str, i: int) -> Term:
    x, term = operands[i], terms[i]
    others = [(t, o) for j, (t, o) in enumerate(zip(terms, operands, strict=True)) if j != i]
    names, values = [right, *(t for t, _ in others)], [call.grad, *(o for _, o in others)]
    known = "".join(names)
    if any(c not in known for c in term.replace(".", "")) or ("..." in term and "..." not in known):
        # An index that only this operand has was summed: ones spread the gradient along it.
        names, values = [*names, term], [*values, x.filled(1.0)]
    # Dimensions of the ellipsis that the operand lacks lead, where `fit` sums them.
    result = term if "..." in term or "..." not in "".join(names) else "..." + term
    equation = ",".join(names) + "->" + result
    return values[0].apply("Einsum", *values[1:], equation=equation).fit_like(x)
