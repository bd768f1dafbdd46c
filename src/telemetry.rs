//! The log: one line per thing worth knowing, each readable alone, on stderr. `RUST_LOG` filters it.

use std::io::Write;

/// Starts the log; to be called once, by the binary.
pub fn start(default_filter: &str) {
    let environment = env_logger::Env::default().default_filter_or(default_filter);
    env_logger::Builder::from_env(environment)
        .format(|out, record| {
            let style = out.default_level_style(record.level());
            let level = record.level();
            writeln!(
                out,
                "{} {style}{level:<5}{style:#} {}",
                out.timestamp_millis(),
                record.args()
            )
        })
        .init();
}
