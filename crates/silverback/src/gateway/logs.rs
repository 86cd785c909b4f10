//! The error log of a running gateway: where it goes, and what is written to it from here.

use std::{io, panic};

use silverback_config::{
    Settings,
    settings::{ErrorLogFormat, LogLevel, LogTarget},
};
use silverback_log::{Format, Level, Target};

/// Opens the error logs, or others than before.
pub(super) fn direct(settings: &Settings) -> io::Result<()> {
    let target = |target: &LogTarget| match target {
        LogTarget::Off => Target::Off,
        LogTarget::File(path) => Target::File(path.clone()),
        LogTarget::Stdout => Target::Stdout,
        LogTarget::Stderr => Target::Stderr,
    };
    let level = match settings.log_level {
        LogLevel::Debug => Level::Debug,
        LogLevel::Info => Level::Info,
        LogLevel::Notice => Level::Notice,
        LogLevel::Warn => Level::Warn,
        LogLevel::Error => Level::Error,
        LogLevel::Crit => Level::Crit,
        LogLevel::Alert => Level::Alert,
        LogLevel::Emerg => Level::Emerg,
    };
    silverback_log::init(&target(&settings.logs.proxy_error), level)?;
    if !settings.stream_listen.is_empty() {
        silverback_log::init_streams(&target(&settings.logs.stream_error))?;
    }
    silverback_log::set_format(match settings.logs.error_format {
        ErrorLogFormat::Nginx => Format::Nginx,
        ErrorLogFormat::Json => Format::Json,
    });
    Ok(())
}

pub(super) fn go_to_stderr(settings: &Settings) -> bool {
    settings.logs.proxy_error == LogTarget::Stderr
}

/// A panic ends a task, not the gateway; the error log tells of it.
pub(super) fn log_panics() {
    panic::set_hook(Box::new(|panic| log(Level::Alert, format_args!("{panic}"))));
}

pub(super) fn log(level: Level, message: std::fmt::Arguments<'_>) {
    silverback_log::write(level, message, None);
}
