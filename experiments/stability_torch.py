"""The headline runs beside the manifold once more, by PyTorch: another autograd, another sampler,
other seeds, many runs.

    pip install -e ".[bench]" && python experiments/stability_torch.py      # five minutes on one
    core

Writes figures/stability_torch.md and .json.
"""

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

torch: Any = importlib.import_module("torch")

FIGURES = Path(__file__).resolve().parent.parent / "figures"
LAM = torch.tensor([8.0, 5.0, 4.0, 2.0, 1.0], dtype=torch.float64)
D, N, TEST = len(LAM), int(LAM.sum()), 2**13
SAYS = (
    "`python experiments/stability_torch.py`, which uses nothing of popgd: another autograd, "
    "another sampler, other seeds. Mean "
    "test loss over the runs, their standard deviation, least and largest; all runs share a test "
    "set, whose own standard error "
    "is the last column. c = tr(P21 Q12)/d and 1 + m, m = tr(P22 Q22)/d, are means over the runs. "
    "Spectrum (8, 5, 4, 2, 1)."
)
U = torch.eye(D, dtype=torch.float64).repeat_interleave(LAM.long(), dim=1)


@dataclass(frozen=True)
class Case:
    """loss: 'dist' (4.1), 'Sq/|Sq|' or 'Sq'; start: standard deviation of the six inactive blocks,
    beside P21 = I, Q12 = 0; corner: P22 = -Q22 = this times I, besides.
    """

    name: str
    loss: str
    layer_norm: bool
    L: int
    eta: float
    batch: int
    steps: int
    start: float
    runs: int
    decay: float = 0.0
    corner: float = 0.0


CASES = (
    Case("4.1 beside", "dist", True, 1, 2.0, 64, 300, 1e-3, 16),
    Case("4.1 beside", "dist", True, 2, 0.2, 64, 1000, 1e-3, 8),
    Case("4.1 from (I, 0)", "dist", True, 1, 2.0, 64, 300, 0.0, 16),
    Case("4.1 from (I, 0)", "dist", True, 1, 0.5, 128, 1000, 0.0, 8),
    Case("4.2, y = Sq/|Sq|, from (I, 0)", "Sq/|Sq|", False, 1, 0.05, 64, 6000, 0.0, 8),
    Case("4.2, y = Sq, beside", "Sq", False, 1, 0.02, 128, 12_000, 0.1, 2),
    Case("4.2, y = Sq, beside", "Sq", False, 1, 0.04, 64, 10_000, 1e-2, 2, decay=0.05),
    Case("4.2, y = Sq, beside", "Sq", False, 1, 0.04, 64, 4000, 1e-2, 2, decay=0.2),
    Case("4.3, P22 = -Q22 = 0.3 I", "Sq/|Sq|", True, 1, 0.5, 64, 6000, 0.0, 4, corner=0.3),
    Case("4.3 beside", "Sq/|Sq|", True, 1, 0.5, 64, 6000, 0.03, 2, decay=1e-2),
    Case("4.3, P22 = -Q22 = 0.3 I, beside", "Sq/|Sq|", True, 1, 0.5, 64, 6000, 0.03, 4, corner=0.3),
    Case("4.1 beside", "dist", True, 1, 0.1, 512, 3000, 1e-2, 2, decay=0.2),
)


def draw(runs: int, batch: int, generator: Any) -> tuple[Any, ...]:
    """X = O U (runs, batch, d, n), q, and the leading eigenvector of S; O is Haar by QR with the
    signs of R's diagonal.
    """
    O, R = torch.linalg.qr(torch.randn(runs, batch, D, D, generator=generator, dtype=torch.float64))
    O = O * torch.sign(torch.diagonal(R, dim1=-2, dim2=-1)).unsqueeze(-2)
    q = torch.randn(runs, batch, D, generator=generator, dtype=torch.float64)
    return O @ U, q / q.norm(dim=-1, keepdim=True), O[..., 0]


