//! What the configuration in force means for a standard: OWASP ASVS 5.0.0, all of its chapter V7 (sessions), and of V3 what
//! it asks of cookies.
//!
//! A configuration goes in, verdicts come out; nothing is opened or asked. A requirement is *met* only where sessiond alone
//! decides: no call that an application forgets undoes it. Else it is *up to the application*, and a sentence says what
//! that has to do. What is met names tests of this project that show it, and a test looks whether they are there.
//!
//! What a requirement asks is said in our own words, which are shorter than the standard's: read those before claiming
//! anything (<https://github.com/OWASP/ASVS/tree/v5.0.0_release/5.0/en>, `0x12-V3` and `0x16-V7`).
//!
//! Deliberately absent: a verdict on what the standard leaves to a risk analysis. It asks for *some* idle timeout; whether seven
//! days are right for an application, nobody can tell who does not know it.

use serde_json::{Value, json};

use crate::config::{AppConfig, Config, CookieProfile, Preset};
use crate::session::AppName;

/// The standard and its version.
pub const STANDARD: &str = "OWASP ASVS 5.0.0";

/// How it stands with a requirement, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// sessiond does it, whatever the application does.
    Met,
    /// The application has to do something for it.
    Application,
    /// It is not done with this configuration.
    NotMet,
}

/// A requirement, and how it stands with it.
#[derive(Debug)]
pub struct Requirement {
    /// Its number in the standard.
    pub id: &'static str,
    /// The lowest level of the standard that asks for it, 1 to 3.
    pub level: u8,
    /// What it asks, in our words.
    pub asks: &'static str,
    /// The tests that show what sessiond does for it, as `module::name`.
    pub tests: &'static [&'static str],
    /// One for all apps, or one for each group of apps that it stands differently with.
    pub findings: Vec<Finding>,
}

impl Requirement {
    /// The worst of its verdicts.
    pub fn verdict(&self) -> Verdict {
        let verdicts = self.findings.iter().map(|finding| finding.judgement.verdict);
        verdicts.max().unwrap_or(Verdict::NotMet)
    }
}

/// How it stands with some apps.
#[derive(Debug)]
pub struct Finding {
    /// Which.
    pub apps: Vec<AppName>,
    /// How.
    pub judgement: Judgement,
}

/// A verdict and what it follows from.
#[derive(Debug, PartialEq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// The settings that it follows from, as in force; none where it is the same with all.
    pub settings: Vec<(&'static str, Value)>,
    /// Why, or what is to be done.
    pub why: String,
}

/// Every requirement, in the order of their numbers, and how it stands with it.
pub fn report(config: &Config) -> Vec<Requirement> {
    let judged = |rule: &Rule| {
        let mut findings: Vec<Finding> = Vec::new();
        for (name, app) in &config.apps {
            let judgement = (rule.judge)(config, app);
            match findings.iter_mut().find(|known| known.judgement == judgement) {
                Some(known) => known.apps.push(name.clone()),
                None => findings.push(Finding {
                    apps: vec![name.clone()],
                    judgement,
                }),
            }
        }
        Requirement {
            id: rule.id,
            level: rule.level,
            asks: rule.asks,
            tests: rule.tests,
            findings,
        }
    };
    RULES.iter().map(judged).collect()
}

struct Rule {
    id: &'static str,
    level: u8,
    asks: &'static str,
    tests: &'static [&'static str],
    judge: fn(&Config, &AppConfig) -> Judgement,
}

