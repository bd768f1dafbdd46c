//! The report on OWASP ASVS: its verdicts follow from the configuration, and its forms can be read.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sessiond::config::{Config, Flags};
use sessiond::policy::{Finding, Requirement, Verdict, report};
use tempfile::{TempDir, tempdir};

use crate::harness::TestServer;
use crate::process::{Finished, names_in, run, text};

/// Every requirement of V3.3 and V7 in OWASP ASVS 5.0.0, with its level.
const REQUIREMENTS: [(&str, u8); 24] = [
    ("3.3.1", 1),
    ("3.3.2", 2),
    ("3.3.3", 2),
    ("3.3.4", 2),
    ("3.3.5", 3),
    ("7.1.1", 2),
    ("7.1.2", 2),
    ("7.1.3", 2),
    ("7.2.1", 1),
    ("7.2.2", 1),
    ("7.2.3", 1),
    ("7.2.4", 1),
    ("7.3.1", 2),
    ("7.3.2", 2),
    ("7.4.1", 1),
    ("7.4.2", 1),
    ("7.4.3", 2),
    ("7.4.4", 2),
    ("7.4.5", 2),
    ("7.5.1", 2),
    ("7.5.2", 2),
    ("7.5.3", 3),
    ("7.6.1", 2),
    ("7.6.2", 2),
];

/// Whatever can be said in a configuration that has two apps and words that mean something to Markdown.
const STRANGE: &str = "[tiers]\n__all__ = 3\n-_- = 4\n[apps.a__b__]\nreauthenticate_within_secs = 300\n[apps.z-_-]\n\
                       [apps.a__b__.cookie]\nprofile = \"shared\"\ndomain = \"xn--e1aybc.example\"\n\
                       [apps.z-_-.cookie]\nname_suffix = \"__z__\"\n";

fn with(text: &str) -> TempDir {
    let dir = tempdir().expect("a directory");
    std::fs::write(dir.path().join("c.toml"), text).expect("written");
    dir
}

fn report_on(text: &str) -> Vec<Requirement> {
    let dir = with(text);
    let file = dir.path().join("c.toml");
    let config = Config::load(Some(&file), std::iter::empty(), Flags::default());
    report(&config.unwrap_or_else(|mistakes| panic!("{text}\n{mistakes}")))
}

fn requirement<'r>(report: &'r [Requirement], id: &str) -> &'r Requirement {
    report.iter().find(|known| known.id == id).expect(id)
}

/// The command's report, in a directory that it leaves as it is.
fn print(config: &str, format: &str) -> Finished {
    let dir = with(config);
    let arguments = ["policy", "report", "--config", "c.toml", "--format", format];
    let finished = run(dir.path(), arguments);
    assert_eq!(names_in(dir.path()), ["c.toml"], "nothing is made");
    finished
}

// What it says.

#[test]
fn every_requirement_appears_once_with_its_level() {
    let report = report_on("");
    let found: Vec<_> = report.iter().map(|known| (known.id, known.level)).collect();
    assert_eq!(found, REQUIREMENTS);
    assert!(
        report.iter().all(|known| known.findings.len() == 1),
        "one app, one finding"
    );
}

#[test]
fn nothing_is_met_without_a_test_that_shows_it() {
    for config in [
        "",
        STRANGE,
        "[apps.default]\nanonymous = true\nreauthenticate_within_secs = 60\n",
    ] {
        for known in report_on(config) {
            let is_met = |finding: &Finding| finding.judgement.verdict == Verdict::Met;
            let shown = !known.findings.iter().any(is_met) || !known.tests.is_empty();
            assert!(shown, "{} with {config}", known.id);
        }
    }
}

#[test]
fn verdicts_follow_the_settings_in_force() {
    use Verdict::{Application, Met, NotMet};
    let cases = [
        ("", "3.3.1", Met),
        (
            "cookie = { profile = \"shared\", domain = \"example.com\" }",
            "3.3.1",
            Met,
        ),
        ("cookie = { profile = \"loopback\" }", "3.3.1", NotMet),
        ("", "3.3.3", Met),
        (
            "cookie = { profile = \"shared\", domain = \"example.com\" }",
            "3.3.3",
            Met,
        ),
        ("cookie = { profile = \"loopback\" }", "3.3.3", NotMet),
        ("", "3.3.4", NotMet),
        ("", "7.1.1", Application),
        ("", "7.2.4", Application),
        ("", "7.3.1", Met),
        ("absolute_timeout_secs = 604_801", "7.3.1", Met),
        ("absolute_timeout_secs = 604_800", "7.3.1", NotMet),
        ("remember_absolute_timeout_secs = 2_592_000", "7.3.1", NotMet),
        ("preset = \"aal1\"", "7.3.1", NotMet),
        ("preset = \"aal2\"", "7.3.1", Met),
        ("absolute_timeout_secs = 604_800", "7.3.2", Met),
        ("", "7.4.1", Met),
        ("", "7.5.2", NotMet),
        ("reauthenticate_within_secs = 900", "7.5.2", Met),
        ("reauthenticate_within_secs = 2_591_999", "7.5.2", Met),
        ("reauthenticate_within_secs = 2_592_000", "7.5.2", NotMet),
        (
            "remember_idle_timeout_secs = 60\nremember_absolute_timeout_secs = 900\nreauthenticate_within_secs = 900",
            "7.5.2",
            NotMet,
        ),
        ("", "7.6.2", Application),
    ];
    for (app, id, expected) in cases {
        let report = report_on(&format!(
            "[sessions]\ntouch_interval_secs = 0\n[apps.default]\n{app}\n"
        ));
        assert_eq!(requirement(&report, id).verdict(), expected, "{id} with {app}");
    }
}

