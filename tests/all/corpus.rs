//! Input that was sent to the targets of `fuzz/`, or found by them, holds what they assert; without a fuzzer.

use std::path::Path;

use tempfile::tempdir;

#[path = "../../fuzz/properties.rs"]
mod properties;

/// Holds every kept input of this target to it.
fn hold(target: &str, property: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus of the target") {
        let path = entry.expect("an entry").path();
        // Shown if it is the one that fails.
        println!("{}", path.display());
        property(&std::fs::read(&path).expect("a file"));
        count += 1;
    }
    assert!(count > 5, "{count} inputs in {}", folder.display());
}

#[test]
fn kept_tokens_and_ids_are_printed_as_they_are_read() {
    hold("tokens", properties::tokens);
}

#[test]
fn kept_cookie_headers_hide_no_cookie_of_ours() {
    hold("cookies", properties::cookies);
}

#[test]
fn kept_forwarding_headers_lead_to_no_address_that_nobody_sent() {
    hold("forwarded", properties::forwarded);
}

#[test]
fn kept_user_agents_have_short_and_plain_names() {
    hold("devices", properties::devices);
}

#[test]
fn kept_bodies_are_refused_for_what_they_are() {
    hold("bodies", properties::bodies);
}

#[test]
fn kept_changes_of_data_do_all_or_nothing() {
    hold("data", properties::data);
}

#[test]
fn kept_configurations_are_read_back_as_they_are_printed() {
    let dir = tempdir().expect("a directory");
    let file = dir.path().join("c.toml");
    hold("config", |input| properties::config(input, &file));
}
