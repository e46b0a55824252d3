"""An encoder as an ONNX graph, and the session that runs it.

The graph is written node by node with ONNX Runtime's fused operators (attention, skip layer norm, bias GELU), which its CPU
and CUDA providers both have. Writing it here rather than tracing it keeps the bytes the same for the same weights, and needs
no pattern matcher to find what is known already.

Inputs: `input_ids` int64 (B, T), padded on the right; `lengths` int32 (B,). One float32 output: `logits` (B, 2K) of a fine-tuned
encoder, or whatever else `Graph` was told to make of the token states.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mangaassist_assets.lib.errors import Unavailable
from mangaassist_assets.lib.intents.encoder import FineTuned, Shape, length_batches, tokenize

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Floats = NDArray[np.float32]
TOKENS_A_BATCH = 4096  # rows times padded length, on CUDA
CPU = "CPUExecutionProvider"
FUSED = "com.microsoft"


class Graph:
    """An ONNX graph in the making: the encoder's token states first, then what is asked of them.

    Args:
        shape: of the encoder.
        weights: its float32 arrays by the names of `encoder.py`.
    """

    def __init__(self, shape: Shape, weights: Mapping[str, NDArray[Any]]) -> None:
        self._nodes: list[Any] = []
        self._constants: dict[str, NDArray[Any]] = {}
        self._weights = weights
        self.states = self._encode(shape)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self._constants[name] = np.ascontiguousarray(value)
        return name

    def node(self, op: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        from onnx import helper

        self._nodes.append(helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def _matrix(self, name: str) -> str:
        return self.constant(f"{name}.weight", self._weights[f"{name}.weight"].T)

    def _bias(self, name: str) -> str:
        return self.constant(f"{name}.bias", self._weights[f"{name}.bias"])

    def _scale(self, name: str) -> str:
        return self.constant(f"{name}.weight", self._weights[f"{name}.weight"])

    def _encode(self, shape: Shape) -> str:
        """Token states (B, T, H)."""
        constant, node, matrix, bias, scale = self.constant, self.node, self._matrix, self._bias, self._scale
        node("Shape", ["input_ids"], "width", start=1, end=2)
        node("Gather", [constant("words", self._weights["words.weight"]), "input_ids"], "word_states")
        first = shape.position_offset
        node("Add", ["width", constant("offset", np.array([first], np.int64))], "position_end")
        node(
            "Slice",
            [
                constant("positions", self._weights["positions.weight"]),
                constant("position_start", np.array([first], np.int64)),
                "position_end",
            ],
            "position_states",
        )
        node("Add", ["word_states", "position_states"], "embedded")
        x = node("LayerNormalization", ["embedded", scale("norm"), bias("norm")], "x0", axis=-1, epsilon=shape.norm_eps)
        for i in range(shape.layers):
            block = f"blocks.{i}"
            attended = node(
                "Attention", [x, matrix(f"{block}.qkv"), bias(f"{block}.qkv"), "lengths"], f"{block}.attended", FUSED, num_heads=shape.heads
            )
            out = node("MatMul", [attended, matrix(f"{block}.out")], f"{block}.projected")
            norm = f"{block}.attention_norm"
            x = node(
                "SkipLayerNormalization",
                [x, out, scale(norm), bias(norm), bias(f"{block}.out")],
                f"{block}.middle",
                FUSED,
                epsilon=shape.norm_eps,
            )
            up = node("MatMul", [x, matrix(f"{block}.up")], f"{block}.up_states")
            up = node("BiasGelu", [up, bias(f"{block}.up")], f"{block}.gelu", FUSED)
            down = node("MatMul", [up, matrix(f"{block}.down")], f"{block}.down_states")
            norm = f"{block}.output_norm"
            x = node(
                "SkipLayerNormalization",
                [x, down, scale(norm), bias(norm), bias(f"{block}.down")],
                f"{block}.end",
                FUSED,
                epsilon=shape.norm_eps,
            )
        return x

    def mean(self) -> str:
        """Mean over tokens (B, H)."""
        from onnx import TensorProto

        constant, node = self.constant, self.node
        node("Squeeze", ["width", constant("axis0", np.array([0], np.int64))], "width_scalar")
        node("Range", [constant("zero", np.array(0, np.int64)), "width_scalar", constant("one", np.array(1, np.int64))], "places")
        node("Cast", ["lengths"], "lengths_64", to=TensorProto.INT64)
        node("Unsqueeze", ["lengths_64", constant("axis1", np.array([1], np.int64))], "lengths_column")
        node("Less", ["places", "lengths_column"], "is_token")
        node("Cast", ["is_token"], "mask", to=TensorProto.FLOAT)
        node("Unsqueeze", ["mask", "axis1"], "mask_row")  # (B, 1, T)
        node("MatMul", ["mask_row", self.states], "summed")  # (B, 1, H)
        node("Squeeze", ["summed", "axis1"], "summed_2d")
        node("Cast", ["lengths_column"], "token_count", to=TensorProto.FLOAT)
        return node("Div", ["summed_2d", "token_count"], "mean")

    def finish(self, name: str, output: str, width: int) -> bytes:
        """The checked model with one output (B, width)."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        graph = helper.make_graph(
            self._nodes,
            name,
            [
                helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
                helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]),
            ],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", width])],
            [numpy_helper.from_array(value, key) for key, value in self._constants.items()],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(FUSED, 1)]
        built = helper.make_model(graph, opset_imports=opsets, producer_name="mangaassist")
        built.ir_version = 10
        onnx.checker.check_model(built)
        return bytes(built.SerializeToString(deterministic=True))


