import torch

from smoothgate_lab.demo import scenes
from smoothgate_lab.demo.scene_stream import twin_pictures
from smoothgate_lab.demo.scenes import CANVAS, draw, load_digits, sample_layouts, twin_indices


def _gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_held_out_digits_are_not_trained_on() -> None:
    train, held_out = load_digits("train"), load_digits("held-out")
    assert (len(train.labels), len(held_out.labels)) == (4000, 1000)
    assert train.labels.bincount().tolist() == [400] * 10
    assert held_out.labels.bincount().tolist() == [100] * 10
    seen = {bitmap.numpy().tobytes() for bitmap in train.bitmaps}
    assert not any(bitmap.numpy().tobytes() in seen for bitmap in held_out.bitmaps)


def test_a_scene_depends_on_its_seed_alone() -> None:
    digits = load_digits("train")
    images = [draw(digits.bitmaps[:8], sample_layouts(8, _gen(3)))[0] for _ in range(2)]
    assert torch.equal(*images)
    assert images[0].shape == (8, 3, CANVAS, CANVAS)
    assert images[0].min() >= 0
    assert images[0].max() <= 1


def test_twins_share_everything_but_the_digit() -> None:
    digits = load_digits("train")
    chosen = torch.arange(0, 4000, 100)
    twins = twin_indices(digits, chosen, _gen())
    assert (digits.labels[chosen] != digits.labels[twins]).all()
    layouts = sample_layouts(len(chosen), _gen())
    (first, ink), (second, other_ink) = (draw(digits.bitmaps[i], layouts) for i in (chosen, twins))
    bare = ((ink + other_ink) == 0).expand_as(first)
    assert bare.float().mean() > 0.4
    assert torch.equal(first[bare], second[bare])


def test_ink_and_background_are_told_apart() -> None:
    layouts = sample_layouts(2000, _gen())
    assert (layouts.ink != layouts.background).all()
    distance = (layouts.ink_rgb - layouts.background_rgb).norm(dim=1)
    assert distance.min() > scenes._MIN_CONTRAST - 2 * 0.1 * 3**0.5
    assert distance.mean() > 1


def test_grey_pictures_are_plain_and_grey() -> None:
    layouts = sample_layouts(200, _gen(), grey=True)
    images, _ = draw(load_digits("train").bitmaps[:200], layouts)
    assert (images.amax(1) - images.amin(1)).max() < 1e-6
    assert (layouts.pattern == 0).all()


def test_neighbours_in_the_stream_of_twins_are_one_scene_with_two_digits() -> None:
    pictures = twin_pictures(1, augment=False)(0, 9)
    assert pictures.shape == (9, 3, CANVAS, CANVAS)
    pairs = pictures[:8].view(4, 2, -1)
    same = (pairs[:, 0] - pairs[:, 1]).abs() < 1e-6
    assert (same.float().mean(1) > 0.4).all()
    assert not same.all(1).any()
    others = (pairs[:-1, 0] - pairs[1:, 0]).abs() < 1e-6
    assert (others.float().mean(1) < 0.4).all()
