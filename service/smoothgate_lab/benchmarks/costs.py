"""Estimates of what a certified answer costs, from operation counts. They are not measured on a GPU.

A multiplication and an addition count as two operations. Sizes are those of the published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.utils.flop_counter import FlopCounterMode

from smoothgate.psm.mapper import ResidualMapper, ResidualMapperConfig
from smoothgate.psm.purifier import LightUNet, LightUNetConfig

#: Assumed share of a GPU's arithmetic and of its memory bandwidth that is reached.
ARITHMETIC = 0.4
BANDWIDTH = 0.6
#: Share of a GPU's memory that vLLM takes by default.
MEMORY = 0.92
#: Assumed numbers of text tokens in a question and in an answer.
ASKED, ANSWERED = 64, 128
#: Number of sequences that vLLM runs at a time by default.
MOST_SEQUENCES = 256
_BYTES = 2  # bfloat16


@dataclass(frozen=True, slots=True)
class Transformer:
    """Sizes of a stack of layers.

    Attributes:
        layers: number of layers.
        width: width of the tokens.
        mlp: width inside the MLP.
        gated: whether the MLP has three matrices instead of two.
        kv_width: width of the keys, and of the values.
    """

    layers: int
    width: int
    mlp: int
    gated: bool
    kv_width: int

    @property
    def parameters(self) -> int:
        """Number of parameters in the matrices."""
        attention = 2 * self.width * (self.width + self.kv_width)
        return self.layers * (attention + (3 if self.gated else 2) * self.width * self.mlp)

    def flops(self, tokens: int, seen: float) -> float:
        """Operations for a number of tokens, each of which attends to `seen` tokens."""
        return tokens * (2.0 * self.parameters + 4.0 * self.layers * self.width * seen)


@dataclass(frozen=True, slots=True)
class Model:
    """A multimodal model.

    Attributes:
        name: name of the checkpoint.
        side: side of the canvas, in pixels.
        tokens: visual tokens per picture.
        encoder: operations of tower and projector for one canvas.
        language: the language model's layers.
        vocabulary: rows of its output matrix.
        embeddings: matrices of that size: 1 where the input and output matrices are the same, else 2.
        grid: side of the grid of visual tokens.
    """

    name: str
    side: int
    tokens: int
    encoder: float
    language: Transformer
    vocabulary: int
    embeddings: int = 2

    @property
    def grid(self) -> int:
        """Number of rows, and of columns, of visual tokens."""
        return math.isqrt(self.tokens)

    @property
    def weight_bytes(self) -> float:
        """Bytes of the language model."""
        embedded = self.embeddings * self.vocabulary * self.language.width
        return _BYTES * (self.language.parameters + embedded)

    @property
    def kv_bytes(self) -> float:
        """Bytes of one token in the key/value cache."""
        return 2 * _BYTES * self.language.layers * self.language.kv_width

    @property
    def context(self) -> int:
        """Number of tokens of a conversation about one picture."""
        return self.tokens + ASKED + ANSWERED

    @property
    def embedding_bytes(self) -> float:
        """Bytes of one picture's tokens as they are sent to vLLM, in base64."""
        return self.tokens * self.language.width * _BYTES * 4 / 3

    def psm(self) -> float:
        """Operations of the light purifier and the mapper for one canvas, by torch's counter."""
        meta = torch.device("meta")
        purifier = LightUNet(LightUNetConfig()).to(meta)
        mapper = ResidualMapper(ResidualMapperConfig(self.language.width, (self.grid, self.grid))).to(meta)
        canvas = torch.empty(1, 3, self.side, self.side, device=meta)
        sigma = torch.empty(1, device=meta)
        tokens = torch.empty(1, self.tokens, self.language.width, device=meta)
        return counted(lambda: purifier(canvas, sigma)) + counted(lambda: mapper(tokens, sigma))


