"""Plan-verify-fill for one sequence, as loops over lists: what the batched decoder is held to.

Written from the paper's equations and not from the package: slow, obvious, float64.
"""

import torch


def reference_decode(
    logits_of,
    canvas,
    start,
    length,
    mask,
    *,
    block_length,
    threshold,
    plan_low,
    plan_high,
    fill_threshold,
    num_drafts,
    unlock_threshold,
    plan_ids,
):
    """Give (canvas, calls, rows, reasons by column)."""
    y = list(canvas)
    calls = rows_made = 0
    reasons = {}
    predictions = None  # column -> (token, confidence), for the canvas as it is
    pause = False

    def forward(canvases):
        nonlocal calls, rows_made
        calls += 1
        rows_made += len(canvases)
        logits = logits_of(torch.tensor(canvases)).double()
        logits[..., mask] = -torch.inf
        confidence, token = logits.softmax(-1).max(-1)
        return token.tolist(), confidence.tolist()

    def window():
        blocks = [range(b, min(b + block_length, length)) for b in range(0, length, block_length)]
        for number, block in enumerate(blocks):
            masks = [start + i for i in block if y[start + i] == mask]
            if masks:
                columns = [start + i for i in block]
                horizon = number + 2 + (unlock_threshold > 0)
                if len(masks) <= unlock_threshold and number + 1 < len(blocks):
                    columns += [start + i for i in blocks[number + 1]]
                ahead = [start + i for b in blocks[number:horizon] for i in b]
                return columns, ahead
        return [], []

    while True:
        columns, ahead = window()
        if not columns:
            return y, calls, rows_made, reasons
        open_ = [i for i in columns if y[i] == mask]
        if predictions is None or any(i not in predictions for i in open_):
            token, confidence = forward([y])
            predictions = {i: (token[0][i], confidence[0][i]) for i in ahead}
        base = [i for i in open_ if predictions[i][1] >= threshold]
        rest = [i for i in open_ if i not in base]
        z_base = list(y)
        for i in base:
            z_base[i] = predictions[i][0]

        def commit(canvas, letter, base=base):
            for i in range(len(y)):
                if canvas[i] != y[i]:
                    reasons[i] = "H" if i in base else letter
            y[:] = canvas

        if not rest:
            commit(z_base, "H")
            predictions = None
            continue
        by_confidence = sorted(rest, key=lambda i: (-predictions[i][1], i))
        plan = [i for i in by_confidence if plan_low <= predictions[i][1] < plan_high
                and predictions[i][0] in plan_ids][:num_drafts]  # fmt: skip
        if not pause and plan:
            canvases = [list(z_base) for _ in range(len(plan) + 1)]
            for row, i in enumerate(plan):
                canvases[row + 1][i] = predictions[i][0]
            token, confidence = forward(canvases)
            impact = [i for i in columns if z_base[i] == mask and confidence[0][i] >= threshold]
            best, best_total = 0, None
            for row, draft in enumerate(plan, 1):
                same = all(
                    (predictions[i][0] if i == draft else token[row][i]) == token[0][i]
                    for i in impact
                )
                total = sum(confidence[row][i] for i in columns if canvases[row][i] == mask)
                if same and (best_total is None or total > best_total):
                    best, best_total = row, total
            pause = best == 0
            commit(canvases[best], "P")
            predictions = {i: (token[best][i], confidence[best][i]) for i in ahead}
            continue
        pause = False
        drafts = [i for i in rest if predictions[i][1] >= fill_threshold][:num_drafts]
        if drafts:
            canvases = [list(z_base)]
            for i in drafts:
                canvases.append(list(canvases[-1]))
                canvases[-1][i] = predictions[i][0]
            token, confidence = forward(canvases)
            held = 0
            for row, i in enumerate(drafts):
                if token[row][i] != predictions[i][0]:
                    break
                held += 1
            commit(canvases[held], "F")
            predictions = {i: (token[held][i], confidence[held][i]) for i in ahead}
            continue
        if base:
            commit(z_base, "H")
        else:
            forced = list(y)
            forced[by_confidence[0]] = predictions[by_confidence[0]][0]
            commit(forced, "X")
        predictions = None
