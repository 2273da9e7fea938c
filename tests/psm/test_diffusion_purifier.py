"""The one-step denoiser against diffusers' own arithmetic, on tiny checkpoints in the usual layout."""

import warnings
from pathlib import Path

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from smoothgate.errors import SmoothgateError
from smoothgate.psm.checkpoint import PSM
from smoothgate.psm.diffusion_purifier import DiffusionPurifier


def _unet(channels: int = 3, out: int = 3) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=16,
        in_channels=channels,
        out_channels=out,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    ).eval()


def _scheduler(prediction: str = "epsilon") -> DDPMScheduler:
    return DDPMScheduler(num_train_timesteps=1000, prediction_type=prediction, clip_sample=False)


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    DDPMPipeline(_unet(), _scheduler()).save_pretrained(tmp_path / "ddpm")
    return tmp_path / "ddpm"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("step", [40, 300, 700])
@torch.no_grad()
def test_one_step_is_the_schedulers_own_estimate(tmp_path: Path, prediction: str, step: int) -> None:
    unet, scheduler = _unet(), _scheduler(prediction)
    DDPMPipeline(unet, scheduler).save_pretrained(tmp_path)
    purifier = DiffusionPurifier.from_pretrained(str(tmp_path))
    abar = scheduler.alphas_cumprod[step]
    sigma = ((1 - abar) / abar).sqrt() / 2
    x, d = torch.rand(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    state = scheduler.add_noise(2 * x - 1, d, torch.tensor([step]))
    out = unet(state, step).sample
    expected = (scheduler.step(out, step, state).pred_original_sample + 1) / 2
    torch.testing.assert_close(purifier(x + sigma * d, sigma.repeat(2)), expected, atol=1e-3, rtol=1e-3)


def test_the_timestep_is_where_the_noise_is_sigma(pipeline: Path) -> None:
    purifier = DiffusionPurifier.from_pretrained(str(pipeline))
    abar = _scheduler().alphas_cumprod
    known = ((1 - abar) / abar).sqrt() / 2
    torch.testing.assert_close(purifier.timestep(known[[0, 100, 999]]), torch.tensor([0.0, 100.0, 999.0]))
    between = purifier.timestep(known[100:102].mean()[None])
    assert 100 < float(between) < 101
    assert purifier.timestep(torch.tensor([0.0, 1e6])).tolist() == [0.0, 999.0]


@torch.no_grad()
def test_takes_canvases_of_any_size(pipeline: Path) -> None:
    purifier = DiffusionPurifier.from_pretrained(str(pipeline))
    assert purifier(torch.rand(1, 3, 33, 21), torch.tensor([0.3])).shape == (1, 3, 33, 21)


def test_loads_a_model_without_a_pipeline(tmp_path: Path) -> None:
    _unet().save_pretrained(tmp_path)
    _scheduler().save_pretrained(tmp_path)
    assert DiffusionPurifier.from_pretrained(str(tmp_path)).config.timesteps == 1000


@torch.no_grad()
def test_learned_variances_are_ignored(tmp_path: Path) -> None:
    DDPMPipeline(_unet(out=6), _scheduler()).save_pretrained(tmp_path)
    purified = DiffusionPurifier.from_pretrained(str(tmp_path))(torch.rand(1, 3, 16, 16), torch.tensor([0.3]))
    assert purified.shape == (1, 3, 16, 16)


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SmoothgateError, match="cannot be used as a purifier"):
        DiffusionPurifier.from_pretrained(str(tmp_path))
    DDPMPipeline(_unet(channels=1, out=1), _scheduler()).save_pretrained(tmp_path / "grey")
    with pytest.raises(SmoothgateError, match="1 channels"):
        DiffusionPurifier.from_pretrained(str(tmp_path / "grey"))


@torch.no_grad()
def test_is_the_same_after_saving_and_loading_a_psm(pipeline: Path, tmp_path: Path) -> None:
    purifier = DiffusionPurifier.from_pretrained(str(pipeline))
    PSM(purifier, model_digest="m").save(tmp_path / "psm")
    loaded = PSM.load(tmp_path / "psm").purifier
    assert isinstance(loaded, DiffusionPurifier)
    z, sigma = torch.rand(1, 3, 16, 16), torch.tensor([0.25])
    torch.testing.assert_close(loaded(z, sigma), purifier(z, sigma), atol=5e-3, rtol=5e-3)
    assert torch.equal(loaded.alphas_cumprod, purifier.alphas_cumprod)
    for each in (purifier, loaded):
        assert each.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
