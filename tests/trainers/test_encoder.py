"""The encoder against torchvision's own, and every way that weights come in."""

import json
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from trainers.checkpoint import write_checkpoint
from trainers.models.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, EncoderConfig, build_encoder
from trainers.models.encoder_weights import load_encoder_weights


def state_of(encoder: Encoder, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + k: v.clone().contiguous() for k, v in encoder.state_dict().items()}


def same(a: Encoder, b: Encoder) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "wide_resnet50_2"])
def test_names_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name).state_dict()
        ours = Encoder(name, 3).state_dict()  # type: ignore[arg-type]
    assert set(ours) == {k for k in theirs if not k.startswith("fc.")}
    assert all(ours[k].shape == theirs[k].shape for k in ours)


def test_features_equal_torchvisions() -> None:
    theirs = torchvision.models.resnet18().eval()
    encoder = Encoder("resnet18", 3).eval()
    encoder.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    theirs.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    assert encoder.num_features == 512
    torch.testing.assert_close(encoder(images), theirs(images))


def test_gray_is_widened_after_each_channels_own_mean() -> None:
    encoder = Encoder("resnet10", 3).eval()
    gray = torch.randint(0, 256, (2, 32, 48, 1), dtype=torch.uint8)
    wide = gray.permute(0, 3, 1, 2).expand(-1, 3, -1, -1).float() / 255
    expected = (wide - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    torch.testing.assert_close(encoder.prepare(gray), expected)
    one = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(encoder(one), encoder(one.repeat(1, 3, 1, 1)))


def test_stages_have_the_promised_channels_and_strides() -> None:
    encoder = Encoder("resnet10", 1)
    maps = encoder.stages(encoder.prepare(torch.zeros(1, 64, 96, 1, dtype=torch.uint8)))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3)]
    assert encoder.stage_channels == (64, 128, 256, 512)


@pytest.mark.parametrize("prefix", ["", "module.", "encoder.", "module.backbone.", "backbone.body.", "model.encoder."])
def test_prefixes_are_folded(tmp_path: Path, prefix: str) -> None:
    source = build_encoder(EncoderConfig("resnet10", 1))
    others = {"module.projector.0.weight": torch.zeros(2, 2), "fc.weight": torch.zeros(3, 512)}
    torch.save({"state_dict": {**state_of(source, prefix), **others}}, tmp_path / "weights.pth")
    assert same(source, build_encoder(EncoderConfig("resnet10", 1, str(tmp_path / "weights.pth"))))


def test_a_file_without_batch_counters_is_whole(tmp_path: Path) -> None:
    source = build_encoder(EncoderConfig("resnet10", 1))
    kept = {k: v for k, v in state_of(source).items() if not k.endswith("num_batches_tracked")}
    save_file(kept, tmp_path / "weights.safetensors")
    target = Encoder("resnet10", 1)
    report = load_encoder_weights(target, str(tmp_path / "weights.safetensors"))
    assert set(report.matched) == set(kept)
    assert all(k.endswith("num_batches_tracked") for k in report.missing)
    assert same(source, target)


def test_a_run_gives_its_newest_whole_checkpoint(tmp_path: Path) -> None:
    old, new = (build_encoder(EncoderConfig("resnet10", 1)) for _ in range(2))
    for step, encoder in ((1, old), (2, new)):
        write_checkpoint(tmp_path, step, "pretrain", state_of(encoder, "encoder."), {}, {}, {})
    assert same(new, build_encoder(EncoderConfig("resnet10", 1, str(tmp_path))))
    folder = tmp_path / "checkpoints" / "step-00000001"
    assert same(old, build_encoder(EncoderConfig("resnet10", 1, str(folder))))
    weights = tmp_path / "checkpoints" / "step-00000002" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert same(old, build_encoder(EncoderConfig("resnet10", 1, str(tmp_path))))


def test_another_model_is_refused_and_both_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(state_of(Encoder("resnet18", 1)), path)
    with pytest.raises(ValueError, match=r"holds resnet18 with 1 input .* asks for resnet10 with 1 input"):
        build_encoder(EncoderConfig("resnet10", 1, str(path)))
    with pytest.raises(ValueError, match=r"holds resnet18 with 1 input .*asks for resnet18 with 3 input"):
        build_encoder(EncoderConfig("resnet18", 3, str(path)))


def test_part_of_a_model_is_refused(tmp_path: Path) -> None:
    state = state_of(Encoder("resnet10", 1))
    del state["layer3.0.conv1.weight"]
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"1 tensors missing: layer3\.0\.conv1\.weight"):
        build_encoder(EncoderConfig("resnet10", 1, str(tmp_path / "weights.safetensors")))


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize("content", [b"", b"not weights", pickle.dumps(Trap()), json.dumps({"a": 1}).encode()])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"encoder\.weights"):
        build_encoder(EncoderConfig("resnet10", 1, str(path)))


@pytest.mark.parametrize("weights", ["absent.pth", "imagenet_v2"])
def test_weights_that_cannot_be_had_name_the_field(weights: str) -> None:
    with pytest.raises(ValueError, match=r"encoder\.weights"):
        build_encoder(EncoderConfig("resnet10", 3, weights))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"encoder\.weights"):
        build_encoder(EncoderConfig("resnet10", 1, str(tmp_path)))
