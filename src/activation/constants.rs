//! The constants and polynomials of the activations, for each type of sums. `kernels/activation.cuh` has the
//! same numbers.
//!
//! The polynomials were fitted by weighted least squares at Chebyshev points, in 50 digits. The weights make
//! the relative error of what a polynomial is for even: of e^r and of the tail. Coefficients were rounded to
//! the type from the lowest degree on, and those of higher degrees fitted anew after each. What remains:
//!
//! | | `f32` | `f64` |
//! |---|---|---|
//! | `exponential`, of degree 6 and 11 | 2^−28.0 | 2^−57.7 |
//! | `tail`, of degree 9 and 22 | 2^−25.5 | 2^−54.6 |

/// What the activations take of a type.
pub trait Constants: Sized {
    /// Where x s(−x), and the derivative's tail, round to 0, while e^p / `UNSCALE` is still normal.
    const LEAST_SILU: Self;
    const LEAST_GELU: Self;
    const LEAST_GELU_TANH: Self;

    /// 1 / ln 2.
    const LOG2_E: Self;
    /// ln 2, as a sum.
    const LN_2: Self;
    const LN_2_LOW: Self;
    /// 1.5 · 2^(digits − 1), where a number's last bit counts ones, and the biased exponent of 1 / `UNSCALE`.
    const SHIFT: Self;
    /// 2^−64 or 2^−256.
    const UNSCALE: Self;

    /// 1 / √(2π): the density of the normal distribution at 0.
    const DENSITY: Self;

    /// 2 √(2/π), as a sum. The first number is a multiple of the last bit of 2 p(x) / x for the largest x.
    const LINEAR: Self;
    const LINEAR_LOW: Self;
    /// 2 √(2/π) 0.044715, as a sum.
    const CUBIC: Self;
    const CUBIC_LOW: Self;

    /// e^r, for |r| ≤ (ln 2) / 2.
    fn exponential(r: Self) -> Self;

    /// (x + 4) Φ(−x) e^(x²/2), for x ≥ 0, as a polynomial of t = (x − 4) / (x + 4): the form of Shepherd and
    /// Laframboise (1981) for erfc.
    fn tail(t: Self) -> Self;

    /// 2^n / `UNSCALE`, from n + `SHIFT`.
    fn scaled_power(shifted: Self) -> Self;
}

/// c0 + t (c1 + t (c2 + …)).
macro_rules! polynomial {
    ($t:ident, $last:literal) => { $last };
    ($t:ident, $lowest:literal, $($higher:literal),+) => {
        Self::mul_add(polynomial!($t, $($higher),+), $t, $lowest)
    };
}

impl Constants for f32 {
    const LEAST_SILU: Self = -112.0;
    const LEAST_GELU: Self = -15.0;
    const LEAST_GELU_TANH: Self = -11.0;
    const LOG2_E: Self = std::f32::consts::LOG2_E;
    const LN_2: Self = std::f32::consts::LN_2;
    const LN_2_LOW: Self = -1.9046542e-9;
    const SHIFT: Self = 12583103.0;
    const UNSCALE: Self = 5.421011e-20;
    const DENSITY: Self = 0.3989423;
    const LINEAR: Self = 1.5957689;
    const LINEAR_LOW: Self = 1.930779e-7;
    const CUBIC: Self = 0.071354814;
    const CUBIC_LOW: Self = 2.3988325e-9;

    #[inline(always)]
    fn exponential(r: Self) -> Self {
        #[rustfmt::skip]
        let value = polynomial!(
            r, 1.0, 1.0, 0.49999988, 0.16666518, 0.04166965, 0.008368947, 0.0013745326
        );
        value
    }

    #[inline(always)]
    fn tail(t: Self) -> Self {
        #[rustfmt::skip]
        let value = polynomial!(
            t, 0.75528514, -0.60789657, 0.3871367, -0.1865238, 0.06040504, -0.00752338, -0.0035146791,
            0.00156634, 0.00017964355, -0.00013076937
        );
        value
    }

    #[inline(always)]
    fn scaled_power(shifted: Self) -> Self {
        Self::from_bits(shifted.to_bits() << 23)
    }
}

impl Constants for f64 {
    const LEAST_SILU: Self = -768.0;
    const LEAST_GELU: Self = -39.0;
    const LEAST_GELU_TANH: Self = -22.0;
    const LOG2_E: Self = std::f64::consts::LOG2_E;
    const LN_2: Self = std::f64::consts::LN_2;
    const LN_2_LOW: Self = 2.3190468138462996e-17;
    const SHIFT: Self = 6755399441057023.0;
    const UNSCALE: Self = 8.636168555094445e-78;
    const DENSITY: Self = 0.3989422804014327;
    const LINEAR: Self = 1.5957691216057341;
    const LINEAR_LOW: Self = -3.430362161966579e-15;
    const CUBIC: Self = 0.07135481627260025;
    const CUBIC_LOW: Self = -6.175149918155315e-19;

    #[inline(always)]
    fn exponential(r: Self) -> Self {
        #[rustfmt::skip]
        let value = polynomial!(
            r, 1.0, 1.0, 0.5000000000000012, 0.16666666666666471, 0.04166666666651975, 0.008333333333458665,
            0.0013888888945921057, 0.00019841269581196487, 2.4801491030993337e-5, 2.755752164644174e-6,
            2.763090755114223e-7, 2.5020074850572813e-8
        );
        value
    }

    #[inline(always)]
    fn tail(t: Self) -> Self {
        #[rustfmt::skip]
        let value = polynomial!(
            t, 0.7552851304157515, -0.6078966419718921, 0.3871374007422158, -0.18652185795966267,
            0.060396574890772936, -0.007540188966499314, -0.0034796923630385722, 0.001630818453924182,
            0.0001333442591956873, -0.00023109490690316495, -1.9078924021352955e-6, 3.5144576965971006e-5,
            7.151152930848781e-7, -5.9200126323200134e-6, -6.254874107618029e-7, 1.0218261327198842e-6,
            2.64454822715476e-7, -1.5652178187169982e-7, -7.741159362788689e-8, 1.600379374812648e-8,
            1.4682043014600665e-8, -3.158534177949883e-10, -1.2000579270677034e-9
        );
        value
    }

    #[inline(always)]
    fn scaled_power(shifted: Self) -> Self {
        Self::from_bits(shifted.to_bits() << 52)
    }
}
