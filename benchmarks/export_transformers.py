"""Exports BERT-base, GPT-2-small and ViT-base with random weights from PyTorch, for the benchmarks.

Needs `torch`, `transformers` and `onnxscript`, which nothing else here does:

    python benchmarks/export_transformers.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, ViTConfig, ViTModel

SEQUENCE = 128


class BertOutputs(torch.nn.Module):
    """BERT-base without its pooler."""

    def __init__(self) -> None:
        super().__init__()
        self.model = BertModel(BertConfig(), add_pooling_layer=False)

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class Prefill(torch.nn.Module):
    """GPT-2-small over a whole prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.model = GPT2LMHeadModel(GPT2Config(use_cache=False))

    def forward(self, input_ids: Any) -> Any:
        return self.model(input_ids=input_ids).logits


class Decode(torch.nn.Module):
    """GPT-2-small for one more token: keys and values of the past come in, longer ones go out."""

    def __init__(self) -> None:
        super().__init__()
        model = GPT2LMHeadModel(GPT2Config())
        self.body, self.head = model.transformer, model.lm_head
        self.heads = 12

    def forward(self, input_ids: Any, position_ids: Any, *past: Any) -> Any:
        hidden = self.body.wte(input_ids) + self.body.wpe(position_ids)
        present: list[Any] = []
        for layer, block in enumerate(self.body.h):
            mixed, key, value = self.attend(
                block.attn, block.ln_1(hidden), past[2 * layer], past[2 * layer + 1]
            )
            hidden = hidden + mixed
            hidden = hidden + block.mlp(block.ln_2(hidden))
            present += [key, value]
        return (self.head(self.body.ln_f(hidden)), *present)

    def attend(self, attention: Any, x: Any, past_key: Any, past_value: Any) -> Any:
        batch, length, width = x.shape
        query, key, value = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in attention.c_attn(x).split(width, dim=2)
        )
        key, value = torch.cat([past_key, key], dim=2), torch.cat([past_value, value], dim=2)
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        return attention.c_proj(mixed.transpose(1, 2).reshape(batch, length, width)), key, value


class ViT(torch.nn.Module):
    """ViT-base with patches of 16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ViTModel(ViTConfig(), add_pooling_layer=False)

    def forward(self, pixel_values: Any) -> Any:
        return self.model(pixel_values=pixel_values).last_hidden_state


def export(model: Any, inputs: tuple[Any, ...], names: list[str], path: Path, dynamic: Any = None) -> None:
    """Write `model` to `path`, with its weights in one file."""
    torch.onnx.export(
        model.eval(),
        inputs,
        path,
        input_names=names,
        dynamo=True,
        external_data=False,
        dynamic_shapes=dynamic,
    )
    print(path, f"{path.stat().st_size / 1e6:.0f} MB")


def main(folder: Path) -> None:
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    ids = torch.randint(0, 30_000, (1, SEQUENCE))
    export(
        BertOutputs(), (ids, torch.ones_like(ids)), ["input_ids", "attention_mask"], folder / "bert-base.onnx"
    )
    export(Prefill(), (ids,), ["input_ids"], folder / "gpt2-prefill.onnx")
    past = [torch.randn(1, 12, SEQUENCE, 64) for _ in range(24)]
    names = ["input_ids", "position_ids", *(f"past_{i}" for i in range(24))]
    token = torch.tensor([[7]])
    length = torch.export.Dim("past_length", min=2, max=1000)
    dynamic = (None, None, tuple({2: length} for _ in past))
    export(Decode(), (token, torch.tensor([[SEQUENCE]]), *past), names, folder / "gpt2-decode.onnx", dynamic)
    export(ViT(), (torch.randn(1, 3, 224, 224),), ["pixel_values"], folder / "vit-base.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
