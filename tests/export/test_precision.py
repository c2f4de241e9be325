"""What stays in float32 when the rest does not."""

import timm
import torch
from torch import nn

from dhvt.data.preprocess import Preprocess
from dhvt.model.dhvt import create_model
from dhvt.model.inference import InferenceModel
from export.precision import cast

CFG = Preprocess(size=(32, 32))


def test_layer_norms_stay_in_float32_those_of_timm_too():
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    for model in (vit, create_model("dhvt_tiny_cifar_patch4", depth=1)):
        half = cast(InferenceModel(model, CFG).eval(), "fp16")
        norms = [module for module in half.modules() if isinstance(module, nn.LayerNorm)]
        assert norms
        assert {norm.weight.dtype for norm in norms} == {torch.float32}
        assert any(parameter.dtype == torch.float16 for parameter in half.parameters())


def test_bf16_computes_the_patch_embedding_in_float32():
    served = InferenceModel(create_model("dhvt_tiny_cifar_patch4", depth=1), CFG).eval()
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.allclose(cast(served, "bf16")(images), served(images), atol=0.05)
    for precision, dtype in (("fp16", torch.float16), ("bf16", torch.float32)):
        assert {parameter.dtype for parameter in cast(served, precision).model.patch_embed.parameters()} == {dtype}


def test_what_stays_in_float32_keeps_every_bit():
    model = create_model("dhvt_tiny_cifar_patch4", depth=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(0.5, 1.5)  # not one in a hundred of these is also a half-precision number
    before = model.state_dict()
    for precision in ("fp16", "bf16"):
        half = cast(InferenceModel(model, CFG).eval(), precision).model.named_parameters()
        kept = {name: value for name, value in half if value.dtype == torch.float32 and "patch_embed.proj" not in name}
        assert {"cls_token", "head.weight", "norm.weight", "blocks.0.norm1.bias"} <= kept.keys()
        for name, value in kept.items():
            assert torch.equal(value, before[name]), name