const RULES: &[Rule] = &[
    Rule {
        id: "3.3.1",
        level: 1,
        asks: "Cookies are Secure, and their names begin with __Host- or __Secure-.",
        tests: &[
            "cookies_and_csrf::set_cookie_follows_profile_and_suffix",
            "cli::loopback_cookie_is_refused_by_serve",
        ],
        judge: |_, app| match app.cookie.profile {
            CookieProfile::Host | CookieProfile::Shared => met(cookie(app), "Both follow from the profile."),
            CookieProfile::Loopback => not_met(cookie(app), LOOPBACK),
        },
    },
    Rule {
        id: "3.3.2",
        level: 2,
        asks: "SameSite is set as the purpose of the cookie wants it.",
        tests: &[
            "cookies_and_csrf::set_cookie_follows_profile_and_suffix",
            "cookies_and_csrf::unsafe_request_by_cookie_from_another_site_is_refused_and_changes_nothing",
        ],
        judge: |_, _| {
            met(
                vec![],
                "SameSite=Lax, so that links from elsewhere find the person signed in; what changes something by cookie \
                 must also come from the same origin. The application's own forms need a defence of their own.",
            )
        },
    },
    Rule {
        id: "3.3.3",
        level: 2,
        asks: "Names begin with __Host-, unless the cookie is meant to be shared among hosts.",
        tests: &["cookies_and_csrf::set_cookie_follows_profile_and_suffix"],
        judge: |_, app| match app.cookie.profile {
            CookieProfile::Host => met(cookie(app), "One host has it, and no other can set it."),
            CookieProfile::Shared => met(
                cookie(app),
                "It is shared because the profile says so: every host below the domain receives it and can set one.",
            ),
            CookieProfile::Loopback => not_met(cookie(app), LOOPBACK),
        },
    },
    Rule {
        id: "3.3.4",
        level: 2,
        asks: "Scripts cannot read the cookie (HttpOnly), and its value comes by Set-Cookie alone.",
        tests: &[
            "cookies_and_csrf::set_cookie_follows_profile_and_suffix",
            "tokens::renewal_by_cookie_sets_one_cookie_for_what_is_left_of_the_session",
        ],
        judge: |_, _| {
            not_met(
                vec![],
                "HttpOnly is always set. But the answer to a renewal by cookie has the new token in its body as well, for \
                 scripts of that origin to read: let the backend renew, and have the proxy keep browsers from \
                 /v1/session/renew.",
            )
        },
    },
    Rule {
        id: "3.3.5",
        level: 3,
        asks: "Name and value of a cookie have 4096 bytes together at most.",
        tests: &["cookies_and_csrf::set_cookie_follows_profile_and_suffix"],
        judge: |_, _| met(vec![], "Less than 128, as the cookie is a token and never data."),
    },
    Rule {
        id: "7.1.1",
        level: 2,
        asks: "It is written down how long a session may rest and live, and why, where NIST SP 800-63B says otherwise.",
        tests: &["creating::each_app_has_its_own_policy"],
        judge: |_, app| {
            let levels = match level_kept(app) {
                Some(level) => format!("keep to {} of NIST SP 800-63B-4", level.as_str().to_uppercase()),
                None => {
                    "are longer than NIST SP 800-63B-4 has them even for AAL1 (30 days), which wants a reason"
                        .to_owned()
                }
            };
            let why =
                format!("Keep these figures with your documents, and why they are right. They {levels}.");
            let mut settings = timeouts(app);
            settings.insert(0, ("preset", json!(app.preset.map(Preset::as_str))));
            application(settings, &why)
        },
    },
    Rule {
        id: "7.1.2",
        level: 2,
        asks: "It is written down how many sessions an account may have at once, and what happens at that number.",
        tests: &[
            "creating::parallel_creates_never_leave_more_than_the_maximum",
            "creating::at_the_limit_the_oldest_sign_in_is_evicted_before_the_created_event",
            "limits_denied::sign_in_at_the_limit_is_denied_with_the_sessions_and_changes_nothing",
        ],
        judge: |config, app| {
            let settings = vec![
                ("sessions.default_tier", json!(config.tiers.default_tier())),
                ("tiers", json!(config.tiers.limits())),
                ("on_limit", json!(app.on_limit.as_str())),
            ];
            application(
                settings,
                "Keep these figures with your documents, and which users get which tier or a maximum of their own. They are \
                 enforced.",
            )
        },
    },
    Rule {
        id: "7.1.3",
        level: 2,
        asks: "Where people sign in elsewhere (single sign-on), it is written down how both sessions live and end together.",
        tests: &[],
        judge: |_, _| {
            application(
                vec![],
                "sessiond knows of no identity provider: write down whom you trust, and what ends when something ends there.",
            )
        },
    },
    Rule {
        id: "7.2.1",
        level: 1,
        asks: "Tokens are judged by a trusted service behind the application.",
        tests: &[
            "checking::refused_tokens_look_like_an_unknown_id",
            "checking::backend_hears_the_same_of_every_refused_token",
        ],
        judge: |_, _| {
            met(
                vec![],
                "A token says nothing by itself: only this server can judge it.",
            )
        },
    },
    Rule {
        id: "7.2.2",
        level: 1,
        asks: "Tokens are made for their session; no fixed key stands for one.",
        tests: &[
            "policy::every_token_is_another_and_random_in_every_bit",
            "checking::refused_tokens_look_like_an_unknown_id",
            "checking::session_token_is_no_api_key",
        ],
        judge: |_, _| met(vec![], "API keys are for backends, and no session's token."),
    },
    Rule {
        id: "7.2.3",
        level: 1,
        asks: "Tokens are unique, come from a secure generator and have 128 random bits at least.",
        tests: &[
            "policy::every_token_is_another_and_random_in_every_bit",
            "house::crates_and_the_time_are_named_only_where_they_belong",
        ],
        judge: |_, _| {
            met(
                vec![],
                "256 bits of the operating system's generator. What follows from a renewal, or is made for an \
                 Idempotency-Key, is HMAC-SHA256 under such bits.",
            )
        },
    },
    Rule {
        id: "7.2.4",
        level: 1,
        asks: "A sign-in, also a repeated one, gives a new token and kills the one before it.",
        tests: &[
            "tokens::tokens_of_before_a_sign_in_are_refused_and_nothing_suspicious",
            "token_races::token_of_before_a_sign_in_is_refused_from_the_cache_too",
        ],
        judge: |_, _| {
            application(
                vec![],
                "Sign people in with the call authenticate, which does both at once, visitors too. Where a sign-in starts \
                 another session, name the one before it in end_ids.",
            )
        },
    },
    Rule {
        id: "7.3.1",
        level: 2,
        asks: "A session that rests for long ends, so that its user has to sign in again.",
        tests: &[
            "checking::each_use_moves_the_idle_deadline_and_none_the_absolute_one",
            "checking::at_exactly_its_deadline_a_session_is_over_for_everybody",
        ],
        judge: |_, app| {
            let acts = [app.timeouts(), app.remember_timeouts()]
                .iter()
                .all(|timeouts| timeouts.idle_millis < timeouts.absolute_millis);
            if acts {
                met(
                    timeouts(app),
                    "Enforced at every check. Whether the figures are right: 7.1.1.",
                )
            } else {
                not_met(
                    timeouts(app),
                    "A pause as long as the longest life ends nothing: make it shorter, also for those who are remembered.",
                )
            }
        },
    },
    Rule {
        id: "7.3.2",
        level: 2,
        asks: "A session ends some time after the sign-in, however much it is used.",
        tests: &[
            "checking::each_use_moves_the_idle_deadline_and_none_the_absolute_one",
            "creating::timeouts_may_shorten_the_policy_and_are_cut_to_it",
        ],
        judge: |_, app| {
            met(
                timeouts(app),
                "Enforced at every check, 400 days at most. Whether the figures are right: 7.1.1.",
            )
        },
    },
    Rule {
        id: "7.4.1",
        level: 1,
        asks: "A session that was ended, or ran out, is of no use any more.",
        tests: &[
            "ending::signed_out_session_is_gone_for_check_list_and_limit_at_once",
            "races::reader_held_up_while_its_session_is_revoked_caches_nothing_and_is_refused",
            "checking::at_exactly_its_deadline_a_session_is_over_for_everybody",
            "crash::acknowledged_changes_survive_kill_9_under_load",
        ],
        judge: |_, _| {
            met(
                vec![],
                "No check that begins after the answer accepts it. An application that remembers the answers of checks adds \
                 that time.",
            )
        },
    },
    Rule {
        id: "7.4.2",
        level: 1,
        asks: "All sessions of an account end when it is disabled or deleted.",
        tests: &[
            "ending::blocking_ends_all_sessions_and_tells_once",
            "creating::blocked_user_gets_no_session_and_nothing_is_stored",
            "privacy::nothing_of_an_erased_user_is_in_any_file_and_all_of_others_is",
        ],
        judge: |_, _| {
            application(
                vec![],
                "Block the user then (is_blocked): it ends all sessions and refuses new ones in the same transaction. \
                 sessiond users erase ends them too, before it deletes them.",
            )
        },
    },
    Rule {
        id: "7.4.3",
        level: 2,
        asks: "Who changed or removed a password or another factor can end all their other sessions.",
        tests: &[
            "ending::changed_credentials_end_all_or_all_but_one",
            "creating::sign_in_verified_before_the_credentials_changed_is_refused",
        ],
        judge: |_, _| {
            application(
                vec![],
                "Offer it, and end them with reason=credentials_changed and except=: sign-ins that were verified before are \
                 refused from then on.",
            )
        },
    },
    Rule {
        id: "7.4.4",
        level: 2,
        asks: "Every page behind the sign-in has a way to sign out in plain sight.",
        tests: &["browser::person_signs_out"],
        judge: |_, _| application(vec![], "Put it on your pages; the dashboard has it."),
    },
    Rule {
        id: "7.4.5",
        level: 2,
        asks: "Administrators can end the sessions of one user, and of all.",
        tests: &[
            "cli::sessions_are_listed_and_revoked_with_and_without_a_server",
            "ending::everybody_in_the_app_is_ended_in_bounded_batches",
        ],
        judge: |_, _| {
            met(
                vec![],
                "One user's: sessiond sessions revoke --user. All of an app: DELETE /v1/sessions, with an API key or at the \
                 operator socket.",
            )
        },
    },
    Rule {
        id: "7.5.1",
        level: 2,
        asks: "Changing what sign-ins depend on (address, number, factors) demands a new sign-in.",
        tests: &["checking::max_auth_age_demands_a_recent_sign_in"],
        judge: |_, _| {
            application(
                vec![],
                "Check with max_auth_age_secs before such a change, and send people to sign in when it is refused.",
            )
        },
    },
    Rule {
        id: "7.5.2",
        level: 2,
        asks: "People see their sessions and, having signed in anew, end any of them.",
        tests: &[
            "self_plane::own_list_has_the_current_session_and_the_others_newest_first",
            "self_plane::ending_another_session_can_demand_a_recent_sign_in",
            "browser::ending_that_demands_a_recent_sign_in_says_so_beside_the_card",
        ],
        judge: |_, app| {
            let settings = vec![(
                "reauthenticate_within_secs",
                json!(app.reauthenticate_within_secs),
            )];
            let shortest_life = app.absolute_timeout_secs.min(app.remember_absolute_timeout_secs);
            match app.reauthenticate_within_secs {
                None => not_met(
                    settings,
                    "They see and end them, but by any sign-in: set it to some minutes.",
                ),
                Some(secs) if secs >= shortest_life => not_met(
                    settings,
                    "It is as long as a session may live, so that it asks nobody to sign in anew: set it to some minutes.",
                ),
                Some(_) => met(
                    settings,
                    "A sign-in of so many seconds ago counts as a new one. The session that asks, too, is ended without.",
                ),
            }
        },
    },
    Rule {
        id: "7.5.3",
        level: 3,
        asks: "What is very sensitive demands a further factor or a second confirmation.",
        tests: &[
            "checking::max_auth_age_demands_a_recent_sign_in",
            "checking::every_demanded_tag_must_be_there",
        ],
        judge: |_, _| {
            application(
                vec![],
                "Check with max_auth_age_secs, or with a tag that only a sign-in with that factor gives.",
            )
        },
    },
    Rule {
        id: "7.6.1",
        level: 2,
        asks: "Sessions here and at the identity provider live and end as written down; too old a sign-in there is repeated.",
        tests: &[
            "checking::max_auth_age_demands_a_recent_sign_in",
            "creating::timeouts_may_shorten_the_policy_and_are_cut_to_it",
        ],
        judge: |_, _| {
            application(
                vec![],
                "Give the provider's time as authenticated_at and its deadline as absolute_timeout_secs, and end the session \
                 when the provider says so.",
            )
        },
    },
    Rule {
        id: "7.6.2",
        level: 2,
        asks: "No session starts without the consent or a deed of the person.",
        tests: &[
            "visitors::nothing_but_a_visit_makes_a_session_or_sets_a_cookie",
            "visitors::visit_that_another_site_makes_is_refused_with_and_without_a_cookie",
        ],
        judge: |_, app| {
            let why = if app.anonymous {
                "Sign people in only after something that they did. Sessions that visitors start by themselves are nobody's."
            } else {
                "Sign people in only after something that they did. sessiond starts no session by itself."
            };
            application(vec![("anonymous", json!(app.anonymous))], why)
        },
    },
];

