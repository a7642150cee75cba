// One training step of oneDNN's vanilla RNN primitive, behind five C functions.
//
// Built by bench/native.py into a shared library that bench/onednn.py loads, so that
// the contender is timed by the same worker, with the same clock, as the others.
//
// A step starts from plain row-major parameters, as they are after an optimizer's
// step, and oneDNN reorders them into the layout it prefers: that is timed. What a step
// of the others pays and this one does not: the gradients of W, V and b are added to
// what is there (oneDNN's convention), and nobody zeroes them between timed steps;
// every buffer is allocated beforehand.

#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include <dnnl.hpp>

namespace
{

using dnnl::memory;
using Arguments = std::unordered_map<int, memory>;
using tag = memory::format_tag;

// A memory of the layout a primitive prefers, filled from a plain one at each step
// unless the two are the same.
struct Preferred {
    memory plain, preferred;
    bool same;

    Preferred(const memory &plain_, const memory::desc &desc,
              const dnnl::engine &engine)
        : plain(plain_), same(plain_.get_desc() == desc)
    {
        preferred = same ? plain : memory(desc, engine);
    }

    void fill(dnnl::stream &stream)
    {
        if (!same)
            dnnl::reorder(plain, preferred).execute(stream, plain, preferred);
    }

    void empty(dnnl::stream &stream)
    {
        if (!same)
            dnnl::reorder(preferred, plain).execute(stream, preferred, plain);
    }
};

struct Rnn {
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    std::vector<Preferred> inputs, outputs;
    dnnl::primitive forward, backward;
    Arguments forward_args, backward_args;
    bool forward_only = false;
    memory z; // (T, B, H)

    memory plain(const memory::dims &dims, tag format, const void *data = nullptr)
    {
        memory m({dims, memory::data_type::f32, format}, engine);
        const size_t size = m.get_desc().get_size();
        if (data)
            std::memcpy(m.get_data_handle(), data, size);
        else
            std::memset(m.get_data_handle(), 0, size);
        return m;
    }

    memory input(const memory &from, const memory::desc &desc)
    {
        inputs.emplace_back(from, desc, engine);
        return inputs.back().preferred;
    }

    memory output(const memory &to, const memory::desc &desc)
    {
        outputs.emplace_back(to, desc, engine);
        memory m = outputs.back().preferred;
        std::memset(m.get_data_handle(), 0, m.get_desc().get_size());
        return m;
    }
};

memory::desc any(const memory::dims &dims)
{
    return {dims, memory::data_type::f32, tag::any};
}

std::string last_error;

} // namespace

