"""The sizes of an encoder-decoder Transformer, and the three tokens that have a meaning to it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Vaswani et al. 2017, table 3, "base", where nothing else is said. Source and target share one vocabulary (section 3.4)."""

    vocab_size: int
    pad_id: int = 0  # fills the end of shorter rows; nobody sees it and it is never generated
    bos_id: int = 1  # what a target begins with
    eos_id: int = 2  # what ends it
    max_positions: int = 512  # of a source or a target; the paper's sinusoids have no limit, a table of them has
    d_model: int = 512
    n_head: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    d_ff: int = 2048
    pre_norm: bool = False  # LayerNorm at each sub-layer's input, as in GPT-2, in place of behind the sum
    layer_norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if self.d_model % self.n_head:
            raise ValueError(f"d_model {self.d_model} is not a multiple of n_head {self.n_head}; each head takes an equal part")
        if self.d_model % 2:
            raise ValueError(f"d_model {self.d_model} is odd; positions are pairs of a sine and a cosine")
        for name, token in (("pad_id", self.pad_id), ("bos_id", self.bos_id), ("eos_id", self.eos_id)):
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"{name} {token} is outside the vocabulary of {self.vocab_size} tokens")
