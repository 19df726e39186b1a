//! MIF_ADD_INTERFACE beside other exchanges (protocol 3.11).

use super::*;

/// Both ends add what makes the same Child SA: the end user its WLAN, the gateway
/// its second interface.
fn both(seed: u64) -> Pair {
    let second = IfaceId(2);
    let mut pair = usual(seed);
    tables(
        &mut pair,
        B,
        &[(GATEWAY, GATEWAY_ADDRESS), (second, "203.0.113.2")],
    );
    pair.run(SECOND);
    let of_a = changed(add(&pair, WLAN, WLAN_ADDRESS), |c| {
        *c.remote = second;
        *c.remote_addr = ip("203.0.113.2");
    });
    let of_b = Command::AddInterface {
        ike: pair.b().ike(),
        iface: second,
        remote: WLAN,
        local_addr: ip("203.0.113.2"),
        remote_addr: ip(WLAN_ADDRESS),
        inner: Vec::new(),
        lease: false,
        bundle: true,
        from: Vec::new(),
        pfs: false,
    };
    pair.hold();
    pair.command(A, of_a);
    pair.command(B, of_b);
    pair
}

#[test]
fn of_two_that_cross_the_one_with_the_lowest_nonce_goes() {
    let mut lost = [0, 0];
    for seed in 40..48 {
        let mut pair = both(seed);
        pair.release();
        // The one that is deleted receives a while longer.
        pair.run(SECOND * 60);
        assert_eq!((pair.ends[A].installs, pair.ends[B].installs), (3, 3));
        assert_eq!(pair.ends[A].children.len(), 2, "one of the two stays");
        assert_agreement(&pair);
        let redundant = [A, B].map(|who| pair.ends[who].count("mif_derived_redundant"));
        assert_eq!(redundant[A] + redundant[B], 1);
        lost[A] += redundant[A];
        lost[B] += redundant[B];
    }
    assert!(lost[A] > 0 && lost[B] > 0, "either may: {lost:?}");
}

#[test]
fn one_that_comes_before_our_own_is_answered_settles_it() {
    // B's request arrives after A's exchange is over: there is an equal one.
    let mut pair = both(49);
    pair.deliver(A, &["MIF_ADD_INTERFACE"]);
    pair.deliver(B, &["MIF_ADD_INTERFACE", "response"]);
    pair.release();
    pair.run(SECOND * 5);
    assert_eq!(pair.ends[A].children.len(), 2);
    assert_agreement(&pair);
    assert_eq!(
        added(&pair, B).last(),
        Some(&(End::Local, IfaceId(2), 0, 1))
    );
}

#[test]
fn it_waits_for_a_rekey_of_the_ike_sa_of_either_end_and_has_the_new_keys() {
    for who in [A, B] {
        let mut pair = usual(50);
        let ike = pair.ends[who].ike();
        pair.hold();
        pair.command(who, Command::RekeyIke { ike });
        let command = add(&pair, WLAN, WLAN_ADDRESS);
        pair.command(A, command);
        if who == A {
            assert_eq!(pair.waiting().len(), 1, "it is asked for afterwards");
        } else {
            // The rekey is refused while ours is under way, or ours while that is.
            pair.deliver(A, &["MIF_ADD_INTERFACE"]);
            let answer = pair.take(B, &["response"]);
            assert!(answer.says.contains("TEMPORARY_FAILURE"), "{}", answer.says);
            pair.arrive(&answer);
        }
        pair.release();
        pair.run(SECOND * 5);
        assert_eq!(added(&pair, A), [(End::Local, WLAN, 1, 0)]);
        assert_agreement(&pair);
        assert_eq!(pair.ends[B].count("ike_child_rekey_refused"), 0);
    }
}

#[test]
fn a_rekey_of_the_ike_sa_waits_for_it() {
    let mut pair = usual(51);
    pair.hold();
    let command = add(&pair, WLAN, WLAN_ADDRESS);
    pair.command(A, command);
    let request = pair.take(A, &["MIF_ADD_INTERFACE"]);
    let ike = pair.b().ike();
    pair.command(B, Command::RekeyIke { ike });
    pair.deliver(B, &["CREATE_CHILD_SA request"]);
    let answer = pair.deliver(A, &["CREATE_CHILD_SA response"]);
    assert!(answer.says.contains("TEMPORARY_FAILURE"), "{}", answer.says);
    pair.arrive(&request);
    pair.release();
    pair.run(SECOND * 10);
    assert_eq!(added(&pair, A), [(End::Local, WLAN, 1, 0)]);
    assert_agreement(&pair);
}

