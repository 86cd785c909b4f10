//! Rounds by weight, for round-robin.

/// Positions in a ring: more than any sensible sum of reduced weights, few enough to build quickly.
const MAX_RING: u64 = 10_000;
/// Steps that the best order may cost; beyond, one that is nearly as good is quicker.
const MAX_STEPS: u64 = 500_000;

/// A round in which each index comes as often as its weight says, spread as evenly as can be (smooth weighted
/// round-robin, as nginx does it; Kong shuffles its wheel instead).
pub(crate) fn ring(weights: &[u64]) -> Vec<u16> {
    let weights = weights.get(..weights.len().min(usize::from(u16::MAX))).unwrap_or_default();
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let mut weights: Vec<i64> =
        weights.iter().map(|weight| i64::try_from(weight / divisor).unwrap_or(i64::MAX)).collect();
    let total: i64 = weights.iter().sum();
    if total.unsigned_abs() > MAX_RING {
        // Too fine a ratio: every target keeps at least one place.
        for weight in weights.iter_mut().filter(|weight| **weight > 0) {
            *weight = (*weight * MAX_RING.cast_signed() / total).max(1);
        }
    }
    let total: i64 = weights.iter().sum();
    if weights.iter().all(|weight| *weight == weights.first().copied().unwrap_or_default()) {
        // Most often the case, and quick however many there are.
        let round = 0..u16::try_from(weights.len()).unwrap_or(u16::MAX);
        return if total > 0 { round.collect() } else { Vec::new() };
    }
    if total.unsigned_abs().saturating_mul(weights.len() as u64) > MAX_STEPS {
        return by_deadline(&weights);
    }
    let mut current = vec![0_i64; weights.len()];
    (0..total)
        .filter_map(|_| {
            let mut best: Option<(usize, i64)> = None;
            for (index, (current, weight)) in current.iter_mut().zip(&weights).enumerate() {
                *current += weight;
                if best.is_none_or(|(_, highest)| *current > highest) {
                    best = Some((index, *current));
                }
            }
            let (best, _) = best?;
            *current.get_mut(best)? -= total;
            u16::try_from(best).ok()
        })
        .collect()
}

/// Each index at even distances, as many as its weight.
fn by_deadline(weights: &[i64]) -> Vec<u16> {
    let mut places: Vec<(f64, u16)> = (0_u16..)
        .zip(weights)
        .flat_map(|(index, weight)| (0..*weight).map(move |n| ((n as f64 + 0.5) / *weight as f64, index)))
        .collect();
    places.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    places.into_iter().map(|(_, index)| index).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::ring;

    fn check(weights: &[u64], expect: &[u16]) {
        assert_eq!(ring(weights), expect, "{weights:?}");
    }

    #[test]
    fn a_ring_spreads_by_weight() {
        check(&[], &[]);
        check(&[0], &[]);
        check(&[100], &[0]);
        check(&[100, 100], &[0, 1]);
        check(&[200, 100], &[0, 1, 0]);
        check(&[50, 10, 10], &[0, 0, 1, 0, 2, 0, 0]);
        check(&[0, 10, 10], &[1, 2]);
    }

    #[test]
    fn a_fine_ratio_keeps_every_target() {
        let ring = ring(&[65_535, 1, 1]);
        assert!(ring.len() <= 10_010);
        assert!(ring.contains(&1) && ring.contains(&2));
    }

    #[test]
    fn a_ring_of_very_many_is_built_quickly() {
        let weights: Vec<u64> = (0..65_535).map(|n| 1 + n % 100).collect();
        let ring = ring(&weights);
        let mut seen = vec![false; weights.len()];
        ring.iter().for_each(|index| seen[usize::from(*index)] = true);
        assert!(seen.into_iter().all(|seen| seen));
        assert_eq!(super::by_deadline(&[4, 2, 1]), [0, 1, 0, 2, 0, 1, 0]);
    }

    proptest! {
        #[test]
        fn each_has_its_share_and_nobody_else(weights in vec(0_u64..50, 0..20)) {
            let ring = ring(&weights);
            let total: u64 = weights.iter().sum();
            for (index, weight) in weights.iter().enumerate() {
                let places = ring.iter().filter(|place| usize::from(**place) == index).count() as u64;
                prop_assert_eq!(places * total, weight * ring.len() as u64);
            }
        }
    }
}