const LOOPBACK: &str = "It travels without HTTPS; `sessiond serve` refuses this profile.";

fn met(settings: Vec<(&'static str, Value)>, why: &str) -> Judgement {
    judgement(Verdict::Met, settings, why)
}

fn application(settings: Vec<(&'static str, Value)>, why: &str) -> Judgement {
    judgement(Verdict::Application, settings, why)
}

fn not_met(settings: Vec<(&'static str, Value)>, why: &str) -> Judgement {
    judgement(Verdict::NotMet, settings, why)
}

fn judgement(verdict: Verdict, settings: Vec<(&'static str, Value)>, why: &str) -> Judgement {
    Judgement {
        verdict,
        settings,
        why: why.to_owned(),
    }
}

fn cookie(app: &AppConfig) -> Vec<(&'static str, Value)> {
    let mut settings = vec![("cookie.profile", json!(app.cookie.profile.as_str()))];
    settings.extend(
        app.cookie
            .domain
            .as_ref()
            .map(|domain| ("cookie.domain", json!(domain))),
    );
    settings
}

fn timeouts(app: &AppConfig) -> Vec<(&'static str, Value)> {
    vec![
        ("idle_timeout_secs", json!(app.idle_timeout_secs)),
        ("absolute_timeout_secs", json!(app.absolute_timeout_secs)),
        (
            "remember_idle_timeout_secs",
            json!(app.remember_idle_timeout_secs),
        ),
        (
            "remember_absolute_timeout_secs",
            json!(app.remember_absolute_timeout_secs),
        ),
    ]
}

/// The strongest assurance level of NIST SP 800-63B-4 whose figures no timeout exceeds, whether it was asked for or not.
fn level_kept(app: &AppConfig) -> Option<Preset> {
    let idle = app.idle_timeout_secs.max(app.remember_idle_timeout_secs);
    let absolute = app.absolute_timeout_secs.max(app.remember_absolute_timeout_secs);
    Preset::ALL
        .into_iter()
        .rfind(|level| idle <= level.idle_timeout_secs() && absolute <= level.absolute_timeout_secs())
}
