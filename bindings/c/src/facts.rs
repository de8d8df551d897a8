//! The facts of an error, as the fields that C reads them from.

/// `hs_error.instance` tells something.
pub const HS_FACT_INSTANCE: u32 = 1;
/// `hs_error.position` tells something.
pub const HS_FACT_POSITION: u32 = 2;
/// `hs_error.value` tells something.
pub const HS_FACT_VALUE: u32 = 4;
/// `hs_error.bound` tells something.
pub const HS_FACT_BOUND: u32 = 8;
/// `hs_error.degree` tells something.
pub const HS_FACT_DEGREE: u32 = 16;

/// The facts of an error that fit the fields of `hs_error`.
pub(crate) struct Facts {
    pub(crate) status: i32,
    pub(crate) what: Option<&'static str>,
    pub(crate) other: Option<&'static str>,
    /// Instance, position, value and bound.
    pub(crate) numbers: [i64; 4],
    pub(crate) degree: f64,
    /// `HS_FACT_*`.
    pub(crate) known: u32,
}

/// An integer of any type as the nearest one that `hs_error` has room for.
pub(crate) trait Number {
    fn nearest(self) -> i64;
}

macro_rules! numbers {
    ($($t:ty)*) => {$(
        impl Number for $t {
            fn nearest(self) -> i64 {
                i64::try_from(self).unwrap_or(if self > 0 { i64::MAX } else { i64::MIN })
            }
        }
    )*};
}
numbers!(i32 u32 u64 usize i128 u128);

impl Facts {
    pub(crate) fn new(status: i32) -> Self {
        Self { status, what: None, other: None, numbers: [0; 4], degree: 0.0, known: 0 }
    }

    pub(crate) fn what(self, what: &'static str) -> Self {
        Self { what: Some(what), ..self }
    }

    pub(crate) fn other(self, other: &'static str) -> Self {
        Self { other: Some(other), ..self }
    }

    fn number(mut self, fact: u32, number: impl Number) -> Self {
        self.numbers[fact.trailing_zeros() as usize] = number.nearest();
        self.known |= fact;
        self
    }

    pub(crate) fn instance(self, instance: impl Number) -> Self {
        self.number(HS_FACT_INSTANCE, instance)
    }

    /// The list of an argument that is one of lists.
    pub(crate) fn list(self, list: Option<usize>) -> Self {
        match list {
            Some(list) => self.instance(list),
            None => self,
        }
    }

    pub(crate) fn position(self, position: impl Number) -> Self {
        self.number(HS_FACT_POSITION, position)
    }

    pub(crate) fn value(self, value: impl Number) -> Self {
        self.number(HS_FACT_VALUE, value)
    }

    pub(crate) fn bound(self, bound: impl Number) -> Self {
        self.number(HS_FACT_BOUND, bound)
    }

    pub(crate) fn degree(self, degree: f64) -> Self {
        Self { degree, known: self.known | HS_FACT_DEGREE, ..self }
    }
}
