"""Figures of docs/: KL divergence against something, as SVG."""

import math

TICKS = (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128, 200, 500, 1000, 2000, 5000, 10000, 20000)
COLORS = ("#06c", "#c40", "#080")  # of lines, in their order


def plot(path, x_label, lines, points=(), ticks=TICKS):
    """Writes `path`. `lines` are (name, [(x, KL divergence), ...]), `points` (x, KL divergence, label, colour); x is logarithmic."""
    width, height, left, bottom = 760, 440, 60, 50
    every = [p[:2] for p in points] + [p for _, line in lines for p in line]
    first, last = (f(math.log10(x) for x, _ in every) for f in (min, max))
    first, last = math.floor(first * 4) / 4, math.ceil(last * 4) / 4
    top = math.ceil(max(kl for _, kl in every) * 20) / 20
    at_x = lambda x: left + (math.log10(x) - first) / (last - first) * (width - left - 20)  # noqa: E731
    at_y = lambda kl: (height - bottom) - kl / top * (height - bottom - 20)  # noqa: E731
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>']  # fmt: skip
    for i in range(round(top / 0.05) + 1):
        y = at_y(i * 0.05)
        out.append(
            f'<path d="M{left} {y:.1f}H{width - 20}" stroke="#ddd"/><text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{i * 0.05:.2f}</text>'
        )
    for tick in ticks:
        if first <= math.log10(tick) <= last:
            x = at_x(tick)
            out.append(
                f'<path d="M{x:.1f} 20V{height - bottom}" stroke="#eee"/><text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{tick}</text>'
            )
    out.append(f'<text x="{(left + width) / 2:.0f}" y="{height - 10}" text-anchor="middle">{x_label}</text>')
    out.append(
        f'<text x="16" y="{height / 2:.0f}" text-anchor="middle" transform="rotate(-90 16 {height / 2:.0f})">KL divergence</text>'
    )
    for i, (name, line) in enumerate(lines):
        color = COLORS[i % len(COLORS)]
        corners = " ".join(f"{at_x(x):.1f},{at_y(kl):.1f}" for x, kl in sorted(line))
        out.append(f'<polyline fill="none" stroke="{color}" stroke-width="2" points="{corners}"/>')
        out += [f'<circle cx="{at_x(x):.1f}" cy="{at_y(kl):.1f}" r="3" fill="{color}"/>' for x, kl in line]
        out.append(f'<text x="{width - 30}" y="{40 + 18 * i}" text-anchor="end" fill="{color}">{name}</text>')
    taken = []  # first and last x, and y, of the labels
    for x, kl, label, color in points:
        anchor, shift = ("end", -7) if at_x(x) > width * 0.7 else ("start", 7)
        out.append(f'<circle cx="{at_x(x):.1f}" cy="{at_y(kl):.1f}" r="4" fill="{color}"/>')
        start = at_x(x) + shift - (0 if anchor == "start" else 6.5 * len(label))
        y = next(y for y in (at_y(kl) - 5, at_y(kl) + 17, at_y(kl) - 19, -99) if y < 0 or not any(
            abs(y - other) < 13 and start < end and start + 6.5 * len(label) > begin for begin, end, other in taken))  # fmt: skip
        taken.append((start, start + 6.5 * len(label), y))
        out.append(
            f'<text x="{at_x(x) + shift:.1f}" y="{y if y > 0 else at_y(kl) - 5:.1f}" text-anchor="{anchor}">{label}</text>'
        )
    path.write_text("\n".join([*out, "</svg>", ""]), encoding="utf-8")
