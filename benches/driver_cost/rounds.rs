//! Interleaved rounds and their medians: every arm runs once a round, so that a slow moment of the
//! machine falls on all alike, and no single round decides.

/// The middle of many rounds, and how far they spread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) p10: f64,
    pub(crate) median: f64,
    pub(crate) p90: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let last = sorted.len().saturating_sub(1);
            let index = (part * last as f64).round() as usize;
            sorted.get(index).copied().unwrap_or(f64::NAN)
        };
        Self {
            p10: at(0.1),
            median: at(0.5),
            p90: at(0.9),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(1);
        let Self { p10, median, p90 } = self;
        write!(
            f,
            "{median:.digits$} (p10 {p10:.digits$}, p90 {p90:.digits$})"
        )
    }
}

/// One thing to be measured: runs once and says what it measured.
pub(crate) type Arm<'a, T, E> = &'a mut dyn FnMut() -> Result<T, E>;

/// Runs all arms once a round, another one first each time. Returns what they measured, arm by arm.
pub(crate) fn interleave<T, E, const N: usize>(
    rounds: usize,
    arms: [Arm<'_, T, E>; N],
) -> Result<[Vec<T>; N], E> {
    // Two rounds to warm up caches, branch predictors and the clock's speed.
    const WARM_UP: usize = 2;
    let mut measured = std::array::from_fn(|_| Vec::with_capacity(rounds));
    for round in 0..rounds + WARM_UP {
        for turn in 0..N {
            let arm = (round + turn) % N;
            let value = arms[arm]()?;
            if round >= WARM_UP {
                measured[arm].push(value);
            }
        }
    }
    Ok(measured)
}

/// Round by round, what `combine` makes of two arms.
pub(crate) fn paired<'a, T: Copy>(
    first: &'a [T],
    second: &'a [T],
    combine: impl Fn(T, T) -> f64 + 'a,
) -> impl Iterator<Item = f64> + 'a {
    let both = first.iter().zip(second);
    both.map(move |(&first, &second)| combine(first, second))
}
