//! The configuration in force, as a file.

use std::fmt::Display;

use super::read::UNLIMITED;
use super::{AppConfig, Config, WebhookConfig, texts};
use crate::user::SESSIONS_PER_USER_MAX;

impl Config {
    /// The configuration as a file that says the same: read back, it is equal to this one, but for what is left out as
    /// it may be a secret: a user and password in a `sign_in_url`, what follows the path in the URLs of webhooks, and
    /// their secrets.
    pub fn to_toml(&self) -> String {
        let mut text = Printer(String::new());
        text.section("server");
        text.key("listen", quoted(self.server.listen));
        let tls = self.server.tls.as_ref();
        text.optional_key(
            "tls_certificate",
            tls.map(|tls| quoted(tls.certificate.display())),
        );
        text.optional_key("tls_key", tls.map(|tls| quoted(tls.key.display())));
        text.key("base_path", quoted(&self.server.base_path));
        text.key("public_origins", list(&self.server.public_origins));
        text.key("trusted_proxies", list(&self.server.trusted_proxies));
        text.key("workers", self.server.workers);
        text.key("shutdown_grace_secs", self.server.shutdown_grace_secs);
        text.optional_key(
            "key_file",
            self.server.key_file.as_ref().map(|path| quoted(path.display())),
        );
        text.section("database");
        text.key("path", quoted(self.database.path.display()));
        text.key("read_pool", self.database.read_pool);
        text.key("queue_len_max", self.database.queue_len_max);
        text.section("backup");
        text.optional_key(
            "folder",
            self.backup.folder.as_ref().map(|path| quoted(path.display())),
        );
        text.key("every_secs", self.backup.every_secs);
        text.key("keep", self.backup.keep);
        text.section("cache");
        text.key("capacity", self.cache.capacity);
        text.key("bytes_max", self.cache.bytes_max);
        text.section("sessions");
        text.key("touch_interval_secs", self.sessions.touch_interval_secs);
        text.key("flush_interval_ms", self.sessions.flush_interval_ms);
        text.key("retention_secs", self.sessions.retention_secs);
        text.key("ip_privacy", quoted(self.sessions.ip_privacy.as_str()));
        text.key("default_tier", quoted(self.tiers.default_tier()));
        text.section("tiers");
        for (tier, limit) in self.tiers.limits() {
            if *limit >= SESSIONS_PER_USER_MAX {
                text.key(tier, quoted(UNLIMITED));
            } else {
                text.key(tier, limit);
            }
        }
        text.section("location");
        text.key("enabled", self.location.enabled);
        text.optional_key(
            "database",
            self.location.database.as_ref().map(|path| quoted(path.display())),
        );
        text.section("ops");
        text.key("allow", list(&self.ops.allow));
        text.section("rate_limits");
        text.key("per_key_per_second", self.rate_limits.per_key_per_second);
        text.key(
            "unauthenticated_per_minute",
            self.rate_limits.unauthenticated_per_minute,
        );
        text.key(
            "wrong_credentials_per_minute",
            self.rate_limits.wrong_credentials_per_minute,
        );
        text.section("webhooks");
        text.key("allow_private", self.webhooks.allow_private);
        for (name, webhook) in &self.webhooks.named {
            text.webhook(name, webhook);
        }
        for (name, app) in &self.apps {
            text.app(name.as_str(), app);
        }
        text.0
    }
}

struct Printer(String);

impl Printer {
    fn section(&mut self, name: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.0.push_str(&format!("{gap}[{name}]\n"));
    }

    fn key(&mut self, key: &str, value: impl Display) {
        self.0.push_str(&format!("{key} = {value}\n"));
    }

    fn optional_key(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.key(key, value);
        }
    }

    fn app(&mut self, name: &str, app: &AppConfig) {
        self.section(&format!("apps.{name}"));
        self.key("hosts", list(&app.hosts));
        let sign_in_url = app.sign_in_url.as_deref().map(texts::without_userinfo);
        self.optional_key("sign_in_url", sign_in_url.map(quoted));
        self.optional_key("preset", app.preset.map(|preset| quoted(preset.as_str())));
        self.key("idle_timeout_secs", app.idle_timeout_secs);
        self.key("absolute_timeout_secs", app.absolute_timeout_secs);
        self.key("remember_idle_timeout_secs", app.remember_idle_timeout_secs);
        self.key(
            "remember_absolute_timeout_secs",
            app.remember_absolute_timeout_secs,
        );
        self.key("on_limit", quoted(app.on_limit.as_str()));
        self.optional_key("reauthenticate_within_secs", app.reauthenticate_within_secs);
        self.optional_key("expiring_notice_secs", app.expiring_notice_secs);
        self.key("renew_grace_secs", app.renew_grace_secs);
        self.key("on_token_reuse", quoted(app.on_token_reuse.as_str()));
        self.key("anonymous", app.anonymous);
        self.key("anonymous_per_hour", app.anonymous_per_hour);
        self.key("anonymous_per_hour_total", app.anonymous_per_hour_total);
        self.key("anonymous_idle_timeout_secs", app.anonymous_idle_timeout_secs);
        self.key("anonymous_max", app.anonymous_max);
        self.key("client_sessions_max", app.client_sessions_max);
        self.section(&format!("apps.{name}.cookie"));
        self.key("profile", quoted(app.cookie.profile.as_str()));
        self.key("name_suffix", quoted(&app.cookie.name_suffix));
        self.optional_key("domain", app.cookie.domain.as_ref().map(quoted));
    }

    fn webhook(&mut self, name: &str, webhook: &WebhookConfig) {
        self.section(&format!("webhooks.{name}"));
        self.key("app", quoted(&webhook.app));
        self.key("url", quoted(webhook.url.without_query()));
        if webhook.url.has_query() {
            self.0.push_str("# query of the url: not shown\n");
        }
        let types: Vec<&str> = webhook.types.iter().map(|kind| kind.as_str()).collect();
        self.key("types", list(&types));
        self.0.push_str("# secret: not shown\n");
    }
}

/// A TOML basic string.
fn quoted(value: impl Display) -> String {
    let mut text = String::from('"');
    for c in value.to_string().chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => text.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

fn list(values: &[impl Display]) -> String {
    let values: Vec<String> = values.iter().map(quoted).collect();
    format!("[{}]", values.join(", "))
}
