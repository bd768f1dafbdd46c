//! The pages and their parts, embedded in the binary: the person's dashboard, the API's page, the sign-in page of `dev`.
//!
//! Pages load nothing from anywhere else and run no inline script or style (CSP below). Their comments and indentation
//! are for those who read the source and are not sent: a page has a budget, and it is not for them to pay from.

use std::sync::LazyLock;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};

use super::problem::Problem;

/// Only what this server serves; no inline script or style, no frame around it, no other base.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; img-src 'self' data:; object-src 'none'; \
     base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'";

macro_rules! assets {
    ($($name:literal $media_type:literal;)+) => {
        /// Every embedded file: name, media type, text.
        const ASSETS: &[(&str, &str, &str)] =
            &[$(($name, $media_type, include_str!(concat!("../../static/", $name))),)+];
    };
}

assets! {
    "actions.js" "text/javascript; charset=utf-8";
    "api.js" "text/javascript; charset=utf-8";
    "app.css" "text/css; charset=utf-8";
    "app.js" "text/javascript; charset=utf-8";
    "card.js" "text/javascript; charset=utf-8";
    "docs-schema.js" "text/javascript; charset=utf-8";
    "docs.css" "text/css; charset=utf-8";
    "docs.html" "text/html; charset=utf-8";
    "docs.js" "text/javascript; charset=utf-8";
    "favicon.svg" "image/svg+xml";
    "format.js" "text/javascript; charset=utf-8";
    "index.html" "text/html; charset=utf-8";
    "list.js" "text/javascript; charset=utf-8";
    "page.js" "text/javascript; charset=utf-8";
    "sentences.js" "text/javascript; charset=utf-8";
    "sign-in.html" "text/html; charset=utf-8";
    "sign-in.js" "text/javascript; charset=utf-8";
}

/// The same as they are sent.
static SENT: LazyLock<Vec<(&str, &str, String)>> = LazyLock::new(|| {
    let sent = |&(name, media_type, text)| (name, media_type, without_comments(text));
    ASSETS.iter().map(sent).collect()
});

/// Leaves out indentation and lines that are a comment; every line keeps its number. Comments at the end of a line stay,
/// as telling them from a text with two slashes takes a parser.
fn without_comments(text: &str) -> String {
    let sent = text.split('\n').map(|line| match line.trim_start_matches('\t') {
        comment if comment.starts_with("//") => "",
        comment if comment.starts_with("/*") && comment.ends_with("*/") => "",
        line => line,
    });
    sent.collect::<Vec<_>>().join("\n")
}

fn page(name: &str) -> Result<HttpResponse, Problem> {
    let (_, media_type, text) = SENT
        .iter()
        .find(|(known, ..)| *known == name)
        .ok_or_else(|| Problem::not_found("page"))?;
    Ok(HttpResponse::Ok()
        .content_type(*media_type)
        .insert_header((header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
        // A page is small, and after an update of the server nobody is to see half of the old one.
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(text.as_str()))
}

/// The dashboard.
pub async fn get_dashboard() -> Result<HttpResponse, Problem> {
    page("index.html")
}

/// The API's page.
pub async fn get_docs() -> Result<HttpResponse, Problem> {
    page("docs.html")
}

/// The sign-in page of `sessiond dev`.
pub async fn get_dev_sign_in() -> Result<HttpResponse, Problem> {
    page("sign-in.html")
}

/// A part of a page.
pub async fn get_asset(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let name = request.match_info().get("name").unwrap_or_default();
    // Whole pages have addresses of their own; served here their relative links would lead nowhere.
    if name.ends_with(".html") {
        return Err(Problem::not_found("page"));
    }
    page(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_in_static_is_embedded() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("static");
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .expect("the folder")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        let embedded: Vec<&str> = ASSETS.iter().map(|(name, ..)| *name).collect();
        assert_eq!(names, embedded);
    }

    #[test]
    fn dashboard_is_small() {
        let others = ["docs", "sign-in"];
        let of_dashboard = SENT
            .iter()
            .filter(|(name, ..)| !name.ends_with(".svg"))
            .filter(|(name, ..)| !others.iter().any(|other| name.starts_with(other)));
        let bytes: usize = of_dashboard.map(|(.., text)| text.len()).sum();
        assert!((10_000..=40 * 1024).contains(&bytes), "{bytes} bytes");
    }

    #[test]
    fn what_is_left_out_is_nothing_but_comments_and_indentation() {
        let text = "// why\n\tif (a) {\n\t\t/** Why. */\n\t\tb(); // c\n\t}\n\n/* D */\ne { f: url(//g); }\n";
        assert_eq!(
            without_comments(text),
            "\nif (a) {\n\nb(); // c\n}\n\n\ne { f: url(//g); }\n"
        );
        // In a text of several lines a tab, or two slashes, would be part of the text.
        for (name, _, text) in ASSETS {
            for (number, line) in (1..).zip(text.lines()) {
                let quotes = line.replace("[^`]", "").matches('`').count();
                assert!(quotes.is_multiple_of(2), "{name}:{number}: {line}");
                let begins = line.trim_start().starts_with("/*");
                assert!(!begins || line.ends_with("*/"), "{name}:{number}: {line}");
            }
        }
    }
}
