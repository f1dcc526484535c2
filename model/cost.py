"""What the arithmetic of GPT-2 costs: floating-point operations and bytes moved, by its sizes and precision. No torch.

Letters as in the network: C embedding, L layers, F width of the MLP, V vocabulary. A multiply-add counts as two operations, and
those of matrix products alone are counted, as by Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1. Theirs
is 2 N + 2 L n_ctx C a token, N being the weights of the blocks' matrices. It leaves out the head, and has one amount for attention,
about what comes out here in the middle of a context, where a token looks at n_ctx / 2 positions.
"""

from dataclasses import dataclass

from model.config import GPT2Config

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
FLOAT_BYTES = 4  # biases, LayerNorms, positions and int8's scales, in every precision: a thousandth of the whole


@dataclass(frozen=True, slots=True)
class Cost:
    """Prices of a model in a precision, `dtype` by its name in the service."""

    config: GPT2Config
    dtype: str

    def flops(self, num_tokens: int, num_attended: int, num_heads: int) -> int:
        """Of tokens that go through the blocks, positions that they look at, and rows of which the head makes logits."""
        return num_tokens * self.token_flops + num_attended * self.attention_flops + num_heads * self.head_flops

    @property
    def token_flops(self) -> int:
        """2 L (4 C² + 2 C F): c_attn, c_proj, c_fc and c_proj."""
        config = self.config
        return 2 * config.n_layer * (4 * config.n_embd**2 + 2 * config.n_embd * config.inner_size)

    @property
    def attention_flops(self) -> int:
        """4 L C for each position that a token looks at: its key by the query, its value by the weight."""
        return 4 * self.config.n_layer * self.config.n_embd

    @property
    def head_flops(self) -> int:
        """2 C V."""
        return 2 * self.config.n_embd * self.config.vocab_size

    def bytes_moved(
        self, num_tokens: int, num_read: int, num_copied: int, num_passes: float = 0.0, num_head_passes: float = 0.0
    ) -> float:
        """Between memory and processor: weights once a pass, of each token its embeddings and its keys and values written.

        `num_read` positions' keys and values are read, `num_copied` read and written. Activations are not counted: they stay in the
        processor's caches, most of them.
        """
        weights = num_passes * self.block_bytes + num_head_passes * self.head_bytes
        cache = (num_tokens + num_read + 2 * num_copied) * self.position_bytes
        return weights + cache + num_tokens * self.embedding_bytes

    @property
    def block_bytes(self) -> int:
        """The weights of all blocks and of the last LayerNorm."""
        config, embd, inner = self.config, self.config.n_embd, self.config.inner_size
        matrices = self._matrix_bytes(3 * embd, embd) + self._matrix_bytes(embd, embd)
        matrices += self._matrix_bytes(inner, embd) + self._matrix_bytes(embd, inner)
        biases, norms = 5 * embd + inner, 4 * embd
        return config.n_layer * (matrices + FLOAT_BYTES * (biases + norms)) + FLOAT_BYTES * 2 * embd

    @property
    def head_bytes(self) -> int:
        return self._matrix_bytes(self.config.vocab_size, self.config.n_embd)

    @property
    def embedding_bytes(self) -> int:
        """A token's row of wte, and its position's of wpe."""
        return self._matrix_bytes(1, self.config.n_embd) + FLOAT_BYTES * self.config.n_embd

    @property
    def position_bytes(self) -> int:
        """A position's keys and values in all layers; int8 has a scale for each head of either."""
        config = self.config
        return 2 * config.n_layer * (config.n_embd * ELEMENT_BYTES[self.dtype] + config.n_head * self._scale_bytes)

    @property
    def _scale_bytes(self) -> int:
        return FLOAT_BYTES if self.dtype == "int8" else 0

    def _matrix_bytes(self, num_out: int, num_in: int) -> int:
        """With int8 each output has a scale."""
        return num_out * (num_in * ELEMENT_BYTES[self.dtype] + self._scale_bytes)
