"""Slow float64 numpy on the full matrices, transcribed from the definitions.

It shares no code with nrc_probe.

H (N, d) features, Y (N, t) targets, W (out, d) weight, r the signal dimension.
"""

from __future__ import annotations

import numpy as np


def centred(A):
    A = np.asarray(A, np.float64)
    return A - A.mean(0)


def directions(H):
    """All d of them, a direction a row; U is never built where there are more rows than columns."""
    n, d = H.shape
    return np.linalg.svd(centred(H), full_matrices=n < d)[2]


def top_directions(H, r):
    return directions(H)[:r].T


def variances(H):
    _, d = H.shape
    s = np.linalg.svd(centred(H), compute_uv=False)
    return np.concatenate([s**2 / len(H), np.zeros(d - len(s))])


def nrc1(H, r):
    Hc = centred(H)
    signal = Hc @ top_directions(H, r)
    return 1 - (signal**2).sum() / (Hc**2).sum()


def linear_cka(A, B):
    """From N x N Gram matrices, as CKA was first written."""
    K, L = centred(A) @ centred(A).T, centred(B) @ centred(B).T
    return (K * L).sum() / np.sqrt((K * K).sum() * (L * L).sum())


def linear_cka_of_covariances(A, B):
    """The same number without N x N matrices, for many rows."""
    A, B = centred(A), centred(B)
    norm = np.linalg.norm
    return norm(A.T @ B) ** 2 / (norm(A.T @ A) * norm(B.T @ B))


def nrc2(H, Y, r):
    return linear_cka(centred(H) @ top_directions(H, r), Y)


def weight_directions(W, r):
    W = np.asarray(W, np.float64)
    _, s, Vt = np.linalg.svd(W, full_matrices=False)
    rank = int((s > s[0] * max(W.shape) * np.finfo(np.float32).eps).sum())
    return Vt[: min(r, rank)].T


def nrc3(H, W, r):
    V = weight_directions(W, r)
    return np.linalg.svd(top_directions(H, r).T @ V, compute_uv=False)[: V.shape[1]].sum() / V.shape[1]


def nrc3_noise(H, W, r):
    """Mean cosine between the weight's directions and the bottom d - r directions of the features.

    With fewer than r noise directions the missing cosines are 0.
    """
    V = weight_directions(W, r)
    return np.linalg.svd(directions(H)[r:] @ V, compute_uv=False).sum() / V.shape[1]


def nrc3_chance(d, r, k, draws=2000):
    rng = np.random.default_rng(1)
    total = 0.0
    for _ in range(draws):
        Q, _ = np.linalg.qr(rng.standard_normal((d, r)))
        total += np.linalg.svd(Q[:k], compute_uv=False)[: min(r, k)].mean()
    return total / draws


def least_squares_error(H, Y, rcond):
    P = np.linalg.pinv(H, rcond=rcond) @ Y
    return ((H @ P - Y) ** 2).mean()


def nrc4(H, Y, rcond):
    return least_squares_error(centred(H), centred(Y), rcond)


def nrc4_no_intercept(H, Y, rcond):
    return least_squares_error(np.asarray(H, np.float64), np.asarray(Y, np.float64), rcond)


def nrc4_heldout(H, Y, H2, Y2, rcond):
    P = np.linalg.pinv(centred(H), rcond=rcond) @ centred(Y)
    predicted = (np.asarray(H2, np.float64) - H.astype(np.float64).mean(0)) @ P + Y.astype(np.float64).mean(0)
    return ((predicted - Y2) ** 2).mean()


def stable_rank(A):
    A = np.asarray(A, np.float64)
    return (A**2).sum() / np.linalg.norm(A, 2) ** 2


def stable_rank_covariance(H):
    S = centred(H).T @ centred(H) / len(H)
    return (S**2).sum() / np.linalg.norm(S, 2) ** 2


def effective_rank(H):
    p = variances(H)
    p = p[p > 0] / p.sum()
    return np.exp(-(p * np.log(p)).sum())


def target_rank(Y):
    held = np.cumsum(variances(Y)) / variances(Y).sum()
    return next(k for k, share in enumerate(held, 1) if share >= 0.99 - 1e-12)


def last_layer_2024(H, Y, W):
    H, W, t = np.asarray(H, np.float64), np.asarray(W, np.float64), Y.shape[1]
    U = top_directions(H, t)
    _, s, Vt = np.linalg.svd(W, full_matrices=False)
    R = Vt[s > s[0] * max(W.shape) * np.finfo(np.float32).eps].T
    energy = (H**2).sum()
    first = 1 - ((H @ U) ** 2).sum() / energy
    second = 1 - ((H @ R) ** 2).sum() / energy
    m, Q = np.linalg.eigh(centred(Y).T @ centred(Y) / len(Y))
    root = (Q * np.sqrt(m.clip(0))) @ Q.T
    A = W @ W.T / np.linalg.norm(W @ W.T)
    distances = []
    for g in np.linspace(0, np.sqrt(max(m[0], 0)), 20_001)[:-1] ** 2:
        B = root - np.sqrt(g) * np.eye(t)
        distances.append(((A - B / np.linalg.norm(B)) ** 2).sum())
    return first, second, min(distances)
