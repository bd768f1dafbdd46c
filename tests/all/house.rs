//! The house rules that a reader would otherwise have to check: who imports whom, and what is nowhere to be found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sessiond::config::{Config, Flags};

/// Who may import whom; what is absent is forbidden. A row holds for a module and all below it, and a module may import
/// what all rows of its path say. Its own siblings and children need no row.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    // The domain: pure rules.
    ("clock", &[]),
    ("user", &["clock"]),
    ("session", &["user", "clock"]),
    ("data", &[]),
    ("event", &["session", "user", "clock"]),
    ("error", &["session"]),
    ("metrics", &[]),
    ("address", &[]),
    ("webhook", &["address", "session", "clock"]),
    ("key_file", &["session"]),
    ("config", &["session", "user", "event", "webhook", "address"]),
    ("policy", &["config", "session"]),
    // What the manager is made of. None of these knows another.
    ("locks", &[]),
    ("cache", &["locks", "session", "clock", "metrics"]),
    ("cache_orders", &["session", "clock", "metrics"]),
    ("touch", &["session", "clock"]),
    (
        "store",
        &["session", "user", "data", "event", "error", "clock", "webhook"],
    ),
    ("enrich", &["session", "config", "address"]),
    (
        "observer",
        &["session", "user", "event", "error", "clock", "store"],
    ),
    // It sends what others wait for, makes what the configuration names, and counts.
    ("observer::webhook", &["config", "metrics", "webhook"]),
    (
        "manager",
        &[
            "session", "user", "data", "event", "error", "clock", "config", "cache", "touch", "enrich",
            "store", "metrics", "observer", "address",
        ],
    ),
    ("sweeper", &["manager", "error"]),
    // The contract's types (owners, filters, pages, patches) are in the manager's signatures, so whoever calls it names
    // them. A store itself is named by the server alone: see `IMPLEMENTATIONS`.
    (
        "http",
        &[
            "manager", "session", "user", "data", "event", "error", "clock", "config", "store", "observer",
            "webhook", "metrics",
        ],
    ),
    // The holder of a token is the copy in the cache: a hit copies no session.
    ("http::auth", &["cache"]),
    ("http::session_body", &["cache"]),
    // Moving the clock of `sessiond dev` does the regular work that has come due.
    ("http::dev", &["sweeper"]),
    // It copies the file itself, beside the store that has it open.
    ("backups", &["clock", "config", "metrics", "store::sqlite"]),
    // It looks at the file itself, beside whoever has it open.
    ("cli::check", &["store::sqlite"]),
    ("cli::backup", &["store::sqlite"]),
    ("tls", &["config"]),
    (
        "server",
        &[
            "session",
            "user",
            "event",
            "error",
            "clock",
            "config",
            "key_file",
            "manager",
            "enrich",
            "store",
            "sweeper",
            "tls",
            "backups",
            "http",
            "metrics",
            "observer",
            "webhook",
            "store::sqlite",
        ],
    ),
    (
        "cli",
        &[
            "config", "manager", "server", "tls", "error", "session", "user", "clock",
        ],
    ),
    ("cli::policy", &["policy"]),
    // The sample people live through days: they come and go through the manager, and the regular work is done meanwhile.
    ("cli::dev", &["store", "sweeper"]),
    ("telemetry", &["config"]),
    ("main", &["cli", "config", "server", "telemetry"]),
];

/// Modules that are named only by those whose row names exactly them.
const IMPLEMENTATIONS: &[&str] = &["store::sqlite", "store::memory"];

/// Where a crate may be named, by module; everything below is meant too.
const CRATES_OF: &[(&str, &[&str])] = &[
    ("rusqlite", &["store::sqlite"]),
    ("r2d2", &["store::sqlite"]),
    ("r2d2_sqlite", &["store::sqlite"]),
    ("actix_web", &["http", "server"]),
    ("actix_http", &["server"]),
    ("actix_service", &["server"]),
    ("utoipa", &["http", "event"]),
    ("clap", &["cli", "main"]),
    ("reqwest", &["cli"]),
    ("futures_util", &["http"]),
    ("socket2", &["server"]),
    ("hyper", &["observer::webhook::client", "webhook"]),
    ("hyper_util", &["observer::webhook::client"]),
    ("rustls", &["observer::webhook::client", "tls"]),
    ("actix_tls", &["server"]),
    ("rustix", &["server"]),
    ("toml", &["config"]),
    ("lru", &["cache", "enrich", "http::rate_limits"]),
    // Nothing that is shipped has its locks.
    ("loom", &["cache_orders"]),
    ("governor", &["http::rate_limits"]),
    ("hmac", &["session", "webhook"]),
    ("chacha20poly1305", &["webhook"]),
    ("woothee", &["enrich"]),
    ("maxminddb", &["enrich"]),
    ("env_logger", &["telemetry"]),
    ("prometheus_client", &["metrics"]),
    // Random bytes are the operating system's: no generator of the process's own makes a secret by mistake.
    ("rand", &[]),
    ("fastrand", &[]),
    // The time. An `Instant` only measures how long something took, or has run.
    ("SystemTime", &["clock"]),
    ("Utc", &["clock"]),
    ("Local", &[]),
    ("chrono", &["clock"]),
    (
        "Instant",
        &["clock", "http", "store::sqlite::writer", "observer::webhook"],
    ),
];

