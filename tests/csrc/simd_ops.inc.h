/* Each operation of the vocabulary against scalar code, bit by bit, on ordinary and on
 * extreme operands. Included once per type by isa_functions.inc.h. */
#define SCALAR(f) SIMD_CAT(f, SIMD_CAT(SCALAR_SUFFIX_, REAL_BITS, ), )

static int NAME(same)(real a, real b)
{
    return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0;
}

static real NAME(operand)(int i)
{
    static const real extreme[] = {
        (real)0,           (real)-0.0,          (real)1,           (real)-1,
        (real)0.5,         (real)-2.5,          (real)INFINITY,    (real)-INFINITY,
        (real)NAN,         NAME(MIN_NORMAL),    -NAME(MIN_NORMAL), NAME(MAX_NORMAL),
        -NAME(MAX_NORMAL), NAME(MIN_NORMAL) / 8};
    const int count = (int)(sizeof extreme / sizeof *extreme);
    return i % 3 ? (real)((double)(rand() - RAND_MAX / 2) / (RAND_MAX / 8))
                 : extreme[rand() % count];
}

static int NAME(check)(const char *operation, const real *got, const real *expected)
{
    for (int i = 0; i < VLEN; i++)
        if (!NAME(same)(got[i], expected[i])) {
            printf("%s f%d %s lane %d: %a, expected %a\n", ISA_NAME, REAL_BITS,
                   operation, i, (double)got[i], (double)expected[i]);
            return 1;
        }
    return 0;
}

/* The scalar must see the same operands; fma has two roundings where the ISA has none.
 */
#define CHECK(operation, vector, scalar)                   \
    do {                                                   \
        v_store(got, vector);                              \
        for (int i = 0; i < VLEN; i++) {                   \
            real x = a[i], y = b[i], z = c[i];             \
            (void)x, (void)y, (void)z;                     \
            expected[i] = scalar;                          \
        }                                                  \
        failures += NAME(check)(operation, got, expected); \
    } while (0)

