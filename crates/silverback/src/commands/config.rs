//! `config`

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use silverback_config::advice;

use super::warn_of_nginx_flags;
use crate::{
    assemble::{self, AssembleError, Declared},
    cli::Config,
    conf,
    console::Console,
    error::CommandError,
    plugin_dir,
};

const EXAMPLE_FILE: &str = "kong.yml";
const EXAMPLE: &str = include_str!("example.yml");

pub(super) fn run(options: &Config, console: Console) -> Result<(), CommandError> {
    warn_of_nginx_flags(&options.files, console);
    match options.command.replace('-', "_").as_str() {
        "parse" => match &options.file {
            Some(file) => parse(file, options, console),
            None => Err(CommandError::Usage(
                "the 'parse' command needs a <file> argument, a declarative configuration file\n\
                 silverback config parse <file>"
                    .to_owned(),
            )),
        },
        "init" => init(options.file.as_deref().unwrap_or_else(|| Path::new(EXAMPLE_FILE))),
        "db_import" => Err(CommandError::Usage(
            "'config db_import' only works with a database; with database = off, name the file in declarative_config \
             and reload"
                .to_owned(),
        )),
        "db_export" => Err(CommandError::Usage("'config db_export' only works with a database".to_owned())),
        other => Err(CommandError::Usage(format!("No such command for config: {other}"))),
    }
}

/// Checks a file against the plugins that are configured here, whose servers are asked for their schemas.
fn parse(file: &Path, options: &Config, console: Console) -> Result<(), CommandError> {
    let mut settings = conf::load_running(options.files.conf.as_deref(), options.files.prefix.as_deref(), console)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CommandError::io("cannot start the runtime"))?;
    // The prefix is left as it is: it may belong to a gateway that runs.
    let links = tempfile::tempdir().map_err(CommandError::io("cannot make a temporary directory"))?;
    for finding in plugin_dir::include(&mut settings, links.path()) {
        console.warn(finding);
    }
    let found = runtime.block_on(assemble::find_plugins(&settings));
    let failed = |error: AssembleError| CommandError::Declarative(error.to_string());
    let found = found.map_err(failed)?;
    found.warnings.iter().for_each(|warning| console.warn(warning));
    let declared = Declared::read(file).map_err(failed)?;
    let snapshot = assemble::snapshot(Some(&declared), &found, &settings).map_err(failed)?;
    advice(&snapshot, &found.catalogue).iter().for_each(|remark| console.warn(remark));
    console.info("parse successful");
    Ok(())
}

fn init(file: &Path) -> Result<(), CommandError> {
    let path = std::path::absolute(file).unwrap_or_else(|_| PathBuf::from(file));
    let mut out = OpenOptions::new().write(true).create_new(true).open(&path).map_err(|source| {
        if source.kind() == ErrorKind::AlreadyExists {
            CommandError::Usage(format!("{} already exists.\nWill not overwrite it.", path.display()))
        } else {
            CommandError::Io { what: format!("cannot write {}", path.display()), source }
        }
    })?;
    out.write_all(EXAMPLE.as_bytes()).map_err(CommandError::io(format!("cannot write {}", path.display())))
}
