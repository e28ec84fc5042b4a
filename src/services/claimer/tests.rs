use super::*;

#[test]
fn a_claim_that_is_full_is_followed_by_another_and_one_that_is_not_is_not() {
    let mut p = Position::new();
    let more = |p: &Position, all, back, want| p.has_more(Taken { all, back }, want);
    assert!(more(&p, 100, 0, 100) && more(&p, 100, 40, 100) && more(&p, 1, 1, 1));
    // Only what came back: its share is three quarters, and more of it may be there.
    assert!(more(&p, 75, 75, 100) && more(&p, 80, 75, 100));
    assert!(!more(&p, 99, 74, 100) && !more(&p, 0, 0, 100) && !more(&p, 0, 0, 1));
    p.pairs.push(("other".into(), 5));
    assert!(more(&p, 0, 0, 100));
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
