use super::*;

#[test]
fn a_claim_that_is_full_is_followed_by_another_and_one_that_is_not_is_not() {
    let mut p = Position::new();
    let more = |p: &Position, all, full, want| p.has_more(Taken { all, full }, want);
    assert!(more(&p, 100, false, 100) && more(&p, 1, false, 1));
    // Only what came back: its share is full, and more of it may be there.
    assert!(more(&p, 75, true, 100) && more(&p, 80, true, 100));
    assert!(!more(&p, 99, false, 100) && !more(&p, 0, false, 100) && !more(&p, 0, false, 1));
    p.pairs.push(("other".into(), 5));
    assert!(more(&p, 0, false, 100));
}

#[test]
fn new_runs_have_a_quarter_of_the_places_however_few_come_at_a_time() {
    let mut p = Position::new();
    assert_eq!((1..8).map(|n| p.places_for_new(n)).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 1, 1], "none is known");
    p.pairs.push(("default".into(), 5));
    for want in [1, 2, 3, 5, 100] {
        let places: usize = (0..1_000).map(|_| p.places_for_new(want)).sum();
        assert!(places.abs_diff(want * 250) <= 1, "{want}: {places} of {}", want * 1_000);
    }
}

#[test]
fn each_claim_asks_for_other_pairs_until_all_are_drained() {
    let mut p = Position::new();
    p.pairs = (0..1_000).map(|n| (n.to_string().into(), i16::from(n % 2 == 0))).collect();
    let mut asked = HashSet::new();
    for _ in 0..4 {
        let pairs = p.in_turn();
        assert!(pairs.len() <= MAX_ASKED + MAX_EMPTY && pairs.is_sorted_by_key(|(pair, _)| pair.1));
        asked.extend(pairs.iter().map(|(pair, _)| pair.clone()));
        p.drained(&pairs);
    }
    assert!(asked.len() == 1_000 && p.pairs.is_empty());
}
