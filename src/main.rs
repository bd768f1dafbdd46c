//! The `sessiond` binary: reads the command line and carries it out.

use clap::Parser;
use sessiond::cli::Command;
use sessiond::telemetry;

fn main() -> std::process::ExitCode {
    let command = Command::parse();
    telemetry::start(command.default_log_filter());
    command.run()
}
