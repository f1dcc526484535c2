"""The sizes of a GPT-2, under the names that its checkpoints use."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GPT2Config:
    """Hyperparameters of GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", table 2)."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    eos_token_ids: tuple[int, ...] = (50256,)

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "inner_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} cannot be split over n_head {self.n_head} heads")
        if not self.eos_token_ids:
            raise ValueError("there is no eos_token_id; there must be at least one")
        for token_id in self.eos_token_ids:
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"eos_token_id {token_id} is outside the vocabulary of {self.vocab_size}")

    @property
    def eos_token_id(self) -> int:
        """The first of them: what parts texts that are laid end to end."""
        return self.eos_token_ids[0]

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def inner_size(self) -> int:
        """Width of the MLP's hidden layer; GPT-2's is four times the embedding's."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """The network's parameters by name, in its order; linear weights as (out, in). The output head is `wte.weight`."""
        embd, inner = self.n_embd, self.inner_size
        block = {
            "ln_1.weight": (embd,),
            "ln_1.bias": (embd,),
            "attn.c_attn.weight": (3 * embd, embd),
            "attn.c_attn.bias": (3 * embd,),
            "attn.c_proj.weight": (embd, embd),
            "attn.c_proj.bias": (embd,),
            "ln_2.weight": (embd,),
            "ln_2.bias": (embd,),
            "mlp.c_fc.weight": (inner, embd),
            "mlp.c_fc.bias": (inner,),
            "mlp.c_proj.weight": (embd, inner),
            "mlp.c_proj.bias": (embd,),
        }
        blocks = {f"h.{layer}.{name}": shape for layer in range(self.n_layer) for name, shape in block.items()}
        embeddings = {"wte.weight": (self.vocab_size, embd), "wpe.weight": (self.n_positions, embd)}
        return embeddings | blocks | {"ln_f.weight": (embd,), "ln_f.bias": (embd,)}

    @property
    def num_parameters(self) -> int:
        return sum(map(math.prod, self.parameter_shapes.values()))


PRESETS = {
    "distilgpt2": GPT2Config(n_layer=6),
    "gpt2": GPT2Config(),
    "gpt2-medium": GPT2Config(n_embd=1024, n_layer=24, n_head=16),
    "gpt2-large": GPT2Config(n_embd=1280, n_layer=36, n_head=20),
    "gpt2-xl": GPT2Config(n_embd=1600, n_layer=48, n_head=25),
}
