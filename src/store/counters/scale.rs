//! Buckets of a histogram: powers of two in four steps each, so that a value is known to a quarter.

#![forbid(unsafe_code)]

/// Buckets of a histogram: one below the scale, four a power of two, one above.
pub const BUCKETS: usize = 4 * POWERS as usize + 2;
const POWERS: u32 = 29;

/// Where the buckets of a histogram begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Values below two to this power are in the first bucket.
    lowest: u32,
    /// How many of the numbers that are counted make one of the unit that is shown.
    pub a_unit: u64,
}

impl Scale {
    /// Nanoseconds, from 256 ns to 137 s; shown in seconds.
    pub const TIME: Self = Self { lowest: 8, a_unit: 1_000_000_000 };
    /// Bytes a second, from 1 KiB/s to 512 GiB/s.
    pub const PACE: Self = Self { lowest: 10, a_unit: 1 };

    /// The bucket of a value.
    pub const fn bucket(self, value: u64) -> usize {
        let power = u64::BITS - 1 - (value | 1).leading_zeros();
        if power < self.lowest {
            0
        } else if power >= self.lowest + POWERS {
            BUCKETS - 1
        } else {
            let quarter = (value >> (power - 2)) & 3;
            1 + 4 * (power - self.lowest) as usize + quarter as usize
        }
    }

    /// Where a bucket ends: all its values are smaller.
    pub const fn end(self, bucket: usize) -> u64 {
        if bucket == BUCKETS - 1 {
            return u64::MAX;
        }
        (4 + bucket as u64 % 4) << (self.lowest as u64 - 2 + bucket as u64 / 4)
    }

    /// The value that a share of all values (in thousandths) is below, as far as buckets tell; `None` where there are none.
    pub fn quantile(self, counts: &[u64], thousandths: u64) -> Option<u64> {
        let all: u64 = counts.iter().sum();
        let rank = (all * thousandths).div_ceil(1000).max(1);
        let mut below = 0;
        let bucket = counts.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        let begin = if bucket == 0 { 0 } else { self.end(bucket - 1) };
        // Above the scale it is not known how far.
        let end = if bucket == BUCKETS - 1 { begin } else { self.end(bucket) };
        let within = rank - (below - counts[bucket]);
        let part = u128::from(end - begin) * u128::from(within) / u128::from(counts[bucket]);
        Some(begin + u64::try_from(part).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_in_its_bucket_and_in_no_other() {
        for scale in [Scale::TIME, Scale::PACE] {
            for value in (0..62).flat_map(|power| [0, 1, 2, 3].map(|more| (1_u64 << power) + more * (1 << power) / 4)) {
                for value in [value - 1, value, value + 1] {
                    let bucket = scale.bucket(value);
                    assert!(value < scale.end(bucket), "{value} in {bucket}");
                    assert!(bucket == 0 || value >= scale.end(bucket - 1), "{value} in {bucket}");
                }
            }
        }
        assert_eq!(Scale::TIME.end(Scale::TIME.bucket(255)), 256);
        assert_eq!(Scale::TIME.bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_quantile_is_known_to_a_quarter() {
        let mut counts = [0; BUCKETS];
        assert_eq!(Scale::TIME.quantile(&counts, 500), None);
        (1..=1000).for_each(|value| counts[Scale::TIME.bucket(value * 1000)] += 1);
        for thousandths in [10, 500, 900, 990, 1000] {
            let (found, want) = (Scale::TIME.quantile(&counts, thousandths).unwrap_or(0), thousandths * 1000);
            assert!(found.abs_diff(want) <= want / 4, "{thousandths}: {found}");
        }
        let mut above = [0; BUCKETS];
        above[BUCKETS - 1] = 1;
        assert_eq!(Scale::TIME.quantile(&above, 500), Some(1 << 37));
    }
}