extern "C" {

const char *rnn_error()
{
    return last_error.c_str();
}

const char *rnn_version()
{
    static char text[64];
    const dnnl_version_t *v = dnnl_version();
    std::snprintf(text, sizeof text, "%d.%d.%d", v->major, v->minor, v->patch);
    return text;
}

// activation: 0 tanh, 1 relu, 2 sigmoid. Returns NULL on failure; rnn_error says why.
void *rnn_new(ptrdiff_t T, ptrdiff_t B, ptrdiff_t I, ptrdiff_t H, int activation,
              int forward_only,
              const float *x,  // (T, B, I)   IN
              const float *W,  // (I, H)      IN
              const float *V,  // (H, H)      IN
              const float *b,  // (H)         IN
              const float *z0, // (B, H)      IN
              const float *dz, // (T, B, H)   IN
              float *dW, float *dV, float *db, float *dz0,
              float *dx) // OUT
try {
    using namespace dnnl;
    const algorithm sigma = activation == 0   ? algorithm::eltwise_tanh
                            : activation == 1 ? algorithm::eltwise_relu
                                              : algorithm::eltwise_logistic;
    const auto direction = rnn_direction::unidirectional_left2right;
    const auto kind =
        forward_only ? prop_kind::forward_inference : prop_kind::forward_training;
    const memory::dims xs{T, B, I}, zs{T, B, H}, states{1, 1, B, H};
    const memory::dims Ws{1, 1, I, 1, H}, Vs{1, 1, H, 1, H}, bs{1, 1, 1, H};

    auto r = std::make_unique<Rnn>();
    r->forward_only = forward_only != 0;
    memory mx = r->plain(xs, tag::tnc, x), mz0 = r->plain(states, tag::ldnc, z0);
    memory mW = r->plain(Ws, tag::ldigo, W), mV = r->plain(Vs, tag::ldigo, V);
    memory mb = r->plain(bs, tag::ldgo, b), mdz = r->plain(zs, tag::tnc, dz);
    memory last = r->plain(states, tag::ldnc);
    r->z = r->plain(zs, tag::tnc);
    const memory::desc xd = mx.get_desc(), zd = r->z.get_desc();
    const memory::desc sd = mz0.get_desc(), bd = mb.get_desc();

#if DNNL_VERSION_MAJOR >= 3
    vanilla_rnn_forward::primitive_desc fpd(r->engine, kind, sigma, direction, xd, sd,
                                            any(Ws), any(Vs), bd, zd, sd);
#else
    vanilla_rnn_forward::primitive_desc fpd(
        vanilla_rnn_forward::desc(kind, sigma, direction, xd, sd, any(Ws), any(Vs), bd,
                                  zd, sd),
        r->engine);
#endif
    r->forward = vanilla_rnn_forward(fpd);
    r->forward_args = {{DNNL_ARG_SRC_LAYER, mx},
                       {DNNL_ARG_SRC_ITER, mz0},
                       {DNNL_ARG_WEIGHTS_LAYER, r->input(mW, fpd.weights_layer_desc())},
                       {DNNL_ARG_WEIGHTS_ITER, r->input(mV, fpd.weights_iter_desc())},
                       {DNNL_ARG_BIAS, mb},
                       {DNNL_ARG_DST_LAYER, r->z},
                       {DNNL_ARG_DST_ITER, last}};
    if (forward_only)
        return r.release();

    memory workspace(fpd.workspace_desc(), r->engine);
    r->forward_args[DNNL_ARG_WORKSPACE] = workspace;
#if DNNL_VERSION_MAJOR >= 3
    vanilla_rnn_backward::primitive_desc bpd(
        r->engine, prop_kind::backward, sigma, direction, xd, sd, any(Ws), any(Vs), bd,
        zd, sd, xd, sd, any(Ws), any(Vs), bd, zd, sd, fpd);
#else
    vanilla_rnn_backward::primitive_desc bpd(
        vanilla_rnn_backward::desc(prop_kind::backward, sigma, direction, xd, sd,
                                   any(Ws), any(Vs), bd, zd, sd, xd, sd, any(Ws),
                                   any(Vs), bd, zd, sd),
        r->engine, fpd);
#endif
    r->backward = vanilla_rnn_backward(bpd);
    const auto own = [&](const memory::desc &desc, float *data) {
        return memory(desc, r->engine, data);
    };
    memory mdW = own(mW.get_desc(), dW), mdV = own(mV.get_desc(), dV);
    std::memset(db, 0, bd.get_size());
    r->backward_args = {
        {DNNL_ARG_SRC_LAYER, mx},
        {DNNL_ARG_SRC_ITER, mz0},
        {DNNL_ARG_WEIGHTS_LAYER, r->input(mW, bpd.weights_layer_desc())},
        {DNNL_ARG_WEIGHTS_ITER, r->input(mV, bpd.weights_iter_desc())},
        {DNNL_ARG_BIAS, mb},
        {DNNL_ARG_DST_LAYER, r->z},
        {DNNL_ARG_DST_ITER, last},
        {DNNL_ARG_WORKSPACE, workspace},
        {DNNL_ARG_DIFF_DST_LAYER, mdz},
        {DNNL_ARG_DIFF_DST_ITER, r->plain(states, tag::ldnc)},
        {DNNL_ARG_DIFF_SRC_LAYER, own(xd, dx)},
        {DNNL_ARG_DIFF_SRC_ITER, own(sd, dz0)},
        {DNNL_ARG_DIFF_WEIGHTS_LAYER, r->output(mdW, bpd.diff_weights_layer_desc())},
        {DNNL_ARG_DIFF_WEIGHTS_ITER, r->output(mdV, bpd.diff_weights_iter_desc())},
        {DNNL_ARG_DIFF_BIAS, own(bd, db)}};
    return r.release();
} catch (const std::exception &error) {
    last_error = error.what();
    return nullptr;
}

// One step: this is what is timed. Returns 0, or -1 on failure.
int rnn_step(void *handle)
try {
    Rnn *r = static_cast<Rnn *>(handle);
    for (Preferred &p : r->inputs)
        p.fill(r->stream);
    r->forward.execute(r->stream, r->forward_args);
    if (!r->forward_only)
        r->backward.execute(r->stream, r->backward_args);
    r->stream.wait();
    return 0;
} catch (const std::exception &error) {
    last_error = error.what();
    return -1;
}

// Bring the gradients into their plain layout; returns the states (T, B, H).
const float *rnn_result(void *handle)
{
    Rnn *r = static_cast<Rnn *>(handle);
    for (Preferred &p : r->outputs)
        p.empty(r->stream);
    r->stream.wait();
    return static_cast<const float *>(r->z.get_data_handle());
}

void rnn_free(void *handle)
{
    delete static_cast<Rnn *>(handle);
}

} // extern "C"
