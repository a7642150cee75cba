"""The training loop: gradients, clipping, an update, and a record of each step.

A run is a function of its arguments. Stopped at any step and resumed from its
checkpoint, it ends with the bits with which it would have ended uninterrupted.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bptt import _checkpoint
from bptt._checkpoint import Run
from bptt._inputs import ErrorClip, as_budget, as_error_clip
from bptt._interrupts import Interrupts
from bptt._progress import Callback, Progress, bar
from bptt._validation import as_flag, as_number, as_positive, as_size
from bptt._walk import Walk
from bptt.clipping import clip_norm
from bptt.data import Batches, Data, as_batch, as_batches
from bptt.flow.regulariser import OmegaTerm, as_term
from bptt.history import History, Record
from bptt.network import Network
from bptt.optimizers import Optimizer
from bptt.serialization import check_path

Validation = Data | Callable[[Network], float]
T = TypeVar("T")


def train(
    network: Network,
    batches: Batches | Data,
    *,
    optimizer: Optimizer,
    steps: int | None = None,
    epochs: int | None = None,
    k1: int | None = None,
    k2: int | None = None,
    clip: float | None = None,
    clip_error: float | None = None,
    clip_error_value: float | None = None,
    omega: float | OmegaTerm | None = None,
    memory: int | str | None = None,
    nonfinite: str = "raise",
    validation: Validation | None = None,
    validate_every: int | None = None,
    patience: int | None = None,
    callbacks: Iterable[Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1000,
    resume: bool = False,
    progress: Progress = None,
    seed: int = 0,
) -> History:
    """Train a network, in place.

    Parameters
    ----------
    network : Network
        Whose parameters are changed.
    batches : callable, or a batch
        The batch of each step, ``batches(step) -> (x, target)`` with step from 0, or
        (x, target, lengths), or a `bptt.data.Batch`, see `bptt.data`; or one batch for
        all steps.
    optimizer : Optimizer
        What makes a step of a gradient.
    steps, epochs : int
        One of them: the total number of steps, or of passes over ``len(batches)``
        steps. A resumed run makes those that are left.
    k1, k2 : int, optional
        Truncated BPTT, see `bptt.truncation.truncated`: each batch is walked through in
        pieces of k1 steps of time, each of which is a step of the run: an update from
        the loss of the piece, whose gradient goes back k2 >= k1 steps, by default k1,
        but not beyond the batch. All batches must have as many steps of time, padding
        included: a piece that is nothing else is a step of loss 0 and gradient 0. No
        gradient goes back over a reset, and a sequence starts from 0 there.
    clip : float, optional
        Threshold of the gradient's norm over all parameters, see `bptt.clip_norm`.
    clip_error, clip_error_value : float, optional
        Threshold of the norm, and of each entry, of the error dL/dz[t] of a sequence as
        it flows back, see `bptt.backward`; with k1 too. What comes of it meets clip.
    omega : float or bptt.flow.OmegaTerm, optional
        Weight of the regulariser that keeps the length of errors, `bptt.flow.omega`,
        whose gradient is added before clipping; for a network of one layer, without
        k1. A number is a weight of the sum over all steps, through everything; the
        gradient of the paper is that of ``OmegaTerm(weight, through="V")``.
    memory : int or str, optional
        Bytes for the states of a step, as in `Network.loss_and_gradients`; without k1,
        whose pieces keep all of theirs. A validation keeps all as well.
    nonfinite : {"raise", "zero", "pass"}
        What a gradient with a NaN or an infinity gets, see `bptt.clip_norm`. The state
        of a stateful network is then that before the batch.
    validation : batch or callable, optional
        Data for `Network.evaluate`, or a function from the network to a float.
    validate_every : int, optional
        Steps between two validations; the default is an epoch, or 100 steps where
        there is one batch alone or no length of an epoch.
    patience : int, optional
        Stop after so many validations in a row without a new lowest loss, of which a
        NaN is none; at the end the network, and with it the checkpoint, gets back the
        parameters of the lowest.
    callbacks : iterable of callable
        Each is called with the `Record` of every step; one that returns True stops.
    checkpoint : str or path, optional
        File for the state of the run, written every checkpoint_every steps, at the
        end, and on Ctrl-C. It is a model file too.
    checkpoint_every : int
        Steps between two checkpoints.
    resume : bool
        Whether to continue from the checkpoint, where that file exists.
    progress : bool or callable, optional
        Whether to show a bar; by default where tqdm is installed and stderr is a
        terminal. A function from a `Record` to a str says what stands beside it.
    seed : int
        Where dropout comes from, together with the number of the step.

    Returns
    -------
    History
        One `Record` for each step.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C: between two steps, with the checkpoint written.
    NonFiniteGradientError
        A gradient with a NaN or an infinity; its step has not been made.
    ModelFileError
        The checkpoint to resume from is damaged, or is one of another run.
    TypeError, ValueError
        Arguments that do not fit.

    Notes
    -----
    A stateful network keeps its state from step to step, and is reset where an epoch
    begins. What validation and callbacks do to that state by reading with the network
    is undone.

    Examples
    --------
    >>> import numpy as np
    >>> from bptt.optimizers import Adam
    >>> network = Network(1, 8, 1, loss="squared_error", seed=0)
    >>> x = np.linspace(-1, 1, 20, dtype=np.float32).reshape(20, 1, 1)
    >>> history = train(network, (x, x**2), optimizer=Adam(0.02), steps=200, clip=1.0)
    >>> bool(history.loss[-1] < history.loss[0] / 10)
    True
    """
    if not isinstance(network, Network):
        raise TypeError(f"network must be a bptt.Network, got {network!r}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer must be one of bptt.optimizers, as Adam(), got {optimizer!r}"
        )
    batch_of, epoch = as_batches(batches)
    walk = None
    if k1 is not None:
        state = network.state
        try:
            batch_of = walk = Walk(network, batch_of, k1, k2)
        finally:
            network.state = state
        epoch = epoch and epoch * walk.pieces
    elif k2 is not None:
        raise ValueError(f"k2 needs k1, the steps between two updates, got {k2} alone")
    if validate_every is None:
        validate_every = epoch if epoch and epoch > 1 else 100
    if patience is not None and validation is None:
        raise ValueError("patience needs a validation to watch, got None")
    for name, value in (("omega", omega), ("memory", memory)):
        if value is not None and k1 is not None:
            raise ValueError(
                f"{name} must be None with k1, for it looks at whole batches; "
                f"got {value}"
            )
    if as_flag("resume", resume) and checkpoint is None:
        raise ValueError("resume needs the name of a checkpoint, got None")
    trainer = _Trainer(
        run=Run(network, optimizer, walk),
        batch_of=batch_of,
        epoch=epoch,
        total=_total_steps(steps, epochs, epoch),
        clip=math.inf if clip is None else as_positive("clip", clip),
        error=as_error_clip(clip_error, clip_error_value),
        whole={"omega": as_term(omega), "memory": as_budget(memory, None)[0]},
        nonfinite=nonfinite,
        validation=_as_validation(validation),
        validate_every=as_size("validate_every", validate_every),
        patience=None if patience is None else as_size("patience", patience),
        callbacks=_as_callbacks(callbacks),
        path=None if checkpoint is None else check_path("checkpoint", checkpoint),
        checkpoint_every=as_size("checkpoint_every", checkpoint_every),
        seed=_as_seed(seed),
    )
    return trainer.train(resume, progress)


class _Trainer:
    """The loop of one run; `train` says what the arguments are."""

    def __init__(
        self,
        *,
        run: Run,
        batch_of: Batches,
        epoch: int | None,
        total: int,
        clip: float,
        error: ErrorClip,
        whole: dict[str, Any],
        nonfinite: str,
        validation: Callable[[Network], float] | None,
        validate_every: int,
        patience: int | None,
        callbacks: tuple[Callback, ...],
        path: Path | None,
        checkpoint_every: int,
        seed: int,
    ) -> None:
        self.run = run
        self.batch_of = batch_of
        self.epoch = epoch
        self.total = total
        self.clip = clip
        self.error = error
        self.whole = whole  # what is said of whole batches alone
        self.nonfinite = nonfinite
        self.validation = validation
        self.validate_every = validate_every
        self.patience = patience
        self.callbacks = callbacks
        self.path = path
        self.checkpoint_every = checkpoint_every
        self.seed = seed
        self.interrupts = Interrupts()

    def train(self, resume: bool, progress: Progress) -> History:
        """Make the steps that are left, and return the history of all."""
        run = self.run
        if resume and self.path is not None and self.path.exists():
            _checkpoint.restore(self.path, run, best=self.patience is not None)
        run.state = run.network.state
        start = len(run.history.records)
        with self.interrupts, bar(progress, self.total, start) as show:
            try:
                run.history.stopped = self._loop(show)
                if self.patience is not None:
                    with self.interrupts.held():
                        run.take_best()
                self._save(start)
            except BaseException as error:
                # The state of the step that was not completed is of no use.
                run.network.state = run.state
                if isinstance(error, KeyboardInterrupt):
                    self._save(start)
                raise
        return run.history

    def _loop(self, show: Callback) -> str:
        """Make steps until there is a reason to stop, and return it."""
        history = self.run.history
        while True:
            step = len(history.records)
            if self._validation_is_due(step):
                self._validate(step)
            if self.patience is not None and history.since_best() >= self.patience:
                return "patience"
            if step >= self.total:
                return "steps"
            record = self._step(step)
            show(record)
            answers = [self._ask(callback, record) for callback in self.callbacks]
            if any(answer is True for answer in answers):
                return "callback"
            if record.step % self.checkpoint_every == 0:
                self._save(0)

    def _step(self, step: int) -> Record:
        """Make one step, entirely or not at all."""
        run, network, optimizer = self.run, self.run.network, self.run.optimizer
        batch = self._ask(self.batch_of, step)
        batch = as_batch(f"batches({step}) must return", batch)
        if self.epoch and step % self.epoch == 0:
            network.reset()
        before = network.state
        seed = [self.seed, step]
        if run.walk is None:
            loss, grads = network.loss_and_gradients(
                batch.x,
                batch.target,
                lengths=batch.lengths,
                resets=batch.resets,
                seed=seed,
                **self.whole,
                **self.error,
            )
        else:
            loss, grads = run.walk.loss_and_gradients(step, batch, seed, self.error)
        params = grads.params
        clipped, norm = clip_norm(params, self.clip, nonfinite=self.nonfinite)
        if not math.isfinite(norm):
            # Or its NaN would be in all steps that follow.
            if network.state is not None:
                zeros = np.zeros_like(network.state)
                network.state = zeros if before is None else before
            if run.walk is not None:
                run.walk.forget()
        with self.interrupts.held():
            rate = optimizer.rate
            optimizer.update(network.params, clipped)
            run.state = network.state
            if run.walk is not None and self.path is not None:
                run.window = run.walk.arrays()
            return run.history.add(loss, norm, norm > self.clip, rate)

    def _ask(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function of the user's, and undo what it did to the state."""
        try:
            return function(*args)
        finally:
            self.run.network.state = self.run.state

    def _validation_is_due(self, step: int) -> bool:
        if self.validation is None or step == 0:
            return False
        done = self.run.history.validation
        if done and done[-1][0] == step:  # before the checkpoint that was resumed
            return False
        return step % self.validate_every == 0 or step == self.total

    def _validate(self, step: int) -> None:
        assert self.validation is not None
        run = self.run
        loss = as_number("validation", self._ask(self.validation, run.network))
        with self.interrupts.held():
            run.history.validation.append((step, loss))
            if self.patience is not None and run.history.since_best() == 0:
                run.best = {name: p.copy() for name, p in run.network.params.items()}

    def _save(self, start: int) -> None:
        """Write the checkpoint, where there is one and a step was made since start."""
        if self.path is not None and len(self.run.history.records) > start:
            with self.interrupts.held():
                _checkpoint.save(self.path, self.run)