def counted(work: Callable[[], object]) -> float:
    """Operations of torch during `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def _linear(rows: int, *widths: int) -> float:
    return sum(2.0 * rows * into * out for into, out in pairwise(widths))


def llava() -> Model:
    """LLaVA-1.5-7B: CLIP ViT-L/14 at 336 pixels without its last layer, a projector of two layers, Vicuna."""
    tower = Transformer(layers=23, width=1024, mlp=4096, gated=False, kv_width=1024)
    encoder = _linear(576, 3 * 14 * 14, 1024) + tower.flops(577, 577) + _linear(576, 1024, 4096, 4096)
    language = Transformer(layers=32, width=4096, mlp=11008, gated=True, kv_width=4096)
    return Model("LLaVA-1.5-7B", 336, 576, encoder, language, 32_064)


def qwen_small() -> Model:
    """Qwen2.5-VL-3B at 448 pixels."""
    language = Transformer(layers=36, width=2048, mlp=11008, gated=True, kv_width=256)
    return Model("Qwen2.5-VL-3B", 448, 256, _qwen_encoder(2048), language, 151_936, embeddings=1)


def _qwen_encoder(width: int) -> float:
    """The tower at 448 pixels: 1,024 patches; 4 of 32 layers see all, the others see windows of 64."""
    sizes = {"width": 1280, "mlp": 3420, "kv_width": 1280}
    wide, narrow = (Transformer(layers=n, gated=True, **sizes) for n in (4, 28))
    tower = wide.flops(1024, 1024) + narrow.flops(1024, 64)
    return _linear(1024, 2 * 3 * 14 * 14, 1280) + tower + _linear(256, 5120, 5120, width)


def qwen() -> Model:
    """Qwen2.5-VL-7B at 448 pixels."""
    language = Transformer(layers=28, width=3584, mlp=18944, gated=True, kv_width=512)
    return Model("Qwen2.5-VL-7B", 448, 256, _qwen_encoder(3584), language, 152_064)


@dataclass(frozen=True, slots=True)
class GPU:
    """A GPU according to its data sheet.

    Attributes:
        name: name of the product.
        tflops: dense bfloat16 operations, in 10^12 per second.
        bandwidth: bandwidth of its memory, in 10^12 bytes per second.
        memory: size of its memory, in 10^9 bytes.
    """

    name: str
    tflops: float
    bandwidth: float
    memory: float


GPUS = (GPU("L4", 121, 0.3, 24), GPU("A100 80 GB", 312, 2.04, 80), GPU("H100 SXM", 989, 3.35, 80))


@dataclass(frozen=True, slots=True)
class Cost:
    """What one answer about one picture costs on one GPU.

    Attributes:
        model, gpu: their names.
        sample_gflop: 10^9 operations of one noisy forward.
        samples_per_second: noisy forwards per second.
        certify_seconds: GPU seconds of all samples.
        answer_seconds: GPU seconds of the language model, with as many sequences at a time as fit.
        sequences: number of sequences that fit.
        answers_per_second: answers of one vLLM per second.
        sequence_seconds: time of one answer in that case.
        answers_per_gpu_hour: answers with certificates per hour of a GPU that is always busy.
    """

    model: str
    gpu: str
    sample_gflop: float
    samples_per_second: float
    certify_seconds: float
    answer_seconds: float
    sequences: int
    answers_per_second: float
    sequence_seconds: float
    answers_per_gpu_hour: float


def cost(model: Model, gpu: GPU, samples: int) -> Cost:
    """The cost of an answer whose certificate takes this number of samples."""
    flops = gpu.tflops * 1e12 * ARITHMETIC
    sample = model.encoder + model.psm()
    room = MEMORY * gpu.memory * 1e9 - model.weight_bytes
    sequences = max(1, min(MOST_SEQUENCES, int(room / (model.context * model.kv_bytes))))
    asked = model.tokens + ASKED
    prefill = model.language.flops(asked, asked / 2) / flops
    read = model.weight_bytes + sequences * model.context * model.kv_bytes
    head = 2.0 * model.vocabulary * model.language.width
    arithmetic = sequences * (model.language.flops(1, model.context) + head) / flops
    step = max(read / (gpu.bandwidth * 1e12 * BANDWIDTH), arithmetic)
    answer = prefill + ANSWERED * step / sequences
    certify = samples * sample / flops
    return Cost(
        model=model.name,
        gpu=gpu.name,
        sample_gflop=sample / 1e9,
        samples_per_second=flops / sample,
        certify_seconds=certify,
        answer_seconds=answer,
        sequences=sequences,
        answers_per_second=1.0 / answer,
        sequence_seconds=sequences * answer,
        answers_per_gpu_hour=3600.0 / (certify + answer),
    )
