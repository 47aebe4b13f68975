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


def frame(x, y, width, height, label):
    """Return a dashed frame around boxes, with a label at its lower edge."""
    shape = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8"'
    return (
        f'{shape} fill="none" stroke="{LINE}" stroke-dasharray="5 4"/>\n'
        f'<text x="{x + width / 2:g}" y="{y + height - 9:g}">{label}</text>'
    )


def save(name, title, width, height, parts):
    """Write a picture into _static."""
    text = "\n".join([HEAD.format(w=width, h=height, title=title), *parts, "</svg>\n"])
    (Path(__file__).parents[1] / "_static" / name).write_text(text)


TOPS, HEIGHT = [20 + 94 * row for row in range(13)], 64


def room(kind, row, x, width, name, *lines):
    """Return the box of a file or folder in a row."""
    return box(kind, x, TOPS[row], width, HEIGHT, name, *lines)


def down(x, row, to_row):
    """Return a vertical arrow from a box of one row to a box of another."""
    return arrow((x, TOPS[row] + HEIGHT), (x, TOPS[to_row]))


# every arrow is an import; those of a box to the dashed frame are of at least one room in it
rooms = [
    room("top", 0, 20, 580, "_convert", "to and from scikit-learn's MLP"),
    room("view", 0, 680, 220, "_compare", "several estimators,", "the same folds"),
    room("top", 1, 20, 280, "_classifier", "TorchClassifier: labels"),
    room("top", 1, 320, 280, "_regressor", "TorchRegressor: numbers"),
    room("view", 1, 680, 220, "_displays", "loss curves, comparisons"),
    room("top", 2, 20, 880, "_base", "both estimators: check, hand over, keep what is fitted"),
    room("top", 3, 20, 320, "_fitting", "from checked rows to one job"),
    room("middle", 3, 380, 260, "_stacking", "the joblib backend: fits meet"),
    room("top", 3, 660, 110, "_inputs", "what X may be"),
    room("top", 3, 785, 115, "_targets", "what y means:", "Labels, Numbers"),
    room("middle", 4, 20, 250, "_skorch", "the lane of skorch"),
    room("middle", 4, 390, 120, "_dealing", "who gets what"),
    room("middle", 4, 540, 130, "_executors", "workers of others"),
    room("middle", 5, 200, 480, "_training", "jobs, runs, the lanes of stacks and of lbfgs"),
    room("middle", 6, 20, 130, "_optimizers", "update rules as", "torch's own"),
    room("middle", 6, 165, 180, "_modules", "ModuleModel:", "a module of yours"),
    room("middle", 7, 165, 245, "_models", "Model, MLPModel: rows to", "raw outputs; Fitted"),
    room("middle", 7, 460, 150, "_parameters", "what each may be;", "Settings"),
    room("middle", 8, 320, 110, "_sparse", "sparse rows", "as they are"),
    room("leaf", 9, 195, 215, "_mlp", "the built-in network:", "forward, backward"),
    room("leaf", 9, 495, 130, "_defaults", 'what "auto"', "becomes"),
    room("leaf", 9, 640, 180, "_rows", "on a device;", "Examples"),
    room("leaf", 10, 195, 100, "_dropout", "its masks"),
    room("leaf", 10, 320, 90, "_matmul", "the faster of", "two kernels"),
    room("leaf", 10, 490, 130, "_embedding", "cosines of", "numeric columns"),
    room("leaf", 10, 640, 180, "_standardizer", "centre and scale"),
    room("leaf", 11, 700, 200, "_data", "checked rows on the host"),
    frame(20, TOPS[11], 640, 98, "the tables: one row for each name"),
    box("leaf", 30, TOPS[11] + 9, 118, HEIGHT, "_solvers", "update rules"),
    box("leaf", 156, TOPS[11] + 9, 100, HEIGHT, "_heads", "a loss and all", "that follows"),
    box("leaf", 264, TOPS[11] + 9, 132, HEIGHT, "_activations", "and their", "derivatives"),
    box("leaf", 404, TOPS[11] + 9, 246, HEIGHT, "_schedules", "the rate of each epoch"),
    box("leaf", 20, TOPS[12] + 40, 300, HEIGHT, "_runtime", "torch's devices, threads, generators",
        "(used by many rooms)"),
    box("leaf", 340, TOPS[12] + 40, 280, HEIGHT, "_sklearn_compat", "scikit-learn's private names",
        "(used by many rooms)"),
    box("leaf", 640, TOPS[12] + 40, 260, HEIGHT, "_hints", "what a wrong name was meant for",
        "(used by many rooms)"),
    down(160, 0, 1),  # _convert
    down(460, 0, 1),
    down(790, 0, 1),  # _compare
    down(160, 1, 2),  # the estimators
    down(460, 1, 2),
    down(180, 2, 3),  # _base
    down(510, 2, 3),
    down(715, 2, 3),
    down(842, 2, 3),
    down(145, 3, 4),  # _fitting
    down(305, 3, 5),
    down(450, 3, 4),  # _stacking
    down(525, 3, 5),
    down(590, 3, 4),
    down(450, 4, 5),  # _dealing
    arrow((715, TOPS[3] + HEIGHT), (715, TOPS[4]), (840, TOPS[4]), (840, TOPS[11])),  # _inputs
    down(870, 3, 11),  # _targets
    down(85, 4, 6),  # _skorch
    down(182, 4, 6),
    down(235, 4, 5),
    down(378, 5, 7),  # _training
    down(435, 5, 11),
    down(535, 5, 7),
    down(660, 5, 9),
    down(420, 5, 8),
    down(85, 6, 11),  # _optimizers
    down(255, 6, 7),  # _modules
    down(180, 7, 11),  # _models
    down(302, 7, 9),
    down(375, 7, 8),
    down(475, 7, 11),  # _parameters
    down(560, 7, 9),
    down(370, 8, 9),  # _sparse
    arrow((430, TOPS[8] + 32), (740, TOPS[8] + 32), (740, TOPS[9])),
    down(245, 9, 10),  # _mlp
    down(307, 9, 11),
    down(365, 9, 10),
    arrow((410, TOPS[9] + 50), (555, TOPS[10])),
    arrow((490, TOPS[10] + 32), (410, TOPS[10] + 32)),  # _embedding
    arrow((600, TOPS[10] + HEIGHT), (600, TOPS[10] + 80), (720, TOPS[10] + 80), (720, TOPS[11])),
    down(730, 9, 10),  # _rows
    down(760, 10, 11),  # _standardizer
]  # fmt: skip
save("rooms.svg", "The private files of torchsk and who imports whom", 920, TOPS[12] + 124, rooms)