def _as_callbacks(callbacks: Iterable[Callback]) -> tuple[Callback, ...]:
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks must be a list of functions, got {callbacks!r}")
    functions = tuple(callbacks)
    for function in functions:
        if not callable(function):
            raise TypeError(
                f"callbacks must be a list of functions, got one with {function!r}"
            )
    return functions


def _total_steps(steps: int | None, epochs: int | None, epoch: int | None) -> int:
    if (steps is None) == (epochs is None):
        raise ValueError(
            f"one of steps and epochs must be given, got {steps!r} and {epochs!r}"
        )
    if steps is not None:
        return as_size("steps", steps)
    if epoch is None:
        raise ValueError("epochs needs batches that have a length; give steps instead")
    if not epoch:
        raise ValueError("epochs needs at least one batch, got batches of length 0")
    return as_size("epochs", epochs) * epoch


def _as_validation(
    validation: Validation | None,
) -> Callable[[Network], float] | None:
    if validation is None or callable(validation):
        return validation
    if not isinstance(validation, tuple):
        raise TypeError(
            "validation must be a batch (x, target) or a function of the network, "
            f"got {type(validation).__name__}"
        )
    x, target, lengths, resets = as_batch("validation must be", validation)
    return lambda network: network.evaluate(x, target, lengths=lengths, resets=resets)


def _as_seed(seed: int) -> int:
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"seed must be a non-negative integer, got {seed!r}")
    return number
