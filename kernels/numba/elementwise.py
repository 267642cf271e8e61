"""Elementwise operators, nearly each a program of one instruction; see `chain.py` for types and errors."""

from __future__ import annotations

from ..common.elementwise import register
from .chain import blocked_use, emit_program

register("numba", emit_program, blocked_use)