/// Pages that say by which test a thing is shown.
const PAGES_THAT_NAME_TESTS: &[&str] = &["docs/OPERATIONS.md", "docs/SECURITY.md"];

// What the files are.

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a folder, but what was built or fetched.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    const NOT_OURS: &[&str] = &["target", ".git", "node_modules", "sessiond-dev"];
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy();
            if path.is_symlink() || NOT_OURS.contains(&name.as_ref()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Every file that is text, by its path from the root.
fn texts() -> impl Iterator<Item = (String, String)> {
    files_in(root()).into_iter().filter_map(|path| {
        let text = std::fs::read_to_string(&path).ok()?;
        let name = path.strip_prefix(root()).expect("it is below");
        Some((name.to_string_lossy().into_owned(), text))
    })
}

/// A file of Rust: its module, and its tokens without comments and texts.
struct Source {
    module: Vec<String>,
    /// All but the parts for tests.
    code: Vec<Token>,
    tests: Vec<Token>,
}

impl Source {
    fn name(&self) -> String {
        self.module.join("::")
    }

    fn is_in(&self, module: &str) -> bool {
        format!("{}::", self.name()).starts_with(&format!("{module}::"))
    }
}

fn sources() -> Vec<Source> {
    let folder = root().join("src");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("text");
        let name = path
            .strip_prefix(&folder)
            .expect("it is below")
            .with_extension("");
        let module = name
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        let (code, tests) = without_tests(tokens(&text));
        Source { module, code, tests }
    };
    let sources: Vec<Source> = files_in(&folder).into_iter().map(read).collect();
    assert!(sources.len() > 30, "the sources are found");
    sources
}

// A reader of Rust that is just good enough for paths.

/// A word, `::`, or any other character that is no space.
type Token = String;

fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\n');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = at(i);
        let is_raw = || {
            let start = if c == 'b' { i + 1 } else { i };
            let quote = (start + 1..).find(|j| at(*j) != '#').filter(|j| at(*j) == '"');
            quote
                .filter(|_| at(start) == 'r')
                .map(|quote| (quote, quote - start - 1))
        };
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            i += 2;
            while i < chars.len() && !(at(i) == '*' && at(i + 1) == '/') {
                i += 1;
            }
            i += 2;
        } else if let Some((quote, hashes)) = is_raw() {
            let is_end = |j: &usize| at(*j) == '"' && (1..=hashes).all(|k| at(j + k) == '#');
            i = (quote + 1..chars.len()).find(is_end).expect("a text ends") + hashes + 1;
        } else if c == '"' {
            i += 1;
            while at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
                assert!(i < chars.len(), "a text ends");
            }
            i += 1;
        } else if c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            // A character; what else begins so is a lifetime.
            i += if at(i + 1) == '\\' { 3 } else { 2 };
            while at(i) != '\'' {
                i += 1;
            }
            i += 1;
        } else if is_word(c) {
            let end = (i..).find(|j| !is_word(at(*j))).expect("a word ends");
            tokens.push(chars[i..end].iter().collect());
            i = end;
        } else if c == ':' && at(i + 1) == ':' {
            tokens.push("::".to_owned());
            i += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            i += 1;
        }
    }
    tokens
}

/// Takes the items under `#[cfg(test)]` out.
fn without_tests(tokens: Vec<Token>) -> (Vec<Token>, Vec<Token>) {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut code, mut tests) = (Vec::new(), Vec::new());
    let mut rest = tokens.as_slice();
    while let Some((token, after)) = rest.split_first() {
        if rest
            .iter()
            .zip(MARK)
            .filter(|(token, mark)| token == mark)
            .count()
            < MARK.len()
        {
            code.push(token.clone());
            rest = after;
            continue;
        }
        let mut depth = 0_usize;
        let mut len = 0;
        for token in rest {
            len += 1;
            match token.as_str() {
                "{" => depth += 1,
                "}" if depth == 1 => break,
                "}" => depth -= 1,
                ";" if depth == 0 => break,
                _ => {}
            }
        }
        tests.extend_from_slice(&rest[..len]);
        rest = &rest[len..];
    }
    (code, tests)
}