static int NAME(arithmetic)(void)
{
    real a[VLEN], b[VLEN], c[VLEN], got[VLEN], expected[VLEN];
    const real one = 1, zero = 0;
    int failures = 0;
    for (int trial = 0; trial < 20000; trial++) {
        for (int i = 0; i < VLEN; i++) {
            a[i] = NAME(operand)(rand());
            b[i] = rand() % 8 ? NAME(operand)(rand()) : a[i];
            c[i] = NAME(operand)(rand());
        }
        vreal va = v_load(a), vb = v_load(b), vc = v_load(c);
        vreal v1 = v_set1(one), v0 = v_zero();
        CHECK("load", va, x);
        CHECK("set1", v_set1(a[0]), ((void)x, a[0]));
        for (int first = 0; first < VLEN; first += V_FEW) {
            for (int j = 0; j < V_FEW; j++) {
                CHECK("few_of", v_pick(v_few_of(va, first / V_FEW), j), a[first + j]);
                CHECK("load_few", v_pick(v_load_few(a + first), j), a[first + j]);
            }
        }
        CHECK("add", v_add(va, vb), x + y);
        CHECK("sub", v_sub(va, vb), x - y);
        CHECK("mul", v_mul(va, vb), x * y);
        CHECK("div", v_div(va, vb), x / y);
        CHECK("fma", v_fma(va, vb, vc), TEST_FMA(x, y, z));
        CHECK("fnma", v_fnma(va, vb, vc), TEST_FNMA(x, y, z));
        CHECK("min", v_min(va, vb), x < y ? x : y);
        CHECK("max", v_max(va, vb), x > y ? x : y);
        CHECK("abs", v_abs(va), SCALAR(fabs)(x));
        CHECK("neg", v_neg(va), -x);
        CHECK("sqrt", v_sqrt(v_abs(va)), SCALAR(sqrt)(SCALAR(fabs)(x)));
        CHECK("copysign", v_copysign(va, vb), SCALAR(copysign)(x, y));
        CHECK("lt", v_select(v_lt(va, vb), v1, v0), x < y ? one : zero);
        CHECK("le", v_select(v_le(va, vb), v1, v0), x <= y ? one : zero);
        CHECK("gt", v_select(v_gt(va, vb), v1, v0), x > y ? one : zero);
        CHECK("eq", v_select(v_eq(va, vb), v1, v0), x == y ? one : zero);
        CHECK("isnan", v_select(v_isnan(va), v1, v0), isnan(x) ? one : zero);
        int count = 0;
        for (int i = 0; i < VLEN; i++)
            count += a[i] < b[i];
        failures += v_count(v_lt(va, vb)) != count;
        failures += v_count2(v_lt(va, vb), v_lt(va, vb)) != 2 * count;
        failures += v_count2(v_lt(va, vb), v_lt(va, va)) != count;
        failures += v_count2(v_lt(va, va), v_lt(va, vb)) != count;
        CHECK("select", v_select(v_lt(va, vb), vc, va), x < y ? z : x);

        for (int i = 0; i < VLEN; i++) { /* v_round's domain, halves among it */
            a[i] = (real)(rand() % 4001 - 2000) * (real)0.5;
            b[i] = (real)(rand() % 252 - 126);
            c[i] = (real)(rand() % 500 - 250);
        }
        CHECK("round", v_round(v_load(a)), SCALAR(rint)(x));
        CHECK("exp2i", v_exp2i(v_load(b)), SCALAR(ldexp)(one, (int)y));
        for (int i = 0; i < VLEN; i++)
            a[i] = (real)0.25 + (real)3.75 * (real)rand() / (real)RAND_MAX;
        CHECK("ldexp", v_ldexp(v_load(a), v_load(c)), SCALAR(ldexp)(x, (int)z));
        if (REAL_BITS == 64)
            for (int i = 0; i < VLEN; i++)
                c[i] = (real)(rand() % 4000 - 2000);
        CHECK("ldexp", v_ldexp(v_load(a), v_load(c)), SCALAR(ldexp)(x, (int)z));

        real folded[VLEN];
        memcpy(folded, a, sizeof folded);
        for (int half = VLEN / 2; half > 0; half /= 2)
            for (int i = 0; i < half; i++)
                folded[i] += folded[i + half];
        CHECK("reduce_add", v_set1(v_reduce_add(v_load(a))), folded[0]);
#if V_HAS_LOOKUP
        static const real table[16] = {0, 1, 2,  3,  4,  5,  6,  7,
                                       8, 9, 10, 11, 12, 13, 14, 15};
        for (int i = 0; i < VLEN; i++)
            a[i] =
                SCALAR(ldexp)((real)1 + (real)rand() / (real)RAND_MAX, rand() % 12 - 6);
        for (int i = 0; i < VLEN; i++) {
            real x = a[i] < (real)0.0625 ? (real)0.0625 : a[i] > 12 ? (real)12 : a[i];
            int exponent;
            real mantissa = SCALAR(frexp)(x, &exponent); /* in [1/2, 1) */
            int index = 2 * (exponent - 1 + REAL_BIAS) + (mantissa >= (real)0.75);
            expected[i] = table[index & 15];
        }
        v_store(got, v_lookup(table, v_half_octave(v_load(a), (real)0.0625, (real)12)));
        failures += NAME(check)("lookup", got, expected);
#endif
    }
    return failures;
}
#undef CHECK

/* Part vectors at both ends of a page between two that must not be touched: a lane too
 * many ends the program. */
static int NAME(parts)(char *page, ptrdiff_t page_size)
{
    int failures = 0;
    for (ptrdiff_t n = 0; n < VLEN; n++)
        for (int end = 0; end < 2; end++) {
            real *p =
                end ? (real *)(void *)(page + page_size) - n : (real *)(void *)page;
            real source[VLEN], got[VLEN], expected[VLEN];
            memset(page, 0x5a, (size_t)page_size);
            for (ptrdiff_t i = 0; i < n; i++)
                p[i] = (real)(i + 1);
            for (ptrdiff_t i = 0; i < VLEN; i++) {
                source[i] = -(real)(i + 1);
                expected[i] = i < n ? (real)(i + 1) : (real)0;
            }
            v_store(got, v_load_part(p, n));
            failures += NAME(check)("load_part", got, expected);
            v_store_part(p, v_load(source), n);
            failures += memcmp(p, source, (size_t)n * sizeof(real)) != 0;
            for (char *q = page; q < page + page_size; q++) {
                int inside = q >= (char *)p && q < (char *)(p + n);
                failures += !inside && *q != 0x5a;
            }
        }
    return failures;
}

static int NAME(simd)(char *page, ptrdiff_t page_size)
{
    return NAME(arithmetic)() + NAME(parts)(page, page_size);
}
#undef SCALAR
