// What libm and the compiler's own code compute, in three precisions, as one hash for each function; under each rounding
// and, for those that may trap, with the flags they raise.
#include <fenv.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint64_t hash, state;

static void mix(const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    while (n--) hash = (hash ^ *p++) * 1099511628211u;
}

static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

// NaNs differ in their sign by the order of operands, which is the compiler's choice and not the processor's.
#define OPERATIONS(T, NAME, S)                                                                                     \
    static T draw_##NAME(void)                                                                                     \
    {                                                                                                              \
        static const T special[] = {0, -0.0, 1, -1, 0.5, 2, 3, 1e-30, -1e30, INFINITY, -INFINITY, NAN};            \
        uint64_t r = next();                                                                                       \
        if (r % 8 == 0) return special[r / 8 % 12];                                                                \
        T value = (T)(int64_t)next();                                                                              \
        return ldexp##S(value, (int)(r / 8 % 140) - 130);                                                          \
    }                                                                                                              \
    static void take_##NAME(T value)                                                                               \
    {                                                                                                              \
        unsigned char bytes[sizeof(T)] = {0};                                                                      \
        int class = fpclassify(value);                                                                             \
        mix(&class, sizeof class);                                                                                 \
        if (isnan(value)) return;                                                                                  \
        memcpy(bytes, &value, sizeof(T) > 10 || sizeof(T) == 12 ? 10 : sizeof(T));                                 \
        mix(bytes, sizeof bytes);                                                                                  \
    }                                                                                                              \
    static T own_##NAME(T a, T b) { return (a * b + a / (b + 3)) - (b - a) * (T)0.1; }                             \
    static T integers_##NAME(T a, T b)                                                                             \
    {                                                                                                              \
        if (!(a > -1e15 && a < 1e15)) return b;                                                                    \
        return (T)(int64_t)a + (T)(int32_t)(fmod##S(a, 1e9)) + (T)(uint32_t)(int64_t)a + (T)lrint##S(fmod##S(a, 1e9)); \
    }                                                                                                              \
    static T order_##NAME(T a, T b)                                                                                \
    {                                                                                                              \
        return (a < b) + 2 * (a <= b) + 4 * (a == b) + 8 * isgreater(a, b) + 16 * isunordered(a, b) + (a > 0 ? 32 : 64); \
    }                                                                                                              \
    static T one_##NAME(int which, T a, T b)                                                                       \
    {                                                                                                              \
        int exponent;                                                                                              \
        switch (which) {                                                                                           \
        case 0: return own_##NAME(a, b);                                                                           \
        case 1: return integers_##NAME(a, b);                                                                      \
        case 2: return order_##NAME(a, b);                                                                         \
        case 3: return sqrt##S(a);                                                                                 \
        case 4: return fmod##S(a, b);                                                                              \
        case 5: return remainder##S(a, b);                                                                         \
        case 6: return rint##S(a);                                                                                 \
        case 7: return floor##S(a) + ceil##S(b) - trunc##S(a);                                                     \
        case 8: return frexp##S(a, &exponent) + exponent;                                                          \
        case 9: return fma##S(a, b, a);                                                                            \
        case 10: return sin##S(a);                                                                                 \
        case 11: return cos##S(a);                                                                                 \
        case 12: return tan##S(a);                                                                                 \
        case 13: return atan2##S(a, b);                                                                            \
        case 14: return exp##S(a);                                                                                 \
        case 15: return expm1##S(a);                                                                               \
        case 16: return log##S(a);                                                                                 \
        case 17: return log1p##S(a);                                                                               \
        case 18: return log2##S(a);                                                                                \
        case 19: return pow##S(a, b);                                                                              \
        case 20: return cbrt##S(a);                                                                                \
        case 21: return hypot##S(a, b);                                                                            \
        case 22: return sinh##S(a);                                                                                \
        case 23: return tanh##S(a);                                                                                \
        case 24: return asin##S(a);                                                                                \
        case 25: return erf##S(a);                                                                                 \
        case 26: return lgamma##S(a);                                                                              \
        case 27: return nextafter##S(a, b);                                                                        \
        case 28: return scalbn##S(a, (int)(next() % 64) - 32);                                                     \
        default: return ldexp##S(a, -16440);                                                                       \
        }                                                                                                          \
    }                                                                                                              \
    static void run_##NAME(int rounds)                                                                             \
    {                                                                                                              \
        static const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};                          \
        for (int which = 0; which < 30; which++)                                                                   \
            for (int mode = 0; mode < 4; mode++) {                                                                 \
                state = 88172645463325252u + which;                                                                \
                hash = 14695981039346656037u;                                                                      \
                for (int round = 0; round < rounds; round++) {                                                     \
                    volatile T a = draw_##NAME(), b = draw_##NAME();                                               \
                    fesetround(modes[mode]);                                                                       \
                    feclearexcept(FE_ALL_EXCEPT);                                                                  \
                    T value = one_##NAME(which, a, b);                                                             \
                    int raised = fetestexcept(FE_ALL_EXCEPT);                                                      \
                    fesetround(FE_TONEAREST);                                                                      \
                    take_##NAME(value);                                                                            \
                    mix(&raised, sizeof raised);                                                                   \
                }                                                                                                  \
                printf(#NAME " %d %d %016llx\n", which, mode, (unsigned long long)hash);                           \
            }                                                                                                      \
    }

OPERATIONS(float, single, f)
OPERATIONS(double, double, )
OPERATIONS(long double, extended, l)

int main(void)
{
    run_single(1000);
    run_double(1000);
    run_extended(1000);
}
