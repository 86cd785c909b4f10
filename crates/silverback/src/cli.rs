//! The command line: Kong's commands and flags.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// An API gateway that runs Kong's external plugins.
#[derive(Debug, Parser)]
#[command(name = "silverback", version, disable_help_subcommand = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Say more.
    #[arg(long = "v", global = true)]
    pub(crate) verbose: bool,

    /// Say more, as --v.
    #[arg(long = "vv", global = true)]
    pub(crate) debug: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the gateway in its prefix directory.
    Start(Start),
    /// Start in the foreground, as a container does; reads KONG_*_FILE variables.
    DockerStart(Start),
    /// Stop a running gateway at once (SIGTERM).
    Stop(Prefix),
    /// Let the requests under way finish, then stop (SIGQUIT, and SIGTERM after the timeout).
    Quit(Quit),
    /// Stop, then start.
    Restart(Start),
    /// Make a running gateway read its configuration again (SIGHUP).
    Reload(Reload),
    /// Tell whether the gateway of a prefix is running.
    Health(Prefix),
    /// Check a configuration file.
    Check(Check),
    /// Look for what would keep the gateway from starting or plugins from working, and tell the cure.
    Doctor(Doctor),
    /// Print the version.
    Version(Version),
    /// Work with declarative configuration files.
    Config(Config),
    /// Prepare the prefix directory without starting.
    Prepare(Files),
    /// Make /status/ready answer 503, so that load balancers look elsewhere.
    Drain(Files),
    /// Read secrets.
    Vault(Vault),
    /// Manage a database (there is none).
    #[command(hide = true)]
    Migrations(Anything),
    /// Manage the nodes of a cluster (there is no hybrid mode).
    #[command(hide = true)]
    Hybrid(Anything),
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Prefix {
    /// The prefix directory the gateway runs in.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) prefix: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Files {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) conf: Option<PathBuf>,

    /// Overrides the prefix directory.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) prefix: Option<PathBuf>,

    /// Accepted for Kong's sake; there is no nginx whose template it could be.
    #[arg(long, value_name = "FILE")]
    pub(crate) nginx_conf: Option<PathBuf>,

    /// Accepted for Kong's sake, like --nginx-conf.
    #[arg(long, value_name = "FLAGS")]
    pub(crate) nginx_conf_flags: Option<String>,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Start {
    #[command(flatten)]
    pub(crate) files: Files,

    /// Accepted for Kong's sake; there is no database.
    #[arg(long)]
    pub(crate) run_migrations: bool,

    /// Accepted for Kong's sake; there is no database.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) db_timeout: Option<f64>,

    /// Accepted for Kong's sake; there is no database.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) lock_timeout: Option<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct Quit {
    #[command(flatten)]
    pub(crate) prefix: Prefix,

    /// Seconds that requests may take before they are cut off.
    #[arg(short, long, value_name = "SECONDS", default_value = "10")]
    pub(crate) timeout: f64,

    /// Seconds to wait before the stop begins.
    #[arg(short, long, value_name = "SECONDS", default_value = "0")]
    pub(crate) wait: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Reload {
    #[command(flatten)]
    pub(crate) files: Files,

    /// Start all plugin servers anew, not only those whose settings or files have changed.
    #[arg(long)]
    pub(crate) plugins: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The configuration file.
    #[arg(value_name = "CONF", default_value = "/etc/kong/kong.conf")]
    pub(crate) conf: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) files: Files,

    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,

    /// Tell what is in order, too.
    #[arg(short = 'v', long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Tell the version of the gateway itself, too.
    #[arg(short, long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Config {
    /// `parse FILE` checks a file, `init [FILE]` writes an example.
    #[arg(value_name = "COMMAND")]
    pub(crate) command: String,

    /// The declarative file.
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) files: Files,
}

#[derive(Debug, Args)]
pub(crate) struct Vault {
    /// `get REFERENCE` prints a secret.
    #[arg(value_name = "COMMAND")]
    pub(crate) command: String,

    /// `{vault://env/name}`, or short: `env/name`.
    #[arg(value_name = "REFERENCE")]
    pub(crate) reference: Option<String>,

    #[command(flatten)]
    pub(crate) files: Files,
}

/// Arguments of a command that always fails.
#[derive(Debug, Args)]
pub(crate) struct Anything {
    #[arg(num_args = 0.., allow_hyphen_values = true, trailing_var_arg = true)]
    pub(crate) arguments: Vec<String>,
}
