"""TorchClassifier."""

import numpy as np
from sklearn.base import ClassifierMixin

from torchsk._base import BaseTorchMLP
from torchsk._data import as_numpy
from torchsk._sklearn_compat import (
    StrOptions,
    available_if,
    check_partial_fit_first_call,
    fit_context,
)
from torchsk._targets import Labels


class TorchClassifier(ClassifierMixin, BaseTorchMLP):
    """Multi-layer perceptron classifier on torch.

    A drop-in for scikit-learn's MLPClassifier: the same parameters and attributes, with defaults
    of its own; ``torchsk.from_sklearn`` gives the settings that train to the same weights. It
    standardises its inputs, clips gradients, knows more losses and activations, dropout and class
    weights, runs on accelerators, and trains any torch module.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Width of each hidden layer, at least 1. ``()`` is a network without hidden layer: a linear
        or logistic regression.

    activation : str, nn.Module class, or list of these, default="relu"
        Activation of the hidden layers; a list has one per layer. "identity", "logistic", "tanh"
        and "relu" as in scikit-learn, and "elu", "gelu", "hardsigmoid", "hardtanh",
        "leaky_relu", "mish", "relu6", "selu", "silu", "softplus", "softsign". A class of
        elementwise nn.Module without parameters works too.

    solver : {"sgd", "adam", "adamw", "rmsprop", "adagrad", "lbfgs"} or torch.optim.Optimizer \
            class, default="sgd"
        "sgd", "adam" and "lbfgs" as in scikit-learn. "adamw" shrinks the weights by `alpha`
        directly (decoupled weight decay). "lbfgs" sees all rows at once and computes in float64.
        An optimizer class of torch, or a functools.partial of one, is run by skorch.

    alpha : float or "auto", default="auto"
        L2 penalty on the weights (not on the intercepts), at least 0. "auto" adds
        ``lambda / 2 * ||W||^2`` to the weighted mean loss of every batch; lambda falls as 1 / n
        with the number of rows, grows with that of columns, and is a quarter for each hidden layer
        of sigmoids (`alpha_` says what it became). A number means what it means in scikit-learn: a
        batch adds ``alpha / 2 * ||W||^2 / (sum of its sample weights)``, so weights that sum to 1
        multiply its effect by the number of rows: with AdaBoost's, or a survey's, leave "auto" or
        scale them to a mean of 1. With `module` "auto" is 0.0001.

    batch_size : int or "auto", default="auto"
        Rows per step. "auto" cuts an epoch into about 12 batches of about 32 to 200 rows that are
        even but for a row, and a call of `partial_fit` into batches of at most 200. Up to 1000
        rows, unless early stopping holds some out, it counts equal rows (of equal targets) as one
        of more weight, so that a row of weight k and k such rows give the same network.

    learning_rate : {"constant", "invscaling", "adaptive", "cosine", "onecycle"}, callable, or \
            torch.optim.lr_scheduler class, default="onecycle"
        Schedule of the learning rate. "onecycle" and "cosine" are spread over `max_iter` epochs
        and run to their end; `partial_fit`, which has no end, trains at a constant rate where it
        is "onecycle". "constant", "invscaling" and "adaptive" are scikit-learn's; the latter two
        act with ``solver="sgd"``. A callable gives the factor of an epoch, counted from 0. A
        scheduler class of torch, or a functools.partial of one, is run by skorch.

    learning_rate_init : float or "auto", default="auto"
        Initial learning rate, above 0; under "onecycle" the peak. "auto" is then 0.2 for "sgd" and
        "adagrad", 0.02 for "adam" and "adamw", 0.005 for "rmsprop" and 0.01 for a class of torch; a
        quarter of that with `module`. In `partial_fit` and under schedules that have no end it is
        0.05 for "sgd", 0.01 for "adagrad" and 0.001 for the others. The MLP's 0.001 is far too
        small for "sgd" in 50 epochs.

    power_t : float, default=0.5
        Exponent of "invscaling".

    max_iter : int, default=50
        Length of the schedule in epochs under "onecycle" and "cosine", which run to their end:
        more is slower, not better, so do not carry over 1000 from an MLP. Under the other
        schedules the largest number of epochs. Iterations for "lbfgs".

    shuffle : bool, default=True
        Whether the rows are shuffled before each epoch.

    random_state : int, RandomState instance or None, default=None
        Seeds initial weights, validation split, shuffles and dropout.

    tol : float, default=1e-4
        Smallest change of the loss (or of what early stopping watches) that counts as an
        improvement. The loss is that of the standardised targets. Without early stopping it acts
        under schedules that have no end: not under "onecycle" and "cosine".

    verbose : bool or int, default=False
        Whether to print each epoch.

    warm_start : bool, default=False
        Whether `fit` goes on from the weights of the last fit.

    momentum : float, default=0.9
        Momentum of "sgd", in [0, 1].

    nesterovs_momentum : bool, default=True
        Whether the momentum is Nesterov's.

    early_stopping : bool, default=False
        Whether to hold out rows, to stop when what `scoring` watches no longer improves, and to
        keep the weights of the best epoch.

    validation_fraction : float, default=0.1
        Fraction of the rows that is held out, in [0, 1).

    beta_1, beta_2 : float, default=0.9, 0.999
        Decay of Adam's first and second moment, in [0, 1).

    epsilon : float, default=1e-8
        Keeps the denominators of Adam and its kin from zero, above 0.

    n_iter_no_change : int or numpy.inf, default=10
        Number of epochs without improvement that are tolerated, where `tol` acts; twice as many
        under "onecycle" and "cosine", whose best epochs are the last ones.

    max_fun : int, default=15000
        Largest number of loss evaluations of "lbfgs".

    loss : str, nn.Module class or instance, or callable, default="log_loss"
        The loss; output layer, target encoding and predictions follow from it. `predict` returns
        classes, and `predict_proba`:

        - "log_loss" (binary, multiclass, multilabel): the softmax of one output per class; in
          binary problems, and for each label, the sigmoid of one output.
        - "cross_entropy" (binary, multiclass): the softmax of one output per class.
        - "bce" (binary, multilabel): the outputs of `module` as they are: end it in a sigmoid.
        - "nll" (binary, multiclass): the exponential of the outputs of `module`: end it in a
          log_softmax.
        - "hinge" (binary, multiclass, multilabel): nothing, it is not there; `decision_function`
          returns margins.
        - "focal" (binary, multiclass, multilabel): as "log_loss"; rows that are hard to tell count
          more.

        Without `module` the sigmoid of "bce" and the log_softmax of "nll" are added. Also a class
        of torch such as ``nn.CrossEntropyLoss``, or a function ``loss(raw, target)``: the softmax
        of its raw outputs, for labels the sigmoid.

    loss_params : dict, default=None
        Parameters of the loss, those of a function or class of yours, too. In `set_params` and in
        the grid of a search ``loss__gamma`` stands for the entry ``"gamma"``. The losses by name
        have:

        - "log_loss": ``label_smoothing=0.0``, the share of the target, in [0, 1), that is spread
          evenly; ``pos_weight=None``, a factor for positive targets, those of ``classes_[1]``, or
          one per label (binary, multilabel; `class_weight` takes any class by its label);
          ``weight=None``, a factor per class (multiclass).
        - "cross_entropy", "nll": ``label_smoothing=0.0`` and ``weight=None``, as above.
        - "bce": ``label_smoothing=0.0`` and ``pos_weight=None``, as above.
        - "hinge": in multiclass problems ``p=1``, or 2 for squares; ``margin=1.0``, above 0;
          ``weight=None``, as above.
        - "focal": ``gamma=2.0``, at least 0: how much less easy rows count.

    module : nn.Module, nn.Module class or callable, default=None
        Your own network instead of the built-in one, trained by skorch. An instance is copied,
        never trained in place. A class or function is called as
        ``module(n_features, n_outputs, **module_params)``; one that takes neither is called
        with `module_params` alone. One that names `input_shape` is told ``X.shape[1:]``, which may
        have any number of axes. Rows arrive in float32; integers too, unless the module refuses a
        float32 row and takes an int64 one (ids into an nn.Embedding) at the first fit.

    module_params : dict, default=None
        Keyword arguments of `module`. In `set_params`, and so in the grid of a search,
        ``module__width`` stands for the entry ``"width"``.

    dropout : float, list of float or "auto", default="auto"
        Probability in [0, 1) of dropping a unit after each hidden activation, rounded to a
        multiple of 1 / 256; not with "lbfgs".
        "auto" is 0.1 in layers of 16 units or more where rows are more than 1000, but at most 206
        for each column, else 0.

    init : str or callable, default="glorot_uniform"
        "glorot_uniform" draws as scikit-learn does. The name of a function of torch.nn.init, such
        as "kaiming_normal", or a callable that fills a tensor (fan_out, fan_in) in place, starts
        the intercepts at 0.

    standardize : bool or "auto", default="auto"
        Whether inputs are centred and scaled with the (weighted) statistics of the first fit; in
        `partial_fit` of the built-in network these follow the stream. Sparse inputs are scaled
        only. "auto" is True, and False with `module`. X of more than two
        axes cannot be standardised.

    numerical_embedding : {"periodic"} or None, default=None
        "periodic": every column of more than two values reaches the built-in network as
        [x, W cos(2 pi f x + b) + c], 16 frequencies f to 3 numbers, all of them trained, at a tenth
        of the learning rate and without L2. Columns of one or two values in the rows of positive
        weight, such as one-hot ones, pass through as they are; they are embedded from the call of
        `partial_fit`, or of `fit` with `warm_start`, on that shows a third. A stream's column that
        is constant in the first call counts as numeric. X must not be sparse.

    scoring : str, callable or None, default="loss"
        What early stopping watches: "loss" is the loss of the held-out rows (weighed by classes as
        training is), None the score of the estimator (accuracy), or any scorer of scikit-learn.

    max_grad_norm : float, "auto" or None, default="auto"
        Largest norm of the gradient, above 0; longer ones are scaled back. "auto" is 1.0 for
        "sgd" on the built-in network and None, no limit, for all else.

    class_weight : dict, list of dict, "balanced" or None, default=None
        Weights of the classes, multiplied into the sample weights. "balanced" is
        ``n_samples / (n_classes * bincount(y))``. In multilabel problems a dict, which then holds
        for every label, or a list with one dict per label.

    device : str or torch.device, default="cpu"
        Where to train and predict: "cpu", "cuda", "cuda:1", "mps", ...; "auto" is the first
        accelerator, else the CPU.

    skorch_callbacks : list, default=None
        skorch callbacks: instances, classes or factories. Training is then run by skorch. One that
        changes the learning rate needs ``learning_rate="constant"``, which leaves it alone.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels; ``arange(n_labels)`` in multilabel problems.

    n_features_in_ : int
        Number of features: ``X.shape[1]``, whatever the number of axes.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X had string column names.

    coefs_, intercepts_ : list of ndarray
        Weights (fan_in, fan_out) and intercepts (fan_out,) of each layer, in the dtype of X, for
        raw inputs and outputs: the standardisation is folded in. With `numerical_embedding` the
        first one has `n_features_in_` rows for the columns themselves, then 3 for what is made of
        each, which are 0 where a column passes through; the embedding is in `module_`.

    n_iter_ : int
        Number of epochs of the last fit.

    t_ : int
        Number of rows trained on so far.

    loss_ : float
        Loss of the last epoch, penalty included.

    loss_curve_ : list of float
        Loss of each epoch (not for "lbfgs").

    best_loss_ : float or None
        Smallest loss; None with early stopping.

    validation_loss_curve_ : list of float or None
        Loss of the held-out rows after each epoch, without penalty.

    validation_scores_ : list of float or None
        Score of the held-out rows after each epoch.

    best_validation_score_ : float or None
        With early stopping the score of the epoch whose weights were kept.

    alpha_ : float
        The number for `alpha` that does what was done: with "auto" nearly, on rows of weight 1.

    batch_size_ : int
        Rows in the largest batch.

    dropout_ : list of float
        Probability of dropping a unit, for each hidden layer (not with `module`).

    learning_rate_init_ : float
        The initial learning rate, or the peak of "onecycle".

    n_layers_ : int
        Number of layers, input and output included.

    n_outputs_ : int
        Number of outputs.

    out_activation_ : str
        Activation of the output layer.

    module_ : nn.Module
        The network in plain torch, for export: raw float32 features in, raw outputs out.

    device_ : str
        The device that was used.

    net_ : skorch.NeuralNet
        The net that skorch trained, if it did.

    See Also
    --------
    TorchRegressor : The same for numbers.
    sklearn.neural_network.MLPClassifier : scikit-learn's own.

    References
    ----------
    Glorot & Bengio (2010), "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS.

    Kingma & Ba (2015), "Adam: a method for stochastic optimization", ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from torchsk import TorchClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = TorchClassifier(hidden_layer_sizes=(20,), random_state=0).fit(X, y)
    >>> clf.predict(X[:2])
    array([0, 0])
    >>> clf.score(X, y) > 0.95
    True
    """

    classes_: np.ndarray

    _parameter_constraints: dict = {
        **BaseTorchMLP._parameter_constraints,
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        solver="sgd",
        alpha="auto",
        batch_size="auto",
        learning_rate="onecycle",
        learning_rate_init="auto",
        power_t=0.5,
        max_iter=50,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        loss="log_loss",
        loss_params=None,
        module=None,
        module_params=None,
        dropout="auto",
        init="glorot_uniform",
        standardize="auto",
        numerical_embedding=None,
        scoring="loss",
        max_grad_norm="auto",
        class_weight=None,
        device="cpu",
        skorch_callbacks=None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.loss = loss
        self.loss_params = loss_params
        self.module = module
        self.module_params = module_params
        self.dropout = dropout
        self.init = init
        self.standardize = standardize
        self.numerical_embedding = numerical_embedding
        self.scoring = scoring
        self.max_grad_norm = max_grad_norm
        self.class_weight = class_weight
        self.device = device
        self.skorch_callbacks = skorch_callbacks

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, *, X_val=None, y_val=None):
        """Fit the network to X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or (n_samples, ...) with \
                `module`
            Training data; also a pandas or polars DataFrame, a memmap or a torch tensor. With
            `module` of any shape beyond the first axis: images, sequences, token ids.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels; a binary matrix in multilabel problems.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, none negative, not all zero. Their scale matters only where `alpha`
            is a number.

        X_val, y_val : array-like, default=None
            Held-out rows, used instead of `validation_fraction` of the training rows. Without
            early stopping their loss and score are recorded only.

        Returns
        -------
        self : TorchClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data, a parameter or their combination is not valid, or if training diverges.
        """
        return self._fit(X, y, sample_weight, X_val, y_val)

    @available_if(lambda self: self._has_epochs())
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None, classes=None):
        """Train one more epoch on X and y, at a constant rate unless a schedule is named.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or (n_samples, ...) with \
                `module`
            Training data.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows. Their scale matters only where `alpha` is a number.

        classes : array-like of shape (n_classes,), default=None
            All classes that will ever come; needed at the first call only.

        Returns
        -------
        self : TorchClassifier
            The estimator, trained on.
        """
        with self._restored_on_error():
            check_partial_fit_first_call(self, as_numpy(classes))
            return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X):
        """Predict class labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or (n_samples, ...) with \
                `module`
            The rows to predict.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
            The predicted classes.
        """
        (decision,) = self._read(X, lambda head, raw: head.decision(raw))
        return self._fitted.targets.predict(decision)

    def decision_function(self, X):
        """Return logits or margins; above 0 if and only if predicted positive.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or (n_samples, ...) with \
                `module`
            The rows to predict.

        Returns
        -------
        decision : ndarray of shape (n_samples,) or (n_samples, n_classes)
            One column in binary problems, else one per class or label.
        """
        (decision,) = self._read(X, lambda head, raw: head.decision(raw))
        return decision[:, 0] if self._fitted.targets.problem == "binary" else decision

    @available_if(lambda self: self._check_proba())
    def predict_proba(self, X):
        """Predict class probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or (n_samples, ...) with \
                `module`
            The rows to predict.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            Rows sum to 1, except in multilabel problems: one probability per label.
        """
        (proba,) = self._read(X, lambda head, raw: head.inverse_link(raw))
        if self._fitted.targets.problem != "binary":
            return proba
        if len(self.classes_) == 1:
            return np.ones_like(proba)
        return np.concatenate([1 - proba, proba], axis=1)

    @available_if(lambda self: self._check_proba())
    def predict_log_proba(self, X):
        """Predict logarithms of class probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or (n_samples, ...) with \
                `module`
            The rows to predict.

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes)
            ``log(predict_proba(X))``, taken from the logits: finite also where a probability is
            too small for the dtype of X.
        """
        (log_proba,) = self._read(X, lambda head, raw: head.log_proba(raw))
        return np.zeros_like(log_proba[:, :1]) if len(self.classes_) == 1 else log_proba

    def score(self, X, y, sample_weight=None):
        """Return the accuracy; in multilabel problems the share of rows with every label right.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), or (n_samples, ...) with \
                `module`
            Test rows.

        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Their classes.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        score : float
            At most 1.
        """
        return super().score(X, as_numpy(y), as_numpy(sample_weight))

    def _learn(self, y, before, incremental):
        if before is None:
            targets, y = Labels.learn(y, self.classes_ if incremental else None)
        else:
            targets = before.targets
            y = targets.encode(y, complete=not incremental)
        self.classes_ = targets.classes
        return targets, y

    def _check_proba(self):
        if hasattr(self, "_fitted") and not self._fitted.model.head.has_proba:
            raise AttributeError(
                f"loss={self.loss!r} gives margins, which are no probabilities. Use "
                "decision_function, another loss such as 'log_loss', or scikit-learn's "
                "CalibratedClassifierCV."
            )
        return True

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