def to_onnx(model: FineTuned) -> bytes:
    """The float32 graph of encoder, ordered pooling and both heads."""
    from onnx import TensorProto

    graph = Graph(model.shape, {k: v.cpu().numpy() for k, v in model.encoder.state_dict().items()})
    constant, node = graph.constant, graph.node
    graph.mean()
    node("Cast", ["places"], "places_float", to=TensorProto.FLOAT)
    node("Sub", ["token_count", "places_float"], "tokens_to_end")
    node("Relu", ["tokens_to_end"], "early_weight")
    node("Unsqueeze", ["early_weight", "axis1"], "early_row")
    node("MatMul", ["early_row", graph.states], "early_summed")
    node("Squeeze", ["early_summed", "axis1"], "early_summed_2d")
    node("ReduceSum", ["early_weight", "axis1"], "early_total", keepdims=1)
    node("Div", ["early_summed_2d", "early_total"], "beginning")
    node("Sub", ["beginning", "mean"], "difference")
    node("Add", ["difference", "difference"], "twice")
    node("Concat", ["mean", "twice"], "pooled", axis=1)
    node(
        "Gemm",
        ["pooled", constant("head.weight", model.head_weight.cpu().numpy()), constant("head.bias", model.head_bias.cpu().numpy())],
        "logits",
        transB=1,
    )
    return graph.finish("intent_encoder", "logits", len(model.head_bias))


def to_int8(graph: bytes) -> bytes:
    """Dynamic int8 of the same graph: weights per channel, in 7 bits (`reduce_range`).

    AVX2 and AVX-512 without VNNI add two 16-bit products and saturate with 8-bit weights (onnxruntime issues 6004 and
    14642); 7 bits cost little and give the same answers on every CPU.
    """
    import tempfile
    from pathlib import Path

    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(graph)
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Attention", "Gather"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        return bytes(onnx.load(target).SerializeToString(deterministic=True))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OnnxEncoder:
    """An ONNX Runtime session over a graph of this module.

    On a CPU every text is a run of its own. That costs no more than a batch, whose larger arrays leave the caches and whose padding is
    computed too; and dynamic int8 takes its scale from all that is in a run, so that within a batch an answer would hang on its
    neighbours: of 512 messages in batches, 26 got another intent than alone. On CUDA texts of similar length share a run.

    Args:
        graph: the ONNX bytes or path.
        provider: `CPUExecutionProvider` or `CUDAExecutionProvider`.
        threads: texts at the same time on a CPU, 0 for one a core.
        intra_op: threads of one text, 0 for all cores.

    Raises:
        Unavailable: the session does not run on the provider asked for.
    """

    def __init__(
        self,
        graph: bytes | str,
        tokenizer: "Tokenizer",
        *,
        max_tokens: int,
        pad_id: int,
        provider: str = CPU,
        threads: int = 1,
        intra_op: int = 1,
    ) -> None:
        import onnxruntime as ort

        if provider not in ort.get_available_providers():
            raise Unavailable(f"{provider} is not in this build of ONNX Runtime; it has {', '.join(ort.get_available_providers())}")
        options = ort.SessionOptions()
        options.intra_op_num_threads = intra_op or cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(graph, options, providers=[provider])
        if self._session.get_providers()[0] != provider:
            got = self._session.get_providers()[0]
            raise Unavailable(f"{provider} was asked for, ONNX Runtime fell back to {got}; check the driver and CUDA libraries")
        self.provider, self._tokenizer, self._max_tokens, self._pad_id = provider, tokenizer, max_tokens, pad_id
        self._width = self._session.get_outputs()[0].shape[1]
        self._pool = ThreadPoolExecutor(threads or cores()) if provider == CPU and threads != 1 else None

    def logits(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        """Primary and presence logits, each (n, K)."""
        out = self.outputs(texts)
        k = self._width // 2
        return out[:, :k], out[:, k:]

    def outputs(self, texts: Sequence[str]) -> Floats:
        """The graph's output for each text, (n, width)."""
        ids = tokenize(self._tokenizer, texts, self._max_tokens)
        lengths = np.array([len(i) for i in ids], np.int64)
        out = np.empty((len(texts), self._width), np.float32)
        rows_a_run = 1 if self.provider == CPU else max(1, TOKENS_A_BATCH // max(1, int(lengths.max(initial=1))))

        def run(rows: NDArray[np.int64]) -> None:
            padded = np.full((len(rows), int(lengths[rows].max())), self._pad_id, np.int64)
            for at, row in enumerate(rows):
                padded[at, : lengths[row]] = ids[row]
            out[rows] = self._session.run(None, {"input_ids": padded, "lengths": lengths[rows].astype(np.int32)})[0]

        for _ in (self._pool.map if self._pool and len(texts) > 1 else map)(run, length_batches(lengths, rows_a_run)):
            pass
        return out
