"""Linear probes of the UNet's features: the classifier against an independent one, and a run."""

import numpy as np
import torch

from tadp_d2.study.feature_probes import ALL, Moments, probe, table


def test_the_classifier_is_the_linear_discriminant():
    generator = torch.Generator().manual_seed(0)
    centers = torch.tensor([[0.0, 0.0, 0.0], [3.0, 1.0, 0.0], [0.0, 2.0, 4.0]])
    moments, rows, classes = Moments(3, 4), [], []
    for _ in range(5):
        labels = torch.randint(3, (6, 7), generator=generator)
        values = centers[labels] + torch.randn(6, 7, 3, generator=generator)
        labels[0, :3] = 255
        moments.add(values.permute(2, 0, 1)[None], labels)
        rows.append(values[labels != 255].numpy().astype("float64"))
        classes.append(labels[labels != 255].numpy())
    rows, classes = np.concatenate(rows), np.concatenate(classes)
    # By the definition: Gaussians of one covariance around each class's mean.
    means = np.stack([rows[classes == k].mean(0) for k in range(3)])
    covariance = sum(np.outer(d, d) for d in rows - means[classes]) / len(rows)
    covariance += 1e-3 * np.trace(covariance) / 3 * np.eye(3)
    points = np.random.default_rng(0).normal(size=(50, 3))
    away = points[:, None] - means
    densities = -0.5 * np.einsum("pkc,cd,pkd->pk", away, np.linalg.inv(covariance), away)
    expected = densities + np.log(np.bincount(classes) / len(classes))
    scores = moments.fit()(torch.from_numpy(points.T[None, :, None]))[0, :, 0].numpy()
    # Scores are equal up to what all classes of a point share.
    np.testing.assert_allclose(
        scores[:3] - scores[0], (expected - expected[:, :1]).T, rtol=1e-9, atol=1e-9
    )
    # A class that was never seen is never chosen.
    assert (scores[3] < scores[:3].min() - 1e6).all()


def test_a_probe_from_images_to_the_table(world, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    found = probe(world, "caption, t = 200", count=6)
    assert list(found["mIoU"]) == ["s3", "s4", "s5", "s6", ALL]
    assert all(0 <= value <= 100 for value in found["mIoU"].values())
    assert found == probe(world, "caption, t = 200", count=6)
    assert table([found]).splitlines()[0] == "| passed to the UNet | s3 | s4 | s5 | s6 | all |"