#[test]
fn a_template_that_is_rekeyed_or_deleted_meanwhile_is_a_mismatch_and_asked_again() {
    for delete in [false, true] {
        let mut pair = with_services(2, 52);
        let template = *pair.ends[B].children.keys().next().unwrap();
        pair.hold();
        let command = add(&pair, WLAN, WLAN_ADDRESS);
        pair.command(A, command);
        let command = match delete {
            true => Command::DeleteChild { child: template },
            false => Command::RekeyChild { child: template },
        };
        pair.command(B, command);
        if !delete {
            // A has the new one before B does.
            pair.deliver(B, &["CREATE_CHILD_SA request"]);
        }
        pair.deliver(A, &["MIF_ADD_INTERFACE"]);
        let answer = pair.take(B, &["INFORMATIONAL response"]);
        let mismatch = answer.says.contains("MIF_DERIVATION_MISMATCH");
        assert_eq!(mismatch, delete, "{}", answer.says);
        pair.arrive(&answer);
        pair.release();
        pair.run(SECOND * 5);
        let created = if delete { 1 } else { 2 };
        assert_eq!(added(&pair, A), [(End::Local, WLAN, created, 0)]);
        pair.run(SECOND * 5);
        assert_agreement(&pair);
    }
}

#[test]
fn a_rekey_of_a_template_that_one_end_knows_of_is_a_mismatch() {
    let mut pair = usual(53);
    let template = *pair.ends[A].children.keys().next().unwrap();
    pair.hold();
    // B has made the new one, A does not know it yet.
    pair.command(A, Command::RekeyChild { child: template });
    pair.deliver(A, &["CREATE_CHILD_SA request"]);
    let command = add(&pair, WLAN, WLAN_ADDRESS);
    pair.command(A, command);
    pair.deliver(A, &["MIF_ADD_INTERFACE"]);
    let answer = pair.deliver(B, &["INFORMATIONAL response"]);
    assert!(answer.says.contains("MIF_DERIVATION_MISMATCH"), "{}", answer.says);
    assert_eq!(pair.ends[B].children.len(), 2);
    pair.release();
    pair.run(SECOND * 5);
    assert_eq!(added(&pair, A), [(End::Local, WLAN, 1, 0)]);
    assert_agreement(&pair);
}

#[test]
fn a_delete_that_overtakes_the_response_is_not_forgotten() {
    let mut pair = usual(54);
    pair.hold();
    let command = add(&pair, WLAN, WLAN_ADDRESS);
    pair.command(A, command);
    pair.deliver(A, &["MIF_ADD_INTERFACE"]);
    let late = pair.take(B, &["response"]);
    let new = *pair.ends[B].children.keys().last().unwrap();
    pair.command(B, Command::DeleteChild { child: new });
    pair.deliver(B, &["D("]);
    pair.arrive(&late);
    pair.release();
    pair.run(SECOND * 3);
    assert_eq!(
        (pair.ends[A].children.len(), pair.ends[B].children.len()),
        (1, 1)
    );
    assert!(pair.ends[A].larval.is_empty());
}

#[test]
fn a_derived_sa_is_rekeyed_and_deleted_like_any_other() {
    for who in [A, B] {
        let mut pair = usual(55);
        let command = add(&pair, WLAN, WLAN_ADDRESS);
        pair.command(A, command);
        pair.run(SECOND);
        let derived = *pair.ends[who].children.keys().last().unwrap();
        pair.command(who, Command::RekeyChild { child: derived });
        pair.run(SECOND * 15);
        assert_eq!(pair.ends[who].children.len(), 2);
        assert_agreement(&pair);
        assert!(pairs(&pair, A).contains(&path(WLAN, GATEWAY)));
        let new = *pair.ends[who].children.keys().last().unwrap();
        assert_ne!(new, derived);
        pair.command(who, Command::DeleteChild { child: new });
        pair.run(SECOND);
        assert_eq!(pair.ends[1 - who].children.len(), 1);
    }
}