/// The paths from the crate's root that a module names, in `use` and elsewhere, also by `super`.
fn crate_paths(module: &[String], tokens: &[Token]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let word = |i: usize| tokens.get(i).map_or("", String::as_str);
    let root_name = if module == ["main"] { "sessiond" } else { "crate" };
    for (i, token) in tokens.iter().enumerate() {
        if word(i + 1) != "::" || (i > 0 && word(i - 1) == "::") {
            continue;
        }
        let (mut base, mut next) = match token.as_str() {
            name if name == root_name => (Vec::new(), i + 2),
            "super" | "self" => (module.to_vec(), i),
            _ => continue,
        };
        while word(next) == "super" || (word(next) == "self" && word(next + 1) == "::") {
            if word(next) == "super" {
                assert!(base.pop().is_some(), "super of the root in {module:?}");
            }
            next += 2;
        }
        read_tree(tokens, next, &base, &mut paths);
    }
    paths
}

/// Reads `a::b`, `a::{b, c::{d, e}}`, `a::*`; answers where it ends.
fn read_tree(tokens: &[Token], start: usize, base: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let word = |i: usize| tokens.get(i).map_or("", String::as_str);
    let mut path = base.to_vec();
    let mut i = start;
    loop {
        if word(i) == "{" {
            i += 1;
            while word(i) != "}" {
                i = read_tree(tokens, i, &path, paths);
                if word(i) == "as" {
                    i += 2;
                }
                if word(i) == "," {
                    i += 1;
                }
            }
            return i + 1;
        }
        path.push(word(i).to_owned());
        i += 1;
        if word(i) != "::" || !word(i + 1).starts_with(|c: char| c.is_alphanumeric() || "_{*".contains(c)) {
            paths.push(path);
            return i;
        }
        i += 1;
    }
}

#[test]
fn paths_are_read_from_every_form_in_which_they_are_written() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("a", "use crate::b;", &["b"]),
        (
            "a",
            "use crate::b::{self, C, d::{E, F as G}, h::*};",
            &["b::self", "b::C", "b::d::E", "b::d::F", "b::h::*"],
        ),
        ("a", "use crate::{b, c::D,};", &["b", "c::D"]),
        (
            "a",
            "fn f(x: &crate::b::C) -> crate::d::E<'_> { crate::f::<u8>() }",
            &["b::C", "d::E", "f"],
        ),
        ("a", "pub(crate) fn f() {} // use crate::b;", &[]),
        (
            "a",
            "/* use crate::b; */ let x = \"crate::c\"; let y = r#\"\"crate::d\"#; let z = '\"'; crate::e::f()",
            &["e::f"],
        ),
        ("a::b", "use super::{c, d::E};", &["a::c", "a::d::E"]),
        ("a::b", "use super::super::c::D;", &["c::D"]),
        ("a", "use super::c;", &["c"]),
        ("a", "use self::b::C;", &["a::b::C"]),
        ("main", "use sessiond::cli::Command;", &["cli::Command"]),
        (
            "a",
            "#[cfg(test)] mod tests { use crate::b; } use crate::c;",
            &["c"],
        ),
        ("a", "#[cfg(test)] use crate::b; use crate::c;", &["c"]),
    ];
    for (module, text, expected) in cases {
        let module: Vec<String> = module.split("::").map(str::to_owned).collect();
        let found: Vec<String> = crate_paths(&module, &without_tests(tokens(text)).0)
            .iter()
            .map(|path| path.join("::"))
            .collect();
        assert_eq!(found, *expected, "{text}");
    }
}

// Who imports whom.

