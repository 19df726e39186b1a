//! Every input in the committed corpora goes through its target: what fuzzing
//! once found does not come back.

use std::fs;
use std::path::PathBuf;

use mifsec_tests::fuzz::{TARGETS, seeds};

fn corpora() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "corpus"].iter().collect()
}

/// Runs a target over its corpus; a panic names the file.
fn replay(target: &str) {
    let (name, run) = TARGETS
        .iter()
        .find(|(name, _)| *name == target)
        .expect("a target");
    let dir = corpora().join(name);
    let mut files: Vec<_> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("a readable directory").path())
        .collect();
    files.sort();
    assert!(files.len() >= 4, "{} has a corpus", dir.display());
    for file in files {
        let bytes = fs::read(&file).expect("a readable file");
        if std::panic::catch_unwind(|| run(&bytes)).is_err() {
            panic!("{} fails", file.display());
        }
    }
}

#[test]
fn certificates_replay() {
    replay("certificate");
}

#[test]
fn fragments_replay() {
    replay("skf_reassembly");
}

#[test]
fn config_files_replay() {
    replay("config_file");
}

#[test]
fn control_requests_replay() {
    replay("control_request");
}

#[test]
fn esp_packets_replay() {
    replay("esp_packet");
}

#[test]
fn ike_messages_replay() {
    replay("ike_message");
}

#[test]
fn ike_payloads_replay() {
    replay("ike_payloads");
}

#[test]
fn ike_sessions_replay() {
    replay("ike_session");
}

#[test]
fn inner_packets_replay() {
    replay("inner_packet");
}

#[test]
fn mif_notifies_replay() {
    replay("mif_notifies");
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let targets: Vec<_> = TARGETS
        .iter()
        .map(|(name, _)| (*name).to_string())
        .collect();
    let mut found: Vec<_> = fs::read_dir(corpora())
        .expect("the corpora")
        .map(|entry| entry.expect("a readable directory"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    assert_eq!(found, targets);
}

#[test]
fn a_fresh_session_gives_seeds_that_pass() {
    let mut messages = 0;
    for (target, name, bytes) in seeds::all() {
        let (_, run) = TARGETS
            .iter()
            .find(|(t, _)| *t == target)
            .expect("a target");
        if std::panic::catch_unwind(|| run(&bytes)).is_err() {
            panic!("seed {name} of {target} fails");
        }
        messages += usize::from(target == "ike_payloads");
    }
    assert!(messages >= 12, "{messages} messages captured");
}
