"""Optimizers: against their formulas, against PyTorch, and their memory."""

import pickle
import re

import numpy as np
import pytest
from tolerances import assert_within, optimizer_bound

from bptt import optimizers
from bptt.optimizers import SGD, Adam, AdamW, Optimizer, RMSProp
from bptt.schedules import cosine, linear_warmup, step_decay

STEPS = 20
CASES = [
    (SGD, {}),
    (SGD, {"weight_decay": 0.1}),
    (SGD, {"momentum": 0.9}),
    (SGD, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    (RMSProp, {}),
    (RMSProp, {"decay": 0.8, "momentum": 0.7, "weight_decay": 0.1, "eps": 1e-3}),
    (Adam, {}),
    (Adam, {"beta1": 0.5, "beta2": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    (AdamW, {}),
    (AdamW, {"beta1": 0.7, "beta2": 0.9, "weight_decay": 0.3}),
]
EVERY_CASE = pytest.mark.parametrize(("kind", "options"), CASES)


def random_params(rng, dtype=np.float64):
    return {
        "V": rng.standard_normal((3, 3)).astype(dtype),
        "b": rng.standard_normal(3).astype(dtype),
    }


def run(optimizer, params, gradients):
    for grads in gradients:
        optimizer.update(params, grads)
    return params


# Each optimizer by its formula, on one number or array, one step after the other.
def sgd(p, gradients, rate, momentum=0.0, nesterov=False, weight_decay=0.0):
    v = 0
    for g in gradients:
        g = g + weight_decay * p
        v = momentum * v + g
        p = p - rate * (g + momentum * v if nesterov else v)
    return p


def rmsprop(p, gradients, rate, decay=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0):
    s = v = 0
    for g in gradients:
        g = g + weight_decay * p
        s = decay * s + (1 - decay) * g**2
        v = momentum * v + g / (np.sqrt(s) + eps)
        p = p - rate * v
    return p


def adam(p, gradients, rate, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    m = s = 0
    for n, g in enumerate(gradients, 1):
        g = g + weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * g**2
        m_hat, s_hat = m / (1 - beta1**n), s / (1 - beta2**n)
        p = p - rate * m_hat / (np.sqrt(s_hat) + eps)
    return p


def adamw(p, gradients, rate, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
    m = s = 0
    for n, g in enumerate(gradients, 1):
        p = p - rate * weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * g**2
        m_hat, s_hat = m / (1 - beta1**n), s / (1 - beta2**n)
        p = p - rate * m_hat / (np.sqrt(s_hat) + eps)
    return p


FORMULAS = {SGD: sgd, RMSProp: rmsprop, Adam: adam, AdamW: adamw}


def check_formula(kind, options, optimizer, rng, dtype=np.float64):
    params = random_params(rng, dtype)
    gradients = [random_params(rng, dtype) for _ in range(STEPS)]
    expected = {
        name: FORMULAS[kind](
            np.float64(p), [np.float64(g[name]) for g in gradients], 0.03, **options
        )
        for name, p in params.items()
    }
    run(optimizer, params, gradients)
    for name, p in params.items():
        bound = optimizer_bound(STEPS, dtype)
        assert_within(p, expected[name].astype(dtype), bound, name)


def test_every_optimizer_has_a_formula():
    assert FORMULAS.keys() == set(optimizers.TABLE.values())


@EVERY_CASE
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_steps_are_those_of_the_formula(kind, options, dtype, rng):
    check_formula(kind, options, kind(0.03, **options), rng, dtype)


class ForgetsBias(Adam):
    """Adam that takes the running means as they are."""

    def _step(self, name, p, g, rate):
        steps, self.steps = self.steps, 10**6
        super()._step(name, p, g, rate)
        self.steps = steps


class DecaysTwice(AdamW):
    """AdamW that passes its decay through the mean squares too."""

    def _decay(self, p, g, rate):
        return super()._decay(p, g, rate) + self.weight_decay * p


class NesterovForgotten(SGD):
    """SGD that takes Nesterov's momentum for the plain one."""

    def _step(self, name, p, g, rate):
        self.nesterov = False
        super()._step(name, p, g, rate)


@pytest.mark.parametrize(
    ("kind", "wrong", "options"),
    [
        (Adam, ForgetsBias, {}),
        (AdamW, DecaysTwice, {}),
        (SGD, NesterovForgotten, {"momentum": 0.8, "nesterov": True}),
    ],
)
def test_a_planted_mistake_is_found(kind, wrong, options, rng):
    with pytest.raises(AssertionError):
        check_formula(kind, options, wrong(0.03, **options), rng)


@EVERY_CASE
def test_against_torch(kind, options, rng):
    torch = pytest.importorskip("torch")
    theirs = dict(options)
    if "beta1" in options:
        theirs["betas"] = (theirs.pop("beta1"), theirs.pop("beta2"))
    if "decay" in options:
        theirs["alpha"] = theirs.pop("decay")
    params = random_params(rng)
    gradients = [random_params(rng) for _ in range(STEPS)]
    tensors = {name: torch.tensor(p) for name, p in params.items()}
    torch_kind = getattr(torch.optim, kind.__name__.replace("RMSProp", "RMSprop"))
    optimizer = torch_kind(list(tensors.values()), lr=0.03, **theirs)
    for grads in gradients:
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[name])
        optimizer.step()
    run(kind(0.03, **options), params, gradients)
    for name, p in params.items():
        assert_within(p, tensors[name].numpy(), optimizer_bound(STEPS, p.dtype), name)


@EVERY_CASE
def test_the_memory_is_saved_and_restored_bit_for_bit(kind, options, rng):
    gradients = [random_params(rng, np.float32) for _ in range(STEPS)]
    params = random_params(rng, np.float32)
    whole = run(
        kind(0.03, **options), {n: p.copy() for n, p in params.items()}, gradients
    )

    first, second = kind(0.03, **options), kind(0.03, **options)
    run(first, params, gradients[:7])
    saved = {name: array.copy() for name, array in first.state.items()}
    second.load_state(saved)
    run(second, params, gradients[7:])
    for name, p in params.items():
        assert p.tobytes() == whole[name].tobytes()
    assert second.steps == STEPS
    # What was loaded is a copy: the saved arrays are as they were.
    assert all((saved[n] == a).all() for n, a in first.state.items())


@EVERY_CASE
def test_an_optimizer_that_was_pickled_goes_on(kind, options, rng):
    one = kind(linear_warmup(cosine(0.1, 5), 2), **options)
    params, grads = ({"V": rng.standard_normal((3, 2))} for _ in range(2))
    one.update(params, grads)
    other, others = pickle.loads(pickle.dumps((one, params)))
    one.update(params, grads)
    other.update(others, grads)
    np.testing.assert_array_equal(others["V"], params["V"])
    assert pickle.loads(pickle.dumps(kind(**options))).rate == kind(**options).rate


@EVERY_CASE
def test_arrays_are_changed_in_place_and_gradients_are_not(kind, options, rng):
    params = random_params(rng)
    grads = random_params(rng)
    kept = {name: g.copy() for name, g in grads.items()}
    arrays = dict(params)
    for g in grads.values():
        g.flags.writeable = False
    optimizer = kind(0.03, **options)
    optimizer.update(params, grads)
    optimizer.update(params, grads)
    assert all(params[name] is arrays[name] for name in arrays)
    assert all((grads[name] == kept[name]).all() for name in kept)


def test_a_schedule_is_asked_for_the_number_of_updates_made():
    optimizer = SGD(step_decay(1.0, every=2, factor=0.5))
    p = {"c": np.zeros(1)}
    seen = []
    for _ in range(5):
        seen.append(optimizer.rate)
        optimizer.update(p, {"c": np.ones(1)})
    assert seen == [1, 1, 0.5, 0.5, 0.25]
    assert p["c"][0] == -sum(seen)


@pytest.mark.parametrize(
    ("params", "grads", "error", "message"),
    [
        (
            {"V": np.ones(2)},
            {"W": np.ones(2)},
            ValueError,
            "grads must have the names of params, V; got W",
        ),
        (
            {"V": np.ones(2), "W": np.ones(2)},
            {"V": np.ones(2), "W": np.ones(3)},
            ValueError,
            "grads['W'] must have shape (2,), got (3,)",
        ),
        (
            {"V": np.ones(2)},
            {"V": np.ones(2, np.float32)},
            TypeError,
            "grads['V'] must have dtype float64, got float32",
        ),
    ],
)
def test_gradients_that_do_not_fit_change_nothing(params, grads, error, message):
    optimizer = Adam(0.1)
    with pytest.raises(error) as caught:
        optimizer.update(params, grads)
    assert str(caught.value) == message
    assert all((p == 1).all() for p in params.values())
    assert optimizer.steps == 0


def test_a_read_only_parameter_leaves_the_others_as_they_were():
    params = {"W": np.ones(2), "V": np.ones(2)}
    params["V"].flags.writeable = False
    optimizer = Adam(0.1)
    with pytest.raises(
        ValueError, match=r"params\['V'\] must be writable, got it read"
    ):
        optimizer.update(params, {name: np.ones(2) for name in params})
    assert all((p == 1).all() for p in params.values())
    assert optimizer.state.keys() == {"steps"}


def test_memory_of_other_shapes_is_refused():
    optimizer = SGD(0.1, momentum=0.9)
    optimizer.update({"V": np.ones(2)}, {"V": np.ones(2)})
    with pytest.raises(
        ValueError, match=r"state\['momentum.V'\] must have shape \(3,\)"
    ):
        optimizer.update({"V": np.ones(3)}, {"V": np.ones(3)})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SGD(0), "learning_rate must be positive, got 0"),
        (lambda: SGD(float("nan")), "learning_rate must be positive, got nan"),
        (lambda: SGD(float("inf")), "learning_rate must be finite, got inf"),
        (lambda: SGD(momentum=1), "momentum must be from 0 to below 1, got 1"),
        (
            lambda: SGD(nesterov=True),
            "nesterov needs a momentum above 0, got momentum = 0",
        ),
        (
            lambda: SGD(weight_decay=-1),
            "weight_decay must be at least 0 and finite, got -1",
        ),
        (lambda: RMSProp(decay=1.5), "decay must be from 0 to below 1, got 1.5"),
        (lambda: RMSProp(eps=0), "eps must be positive, got 0"),
        (lambda: Adam(beta1=-0.1), "beta1 must be from 0 to below 1, got -0.1"),
        (lambda: AdamW(beta2=1), "beta2 must be from 0 to below 1, got 1"),
        (
            lambda: optimizers.get("adagrad"),
            "optimizer must be one of 'sgd', 'rmsprop', 'adam', 'adamw'; got 'adagrad'",
        ),
        (
            lambda: SGD().load_state({}),
            "state must hold 'steps', the number of updates made",
        ),
        (
            lambda: SGD().load_state({"steps": np.array(1), "mean.V": np.ones(1)}),
            "state of SGD has no entry 'mean.V'; its slots are momentum",
        ),
    ],
)
def test_bad_hyperparameters_are_told_of_in_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_a_hyperparameter_that_is_no_number_is_told_of():
    with pytest.raises(TypeError, match="momentum must be a number, got 'high'"):
        SGD(momentum="high")


def test_the_base_class_makes_no_step():
    with pytest.raises(NotImplementedError):
        Optimizer(0.1).update({"V": np.ones(1)}, {"V": np.ones(1)})