/// Every import across top-level modules: who, and the path.
fn imports() -> Vec<(Source, Vec<Vec<String>>)> {
    let with_imports = |source: Source| {
        let mut paths = crate_paths(&source.module, &source.code);
        paths.retain(|path| path[0] != source.module[0]);
        (source, paths)
    };
    sources()
        .into_iter()
        .filter(|source| source.module != ["lib"])
        .map(with_imports)
        .collect()
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let known: BTreeSet<&str> = MAY_IMPORT.iter().map(|(module, _)| *module).collect();
    let mut wrong = Vec::new();
    for (source, paths) in imports() {
        assert!(
            known.contains(source.module[0].as_str()),
            "{} has no row",
            source.name()
        );
        let allowed: BTreeSet<&str> = MAY_IMPORT
            .iter()
            .filter(|(module, _)| source.is_in(module))
            .flat_map(|(_, allowed)| allowed.iter().copied())
            .collect();
        for path in paths {
            let path = path.join("::");
            let is_of = |module: &&&str| format!("{path}::").starts_with(&format!("{module}::"));
            let is_hidden = IMPLEMENTATIONS
                .iter()
                .find(is_of)
                .is_some_and(|module| !allowed.contains(module));
            if is_hidden || !allowed.iter().any(|module| is_of(&module)) {
                wrong.push(format!("{} imports {path}", source.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn table_allows_nothing_that_nobody_does() {
    let used: BTreeSet<(String, String)> = imports()
        .iter()
        .flat_map(|(source, paths)| {
            let of = |path: &Vec<String>| {
                let prefixes: Vec<_> = (1..=path.len()).map(|len| path[..len].join("::")).collect();
                prefixes.into_iter().map(|prefix| (source.name(), prefix))
            };
            paths.iter().flat_map(of).collect::<Vec<_>>()
        })
        .collect();
    // Exceptions are for what is there. What whole rooms may do is a plan, which may be ahead of the code.
    for (module, allowed) in MAY_IMPORT.iter().filter(|(module, _)| module.contains("::")) {
        for imported in *allowed {
            let is_used = used.contains(&((*module).to_owned(), (*imported).to_owned()));
            assert!(is_used, "{module} need not be allowed {imported}");
        }
    }
}

#[test]
fn modules_import_each_other_without_cycles() {
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (source, paths) in imports() {
        let needed = needs.entry(source.module[0].clone()).or_default();
        needed.extend(paths.into_iter().map(|path| path[0].clone()));
    }
    while !needs.is_empty() {
        let free: Vec<String> = needs
            .iter()
            .filter(|(_, needed)| needed.is_empty())
            .map(|(module, _)| module.clone())
            .collect();
        assert!(!free.is_empty(), "in a cycle, or above one: {needs:?}");
        for module in free {
            needs.remove(&module);
            for needed in needs.values_mut() {
                needed.remove(&module);
            }
        }
    }
}

#[test]
fn crates_and_the_time_are_named_only_where_they_belong() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (name, homes) in CRATES_OF {
            let is_named = source.code.iter().any(|token| token == name);
            if is_named && !homes.iter().any(|home| source.is_in(home)) {
                wrong.push(format!("{} names {name}", source.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// What is nowhere.

/// Whether these tokens follow each other.
fn contains(tokens: &[Token], part: &[&str]) -> bool {
    tokens.windows(part.len()).any(|window| window == part)
}

#[test]
fn nothing_is_left_unfinished_or_unexplained_in_the_code() {
    let nowhere: &[&[&str]] = &[
        &["todo", "!"],
        &["unimplemented", "!"],
        &["dbg", "!"],
        &[".", "unwrap", "(", ")"],
        &["#", "[", "ignore"],
        &["unsafe", "{"],
    ];
    for source in sources() {
        for part in nowhere {
            assert!(
                !contains(&source.code, part),
                "{} has {}",
                source.name(),
                part.concat()
            );
        }
    }
}

#[test]
fn no_test_sleeps_or_is_skipped() {
    let nowhere: &[&[&str]] = &[
        &["sleep", "("],
        &["sleep_until", "("],
        &["interval", "("],
        &["#", "[", "ignore"],
    ];
    let mut all: Vec<(String, Vec<Token>)> = sources()
        .into_iter()
        .map(|source| (source.name(), source.tests))
        .collect();
    let files = files_in(&root().join("tests"));
    for path in files
        .iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "rs"))
    {
        let text = std::fs::read_to_string(path).expect("text");
        all.push((path.display().to_string(), tokens(&text)));
    }
    assert!(
        all.iter().any(|(name, _)| name.ends_with("house.rs")),
        "the tests are found"
    );
    for (name, tokens) in all {
        for part in nowhere {
            assert!(!contains(&tokens, part), "{name} has {}", part.concat());
        }
    }
}

#[test]
fn every_test_file_is_run() {
    let folder = root().join("tests/all");
    for path in files_in(&folder) {
        let name = path.file_stem().expect("a name").to_string_lossy();
        if path.extension().is_none_or(|kind| kind != "rs") || name == "main" {
            continue;
        }
        let parent = path.parent().expect("a folder");
        let declared_in = if parent == folder {
            folder.join("main.rs")
        } else {
            parent.with_extension("rs")
        };
        let text = std::fs::read_to_string(&declared_in).expect("text");
        assert!(
            contains(&tokens(&text), &["mod", &name, ";"]),
            "{name} is not in {}",
            declared_in.display()
        );
    }
}

/// Every test of this binary, as `module::name`.
fn tests_by_name() -> BTreeSet<String> {
    let folder = root().join("tests/all");
    let mut names = BTreeSet::new();
    for path in files_in(&folder) {
        if path.extension().is_none_or(|kind| kind != "rs") {
            continue;
        }
        let module = path
            .strip_prefix(&folder)
            .expect("it is below")
            .with_extension("");
        let module = module.to_string_lossy().replace('/', "::");
        let tokens = tokens(&std::fs::read_to_string(&path).expect("text"));
        let marks: [&[&str]; 2] = [&["#", "[", "test", "]"], &["#", "[", "tokio", "::", "test"]];
        for at in 0..tokens.len() {
            if marks.iter().any(|mark| {
                tokens[at..]
                    .iter()
                    .map(String::as_str)
                    .take(mark.len())
                    .eq(mark.iter().copied())
            }) {
                let name = tokens[at..].iter().skip_while(|token| *token != "fn").nth(1);
                names.insert(format!("{module}::{}", name.expect("a function")));
            }
        }
    }
    names
}

#[test]
fn tests_that_a_page_names_are_there() {
    let tests = tests_by_name();
    assert!(tests.len() > 500, "the tests are found");
    let is_path = |text: &&str| {
        let is_word = |part: &str| {
            part.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        text.contains("::") && text.split("::").all(is_word)
    };
    for page in PAGES_THAT_NAME_TESTS {
        let text = std::fs::read_to_string(root().join(page)).expect("a page");
        let named: Vec<&str> = text.split('`').skip(1).step_by(2).filter(is_path).collect();
        assert!(!named.is_empty(), "{page} names tests");
        let missing: Vec<&&str> = named.iter().filter(|name| !tests.contains(**name)).collect();
        assert!(missing.is_empty(), "{page} names {missing:?}");
    }
}

#[test]
fn tests_that_the_policy_report_names_are_there() {
    let config = Config::load(None, std::iter::empty(), Flags::default()).expect("the defaults are good");
    let tests = tests_by_name();
    let report = sessiond::policy::report(&config);
    let named: Vec<&str> = report.iter().flat_map(|known| known.tests).copied().collect();
    assert!(named.len() > 20, "it names tests");
    let missing: Vec<&&str> = named.iter().filter(|name| !tests.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn pages_load_nothing_from_elsewhere_and_write_no_markup() {
    let nowhere = [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "src=\"http",
        "href=\"http",
        "src=\"//",
        "href=\"//",
        "@import",
        "url(http",
        "from \"http",
        "onclick=",
        "style=\"",
    ];
    let pages = texts().filter(|(name, _)| name.starts_with("static/"));
    let mut count = 0;
    for (name, text) in pages {
        count += 1;
        for part in nowhere {
            assert!(!text.contains(part), "{name} has {part}");
        }
    }
    assert!(count > 10, "the pages are found");
}

#[test]
fn no_file_names_a_registry_s_host_or_a_folder_of_one_machine() {
    // Put together here, so that this file does not name them itself. The lock file has to name the one registry.
    let nowhere = [
        ["registry.", "npmjs"],
        ["registry.", "yarnpkg"],
        ["npm", "mirror"],
        ["static.", "crates.io"],
        ["index.", "crates.io"],
        ["/home", "/"],
        ["/root", "/"],
        ["/work", "/"],
        ["/tmp", "/"],
    ];
    for (name, text) in texts().filter(|(name, _)| name != "Cargo.lock") {
        for part in nowhere.map(|parts| parts.concat()) {
            assert!(!text.contains(&part), "{name} names {part}");
        }
    }
}

#[test]
fn every_dependency_has_its_reason_above_it() {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).expect("text");
    let mut section = "";
    let mut above = "";
    let mut count = 0;
    for line in text.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]") && !line.is_empty() && !line.starts_with('#') {
            count += 1;
            assert!(
                above.starts_with("# ") && above.len() > 10,
                "no reason above {line}"
            );
        }
        above = line;
    }
    assert!(count > 20, "the dependencies are found");
}

#[test]
fn what_people_look_for_first_is_there() {
    let names = [
        "README.md",
        "CHANGELOG.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "docs/ARCHITECTURE.md",
        "docs/API.md",
        "docs/SECURITY.md",
        "docs/STYLE.md",
        "config.toml",
        "schema.sql",
        "deny.toml",
        "test.sh",
    ];
    for name in names {
        let text = std::fs::read_to_string(root().join(name)).unwrap_or_default();
        assert!(text.lines().count() > 3, "{name} is not there or says nothing");
    }
}
