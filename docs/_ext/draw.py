"""Draw the two pictures of how_it_works.rst; run by hand when the rooms change."""

from pathlib import Path

INK, LINE = "#1f2933", "#52606d"
FILLS = {"top": "#dbeafe", "middle": "#e0f2e9", "leaf": "#fdf3d8", "view": "#f3e8ff"}
HEAD = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{w}} {{h}}" role="img">
<title>{{title}}</title>
<style>text{{{{font:12px sans-serif;fill:{INK};text-anchor:middle}}}}
.name{{{{font:600 15px monospace}}}}</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="8" markerHeight="8"
orient="auto"><path d="M0 0 8 4 0 8Z" fill="{LINE}"/></marker></defs>
<rect width="{{w}}" height="{{h}}" fill="#ffffff"/>"""


def box(kind, x, y, width, height, name, *lines):
    """Return a box with its name and the lines below it."""
    centre, top = x + width / 2, y + height / 2 - 8 * len(lines) + 5
    texts = [f'<text class="name" x="{centre:g}" y="{top:g}">{name}</text>']
    for i, line in enumerate(lines, start=1):
        texts.append(f'<text x="{centre:g}" y="{top + 3 + 15 * i:g}">{line}</text>')
    shape = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8"'
    return "\n".join([f'{shape} fill="{FILLS[kind]}" stroke="{LINE}"/>', *texts])


def arrow(*points):
    """Return an arrow through the points."""
    path = " L".join(f"{x} {y}" for x, y in points)
    return f'<path d="M{path}" fill="none" stroke="{LINE}" marker-end="url(#tip)"/>'


def save(name, title, width, height, parts):
    """Write a picture into _static."""
    text = "\n".join([HEAD.format(w=width, h=height, title=title), *parts, "</svg>\n"])
    (Path(__file__).parents[1] / "_static" / name).write_text(text)


leaves = [
    ("_heads", "a loss and all", "that follows"),
    ("_mlp", "the network on", "weight tensors"),
    ("_solvers", "update rules,", "schedules"),
    ("_stopping", "when a fit ends"),
    ("_tensors", "from numpy to torch", "and back"),
]
rooms = [
    box("top", 20, 30, 190, 70, "_convert", "to and from sklearn's MLP"),
    box("top", 270, 30, 270, 70, "_estimators", "TorchClassifier, TorchRegressor"),
    box("view", 690, 30, 210, 70, "_compare", "several estimators on", "the same folds"),
    box("top", 270, 140, 270, 70, "_base", "validate, make a job, keep the result"),
    box("top", 20, 140, 190, 70, "_parameters", "what each may be"),
    box("view", 690, 140, 210, 70, "_displays", "loss curves, comparisons"),
    box("middle", 20, 260, 190, 70, "_stacking", "the joblib backend:", "fits meet"),
    box("middle", 250, 260, 190, 70, "_skorch", "the lane of skorch"),
    box("middle", 500, 260, 180, 70, "_modules", "a module of yours,", "fitted"),
    box("middle", 720, 260, 180, 70, "_models", "a fitted network:", "arrays, and predict"),
    box("middle", 20, 370, 290, 70, "_training", "the one loop, for one network", "or a hundred"),
    box("middle", 380, 370, 240, 70, "_optimizers", "update rules as torch's optimizers"),
    box("middle", 20, 480, 140, 70, "_batches", "the rows of", "each step"),
    box("middle", 170, 480, 140, 70, "_lbfgs", "all rows at once"),
    box("middle", 20, 590, 400, 60, "_jobs", "what training gets, and the book of epochs"),
    arrow((210, 65), (270, 65)),
    arrow((405, 100), (405, 140)),
    arrow((270, 175), (210, 175)),
    arrow((795, 100), (795, 140)),
    arrow((290, 210), (150, 260)),
    arrow((345, 210), (345, 260)),
    arrow((480, 210), (570, 260)),
    arrow((530, 210), (740, 260)),
    arrow((440, 295), (500, 295)),
    arrow((680, 295), (720, 295)),
    arrow((115, 330), (115, 370)),
    arrow((410, 330), (410, 370)),
    arrow((345, 330), (345, 590)),
    arrow((90, 440), (90, 480)),
    arrow((240, 440), (240, 480)),
    arrow((90, 550), (90, 590)),
    arrow((240, 550), (240, 590)),
    f'<path d="M220 650 V680 M500 440 V680 M810 330 V680" fill="none" stroke="{LINE}"/>',
]
for i, leaf in enumerate(leaves):
    x = 20 + 180 * i
    rooms += [arrow((500, 680), (x + 80, 680), (x + 80, 710)), box("leaf", x, 710, 160, 80, *leaf)]
rooms += [
    box("leaf", 110, 830, 170, 60, "_matmul", "the faster of two kernels"),
    box("leaf", 300, 830, 200, 60, "_random", "torch's generators, borrowed"),
    box("leaf", 660, 830, 240, 60, "_sklearn_compat", "scikit-learn's private names"),
    arrow((240, 790), (210, 830)),
    arrow((310, 790), (360, 830)),
    arrow((820, 790), (820, 830)),
]
save("rooms.svg", "The private files of torchsk and who imports whom", 920, 910, rooms)

steps = [
    ("view", "X, y", "arrays, frames,", "sparse matrices"),
    ("top", "validate", "shapes, dtypes,", "classes, weights"),
    ("leaf", "head", "encodes y,", "says n_outputs"),
    ("leaf", "tensors", "float32, device,", "standardised"),
    ("middle", "TrainingJob", "data, weights, head,", "network, parameters"),
]
way = [box(kind, 20 + 180 * i, 30, 160, 80, *text) for i, (kind, *text) in enumerate(steps)]
way += [arrow((x, 70), (x + 20, 70)) for x in (180, 360, 540, 720)]
train = [
    "each epoch: shuffle; each batch: forward, residual,",
    "backward, clip, update; then stop or go on.",
    "One job alone, or a stack of jobs.",
]
attributes = [
    "coefs_, intercepts_, loss_curve_, n_iter_, classes_:",
    "numpy arrays and numbers, with the standardisation",
    "folded into the weights",
]
way += [
    box("middle", 500, 180, 400, 110, "train(jobs)", *train),
    box("top", 20, 180, 400, 110, "fitted attributes", *attributes),
    arrow((820, 110), (820, 180)),
    arrow((500, 235), (420, 235)),
]
save("way_of_the_data.svg", "What happens to X and y in fit", 920, 320, way)