#[test]
fn settings_are_shown_as_they_are_in_force() {
    let report = report_on("[apps.default]\nidle_timeout_secs = 1234\n[tiers]\nguest = 1\n");
    let shown = |id: &str, key: &str| {
        let judgement = &requirement(&report, id).findings[0].judgement;
        let found = judgement.settings.iter().find(|(known, _)| *known == key);
        found
            .map(|(_, value)| value.clone())
            .unwrap_or_else(|| panic!("{key} at {id}"))
    };
    assert_eq!(shown("7.3.1", "idle_timeout_secs"), json!(1234));
    assert_eq!(shown("7.3.1", "absolute_timeout_secs"), json!(2_592_000));
    assert_eq!(shown("7.5.2", "reauthenticate_within_secs"), Value::Null);
    assert_eq!(shown("7.1.2", "tiers")["guest"], 1);
    assert_eq!(shown("7.1.2", "on_limit"), "evict");
    assert_eq!(shown("3.3.1", "cookie.profile"), "host");
}

#[test]
fn figures_are_compared_with_the_levels_of_nist() {
    let (hour, day) = (3_600, 86_400);
    let cases = [
        ("keep to AAL3", 15 * 60, 12 * hour),
        ("keep to AAL2", 15 * 60 + 1, 12 * hour),
        ("keep to AAL2", 15 * 60, 12 * hour + 1),
        ("keep to AAL2", hour, day),
        ("keep to AAL1", hour + 1, day),
        ("keep to AAL1", 30 * day, 30 * day),
        ("wants a reason", 30 * day, 30 * day + 1),
    ];
    for (words, idle, absolute) in cases {
        // Both pairs count: each of them in turn, beside one that keeps to every level.
        for (long, short) in [("", "remember_"), ("remember_", "")] {
            let report = report_on(&format!(
                "[apps.default]\n{long}idle_timeout_secs = {idle}\n{long}absolute_timeout_secs = {absolute}\n\
                 {short}idle_timeout_secs = 600\n{short}absolute_timeout_secs = 3600\n"
            ));
            let why = &requirement(&report, "7.1.1").findings[0].judgement.why;
            assert!(why.contains(words), "{long}{idle}, {absolute}: {why}");
        }
    }
}

#[test]
fn preset_is_shown_and_its_level_is_kept() {
    for preset in ["aal1", "aal2", "aal3"] {
        let report = report_on(&format!("[apps.default]\npreset = {preset:?}\n"));
        let judgement = &requirement(&report, "7.1.1").findings[0].judgement;
        assert_eq!(judgement.settings[0], ("preset", json!(preset)));
        let level = format!("keep to {} of", preset.to_uppercase());
        assert!(judgement.why.contains(&level), "{}", judgement.why);
    }
}

#[test]
fn apps_with_the_same_verdict_and_settings_are_told_together() {
    let app =
        |name| format!("[apps.{name}]\nreauthenticate_within_secs = 60\ncookie.name_suffix = \"{name}\"\n");
    let report = report_on(&format!("{}{}", app("a"), app("b")));
    let ends = requirement(&report, "7.5.2");
    let groups: Vec<(Vec<&str>, Verdict)> = ends
        .findings
        .iter()
        .map(|finding| {
            let apps = finding.apps.iter().map(|app| app.as_str()).collect();
            (apps, finding.judgement.verdict)
        })
        .collect();
    assert_eq!(
        groups,
        [(vec!["a", "b"], Verdict::Met), (vec!["default"], Verdict::NotMet)]
    );
    assert_eq!(ends.verdict(), Verdict::NotMet, "the worst counts");
    assert_eq!(requirement(&report, "7.3.1").findings.len(), 1);
}

// How it is printed.