steps = [
    ("view", "X, y", "arrays, frames,", "sparse matrices"),
    ("top", "check", "shapes and dtypes,", "as scikit-learn does"),
    ("top", "targets", "what y means;", "y as codes or numbers"),
    ("leaf", "head", "the domain of y;", "how many outputs"),
    ("top", "make_job", "first weights, scalers,", "rows, settings, lane"),
]
way = [box(kind, 20 + 180 * i, 20, 160, 80, *text) for i, (kind, *text) in enumerate(steps)]
way += [arrow((x, 60), (x + 20, 60)) for x in (180, 360, 540, 720)]
train = [
    "each batch: forward, residual, backward,",
    "clip, update; after each epoch a Run",
    "records it and says: stop, or go on.",
    "(lbfgs: all rows at once, no epochs)",
    "One job alone, or a stack of jobs.",
]
result = [
    "the trained model,",
    "the record of its epochs,",
    "what the solver remembers,",
    "a warning, if there is one",
]
fitted = [
    "model, targets, progress, state:",
    "what predict and the next partial_fit",
    "need; coefs_, loss_curve_ and the",
    "other attributes come from it",
]
way += [
    box("middle", 610, 150, 290, 130, "lane.train(jobs)", *train),
    box("middle", 330, 150, 230, 130, "TrainingResult", *result),
    box("top", 20, 150, 260, 130, "Fitted", *fitted),
    arrow((820, 100), (820, 150)),
    arrow((610, 215), (560, 215)),
    arrow((330, 215), (280, 215)),
]
save("way_of_the_data.svg", "What happens to X and y in fit", 920, 300, way)