def losses(case: Case, P: Any, Q: Any, sample: tuple[Any, ...]) -> Any:
    """(runs, batch), straight from the definition of the layer."""
    X, q, v = sample
    Z = torch.zeros(*q.shape[:2], 2 * D, N + 1, dtype=torch.float64)
    Z[..., :D, :N], Z[..., D:, N] = X, q
    for _ in range(case.L):
        Z = Z + (P[:, None] @ (Z @ Z.mT) @ Q[:, None]) @ Z
        Z = Z / Z.norm(dim=-2, keepdim=True) if case.layer_norm else Z
    f = Z[..., D:, N]
    if case.loss == "dist":
        return (f - v * (v * f).sum(-1, keepdim=True)).square().sum(-1)
    y = (X @ (X.mT @ q[..., None]))[..., 0]
    return (f - (y if case.loss == "Sq" else y / y.norm(dim=-1, keepdim=True))).square().sum(-1)


def run(case: Case, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    blocks = case.start * torch.randn(
        2, case.runs, 2 * D, 2 * D, generator=generator, dtype=torch.float64
    )
    P, Q = blocks
    P[:, D:, :D], Q[:, :D, D:] = torch.eye(D, dtype=torch.float64), 0.0
    P[:, D:, D:] += case.corner * torch.eye(D, dtype=torch.float64)
    Q[:, D:, D:] -= case.corner * torch.eye(D, dtype=torch.float64)
    for _ in range(case.steps):
        P.requires_grad_()
        Q.requires_grad_()
        mean = losses(case, P, Q, draw(case.runs, case.batch, generator)).mean(dim=1).sum()
        gradients = torch.autograd.grad(mean, (P, Q))
        P, Q = (
            W - case.eta * (g + case.decay * W)
            for W, g in zip((P.detach(), Q.detach()), gradients, strict=True)
        )
    test = draw(1, TEST, generator)
    found = np.stack(
        [losses(case, P[i : i + 1], Q[i : i + 1], test)[0].numpy() for i in range(case.runs)]
    )
    ends = found.mean(axis=1)
    error = float(np.median(found.std(axis=1, ddof=1)) / TEST**0.5)
    products = {
        "c": P[:, D:, :D] @ Q[:, :D, D:],
        "1 + m": torch.eye(D, dtype=torch.float64) + P[:, D:, D:] @ Q[:, D:, D:],
    }
    traces = {name: float(torch.diagonal(x, dim1=1, dim2=2).mean()) for name, x in products.items()}
    return {
        **case.__dict__,
        **traces,
        "losses": ends.tolist(),
        "mean": ends.mean(),
        "sd": ends.std(ddof=1),
        "test_error": error,
    }


def main() -> None:
    torch.set_num_threads(1)  # small matrices
    rows = []
    for seed, case in enumerate(CASES):
        rows.append(run(case, 1000 + seed))
        print(rows[-1], flush=True)
    (FIGURES / "stability_torch.json").write_text(json.dumps(rows, indent=1) + "\n")
    (FIGURES / "stability_torch.md").write_text(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["# The headline runs beside the manifold, by PyTorch", "", SAYS, ""]
    lines += [
        "| theorem, start | loops | eta | decay | batch | steps | runs | mean loss | between runs "
        "| least, largest | c, 1 + m | "
        "of the test set |"
    ]
    lines += ["|---|---:|---:|---:|---:|---:|---:|---:|---:|---|---|---:|"]
    for row in rows:
        low, high = min(row["losses"]), max(row["losses"])
        start = (f"{row['name']}, {row['start']:g}" if row["start"] else row["name"]).replace(
            "|", "\\|"
        )
        how = (row["L"], row["eta"], row["decay"], row["batch"], row["steps"], row["runs"])
        seen = (
            f"{row['mean']:.4g}",
            f"{row['sd']:.2g}",
            f"{low:.4g}, {high:.4g}",
            f"{row['c']:.3g}, {row['1 + m']:.2g}",
        )
        cells = [start, *(f"{x:g}" for x in how), *seen, format(row["test_error"], ".2g")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