#[test]
fn json_report_is_complete() {
    for (config, apps) in [("", 1), (STRANGE, 3)] {
        let printed: Value = serde_json::from_str(&print(config, "json").exited(0)).expect("JSON");
        assert_eq!(printed["standard"], "OWASP ASVS 5.0.0");
        let all = printed["requirements"].as_array().expect("a list");
        let ids: Vec<String> = all.iter().map(|known| text(&known["id"])).collect();
        assert_eq!(ids, REQUIREMENTS.map(|(id, _)| id));
        let mut counts = json!({ "met": 0, "not_met": 0, "application": 0 });
        for known in all {
            let verdict = text(&known["verdict"]);
            counts[&verdict] = json!(counts[&verdict].as_u64().expect("a verdict") + 1);
            let findings = known["findings"].as_array().expect("a list");
            let told: BTreeSet<String> = findings
                .iter()
                .flat_map(|finding| finding["apps"].as_array().expect("a list"))
                .map(text)
                .collect();
            assert_eq!(told.len(), apps, "{known}");
            for finding in findings {
                assert!(
                    !text(&finding["why"]).is_empty() && finding["settings"].is_object(),
                    "{known}"
                );
            }
            assert!(
                !text(&known["asks"]).is_empty() && known["tests"].is_array(),
                "{known}"
            );
        }
        assert_eq!(printed["counts"], counts);
    }
}

#[test]
fn markdown_report_is_a_table_whatever_the_configuration_says() {
    let printed = print(STRANGE, "markdown").exited(0);
    let rows: Vec<&str> = printed.lines().filter(|line| line.starts_with('|')).collect();
    let bars = |row: &str| row.replace(r"\|", "").matches('|').count();
    assert!(
        rows.iter().all(|row| bars(row) == 9 && row.ends_with('|')),
        "{printed}"
    );
    for (id, level) in REQUIREMENTS {
        let begins = format!("| {id} | {level} |");
        assert!(
            rows.iter().any(|row| row.starts_with(&begins)),
            "{id} in {printed}"
        );
    }
    // Outside of code an underscore or an asterisk would be emphasis.
    for row in rows {
        let prose: String = row.split('`').step_by(2).collect();
        let bare = prose.replace(r"\_", "").replace(r"\*", "").replace("<br>", "");
        assert!(!bare.contains(['_', '*', '<']), "{row}");
    }
    assert!(printed.contains(r"| a\_\_b\_\_ |"), "{printed}");
}

#[test]
fn text_report_tells_each_verdict_with_its_setting_and_test() {
    let dir = with("");
    let printed = run(dir.path(), ["policy", "report"]).exited(0);
    for (id, level) in REQUIREMENTS {
        assert!(
            printed.contains(&format!("\n{id} (level {level})  ")),
            "{id} in {printed}"
        );
    }
    for line in [
        "    met: Enforced at every check. Whether the figures are right: 7.1.1.",
        "        idle_timeout_secs = 604800",
        "        reauthenticate_within_secs is off",
        "    shown by self_plane::ending_another_session_can_demand_a_recent_sign_in",
    ] {
        assert!(
            printed.lines().any(|printed| printed == line),
            "{line} in {printed}"
        );
    }
    assert!(!printed.contains("[default]"), "one app needs no name: {printed}");
    assert_eq!(names_in(dir.path()), ["c.toml"], "nothing is made");
}

#[test]
fn wrong_configuration_is_told_and_nothing_is_reported() {
    for config in [
        "[apps.\"a|b`\\n<img>\"]\n",
        "[tiers]\n\"| x |\" = 1\n",
        "[apps.default]\nidle_timeout_secs = 0\n",
    ] {
        let finished = print(config, "markdown");
        assert_eq!(finished.stdout, "", "{config}");
        finished.failed(2, &["c.toml:"]);
    }
}

// What it claims and no other test shows.

#[tokio::test]
async fn every_token_is_another_and_random_in_every_bit() {
    const TOKENS: usize = 512;
    let server = TestServer::start().await;
    let mut secrets = BTreeSet::new();
    let mut ones = [0_usize; 256];
    for _ in 0..TOKENS {
        let token = server.create(json!({})).await.token;
        let bytes = URL_SAFE_NO_PAD.decode(&token[4..]).expect("base64");
        let secret = &bytes[16..];
        for (bit, ones) in ones.iter_mut().enumerate() {
            *ones += usize::from(secret[bit / 8] >> (bit % 8) & 1);
        }
        secrets.insert(secret.to_vec());
    }
    assert_eq!(secrets.len(), TOKENS);
    // Half of them, give or take nine standard deviations: a bit that is fixed or leans is found, chance is not.
    let range = TOKENS / 2 - 102..=TOKENS / 2 + 102;
    assert!(ones.iter().all(|ones| range.contains(ones)), "{ones:?}");
}
