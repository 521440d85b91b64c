"""Tiny networks with random weights of the families in transformers and timm."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .harness import Case

TEXT_SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 3),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "d_ff", "ffn_dim", "d_inner"), 64),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 64),
    "num_key_value_heads": 2,
    "head_dim": 8,
    "d_kv": 8,
    "word_embed_proj_dim": 32,
    "vocab_size": 60,
    "max_position_embeddings": 64,
    "num_labels": 3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
}
"""Names of sizes in configurations, of which each family has some."""

VISION_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 3,
}

DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}

PLAIN = """
albert bert bart biogpt bloom camembert convbert distilbert electra ernie flaubert fnet
gemma gemma2 gpt2 gpt_bigcode gpt_neox llama mistral mixtral mpnet mpt olmo opt phi qwen2
qwen3 roberta roformer squeezebert stablelm
""".split()
"""Families of text that need nothing but sizes."""

TEXT: dict[str, dict[str, Any]] = {
    **{family: {} for family in PLAIN},
    "deberta": DEBERTA,
    "deberta-v2": DEBERTA,
    "esm": {"position_embedding_type": "rotary", "mask_token_id": 4},
    "falcon": {"head_dim": None},
    "funnel": {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "num_hidden_layers": None,
        "block_sizes": [1, 1],
        "d_head": 8,
        "d_inner": 64,
    },
    "gpt_neo": {
        "num_hidden_layers": None,
        "attention_types": [[["global", "local"], 2]],
        "num_layers": 4,
    },
    "gptj": {"rotary_dim": 4},
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 16},
    "modernbert": {"global_attn_every_n_layers": 2},
    "nystromformer": {"num_landmarks": 4, "segment_means_seq_len": 12},
    "t5": {"decoder_start_token_id": 0},
    "xlnet": {"max_position_embeddings": None},
}
"""Family → what differs from `TEXT_SIZES`; None leaves a size out."""

STAGES = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 2, 1]}

VISION: dict[str, tuple[int, dict[str, Any]]] = {
    **dict.fromkeys(
        ("beit", "dinov2", "vit", "vit_msn", "ijepa"),
        (32, {**VISION_SIZES, "image_size": 32, "patch_size": 8}),
    ),
    "bit": (
        32,
        {"embedding_size": 32, "num_groups": 8, **STAGES, "hidden_sizes": [32, 32, 64, 64]},
    ),
    "convnext": (64, STAGES),
    "convnextv2": (64, STAGES),
    "hiera": (
        64,
        {
            "embed_dim": 16,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 2, 4, 8],
            "image_size": [64, 64],
            "patch_size": [7, 7],
        },
    ),
    "mobilenet_v2": (32, {"image_size": 32}),
    "mobilevit": (
        64,
        {
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 32],
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 2,
        },
    ),
    "poolformer": (32, STAGES),
    "pvt": (
        64,
        {
            "image_size": 64,
            "hidden_sizes": [8, 16, 16, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 4],
            "patch_sizes": [4, 2, 2, 2],
        },
    ),
    "regnet": (32, {"embedding_size": 8, "groups_width": 8, **STAGES}),
    "resnet": (32, {"embedding_size": 8, **STAGES}),
    "segformer": (32, {"num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 16, **STAGES}),
    "swin": (
        32,
        {
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [2, 2],
            "window_size": 2,
            "patch_size": 4,
            "image_size": 32,
        },
    ),
}
"""Family → image size and configuration."""

TIMM_PLAIN = """
test_resnet test_vit test_vit2 test_efficientnet test_byobnet test_convnext test_mambaout
test_nfnet lcnet_035 tinynet_e mobilenetv3_small_050 ghostnet_050 regnetx_002 efficientvit_b0
efficientvit_m0 repvit_m0_9 fastvit_t8 mobilevitv2_050 edgenext_xx_small hgnetv2_b0 mobileone_s0
pvt_v2_b0 dla46_c starnet_s1
""".split()
"""Models of timm that take images of any size."""

SHALLOW = {"img_size": 64, "depth": 3, "embed_dim": 32, "num_heads": 4}

TIMM: dict[str, dict[str, Any]] = {
    **{name: {} for name in TIMM_PLAIN},
    "deit_tiny_distilled_patch16_224": SHALLOW,
    "eva02_tiny_patch14_224": {**SHALLOW, "img_size": 56},
    "xcit_nano_12_p16_224": {"img_size": 64, "depth": 3},
    "pit_ti_224": {"img_size": 64},
}
"""Model of timm → options."""


class Logits(nn.Module):
    """A network of transformers whose only output are its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits  # type: ignore[no-any-return]


TWO_HEADS = {
    "repvit_m0_9": "head.head.l",
    "deit_tiny_distilled_patch16_224": "head",
}
"""Distilled networks → the head that is tuned; the answer is the mean of two."""


def text(family: str) -> nn.Module:
    from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

    kind, differing = CONFIG_MAPPING[family], TEXT[family]
    default = kind()
    sizes = {name: size for name, size in TEXT_SIZES.items() if hasattr(default, name)}
    config = kind(**{n: s for n, s in {**sizes, **differing}.items() if s is not None})
    torch.manual_seed(0)
    return Logits(AutoModelForSequenceClassification.from_config(config)).eval()


def vision(family: str) -> nn.Module:
    from transformers import CONFIG_MAPPING, AutoModelForImageClassification

    config = CONFIG_MAPPING[family](**{"num_labels": 3, **VISION[family][1]})
    torch.manual_seed(0)
    return Logits(AutoModelForImageClassification.from_config(config)).eval()


def timm(name: str) -> nn.Module:
    from timm import create_model

    torch.manual_seed(0)
    return create_model(name, num_classes=3, **TIMM[name]).eval()  # type: ignore[no-any-return]


def tokens() -> Tensor:
    return torch.randint(5, 60, (48, 12), generator=torch.Generator().manual_seed(0))


def sentences() -> Tensor:
    """Tokens that end with the token for the end, which some families look for."""
    x = tokens()
    x[:, -1] = 2
    return x


def images(size: int) -> Tensor:
    return torch.randn(48, 3, size, size, generator=torch.Generator().manual_seed(0))


def cases() -> dict[str, Case]:
    made: dict[str, Case] = {}
    for family in TEXT:
        inputs = sentences() if family in ("bart", "t5") else tokens()
        made[f"transformers {family}"] = Case(partial(text, family), inputs)
    for family, (size, _) in VISION.items():
        made[f"transformers {family}"] = Case(partial(vision, family), images(size))
    for name, options in TIMM.items():
        settings = {"head": TWO_HEADS[name]} if name in TWO_HEADS else {}
        inputs = images(options.get("img_size", 64))
        made[f"timm {name}"] = Case(partial(timm, name), inputs, settings=settings)
    return made


FAMILIES: dict[str, Case] = cases()
