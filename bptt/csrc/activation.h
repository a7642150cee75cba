/* The codes of the activations; activation.inc.h computes them. */
#ifndef BPTT_ACTIVATION_H
#define BPTT_ACTIVATION_H

enum bptt_activation {
    BPTT_IDENTITY,
    BPTT_SIGMOID,
    BPTT_TANH,
    BPTT_RELU,
    BPTT_LEAKY_RELU,
    BPTT_ELU,
    BPTT_SOFTPLUS,
    BPTT_SOFTSIGN,
    BPTT_HARD_SIGMOID,
    BPTT_SCALED_TANH,
    BPTT_THRESHOLDED_RELU,
    BPTT_AFFINE,
    BPTT_ACTIVATION_COUNT
};

#endif
