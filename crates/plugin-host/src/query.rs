//! Query commands: what a server offers.

use std::{path::PathBuf, process::Stdio, time::Duration};

use silverback_config::settings::PluginServer;
use silverback_log::Level;
use silverback_protocol::dump::{self, Dump, PluginInfo, WireProtocol};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    task::{JoinSet, spawn_blocking},
    time::timeout,
};

use crate::{
    command::{self, Circumstances},
    output, said,
};

/// How long a query command may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// Bytes of output that are read.
const MAX_OUTPUT: u64 = 16 * 1024 * 1024;

/// Complaints of a server that are kept.
const MAX_COMPLAINTS: usize = 10;

/// What a server's query command said.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Name of the server.
    pub server: String,
    pub protocol: WireProtocol,
    /// The socket that the server will listen on, if it says so.
    pub socket: Option<PathBuf>,
    pub plugins: Vec<PluginInfo>,
    /// Warnings and errors that it printed: kong-js-pluginserver tells there of plugins that it leaves out.
    pub complaints: Vec<String>,
}

/// Why it is not known what a server offers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("plugin server {server}: its query command could not be run: {reason}")]
    NotRun { server: String, reason: String },
    #[error("plugin server {server}: its query command did not end within {} s: {command}", DEADLINE.as_secs())]
    Deadline { server: String, command: String },
    #[error("plugin server {server}: nothing is known of its plugins: {reason} ({status}): {command}{}", after(.stderr))]
    Unreadable { server: String, reason: Box<dump::Error>, status: String, command: String, stderr: String },
    #[error("plugin server {server}: {count} of its plugins could not be loaded{}", after(.stderr))]
    NotLoaded { server: String, count: usize, stderr: String },
}

impl QueryError {
    /// The message without the name of the server before it, for those who call it otherwise.
    pub fn what(&self) -> String {
        let server = match self {
            Self::NotRun { server, .. }
            | Self::Deadline { server, .. }
            | Self::Unreadable { server, .. }
            | Self::NotLoaded { server, .. } => server,
        };
        let text = self.to_string();
        text.strip_prefix(&format!("plugin server {server}: ")).unwrap_or(&text).to_owned()
    }
}

fn after(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; it said: {stderr}") }
}

/// Runs the query commands of those servers of which there is no offer in `known` yet, at the same time, each for 60 s at
/// most. Answers come in the order of the servers, one for each.
pub async fn query(servers: &[PluginServer], main_env: &[String], known: Vec<Offer>) -> Vec<Result<Offer, QueryError>> {
    let mut answers: Vec<Option<Result<Offer, QueryError>>> = servers.iter().map(|_| None).collect();
    for offer in known {
        let place = servers.iter().position(|server| server.name == offer.server);
        if let Some(place) = place.and_then(|place| answers.get_mut(place)) {
            *place = Some(Ok(offer));
        }
    }
    let mut running = JoinSet::new();
    for (index, (server, _)) in servers.iter().zip(&answers).enumerate().filter(|(_, (_, answer))| answer.is_none()) {
        let (server, main_env) = (server.clone(), main_env.to_vec());
        running.spawn(async move { (index, ask(&server, &main_env).await) });
    }
    while let Some(answer) = running.join_next().await {
        if let Ok((index, answer)) = answer
            && let Some(place) = answers.get_mut(index)
        {
            *place = Some(answer);
        }
    }
    let lost = |server: &PluginServer| {
        // its task panicked, which nothing in it should
        Err(QueryError::NotRun { server: server.name.clone(), reason: "it was lost".to_owned() })
    };
    answers.into_iter().zip(servers).map(|(answer, server)| answer.unwrap_or_else(|| lost(server))).collect()
}

async fn ask(server: &PluginServer, main_env: &[String]) -> Result<Offer, QueryError> {
    let not_run = |error: std::io::Error| QueryError::NotRun { server: server.name.clone(), reason: error.to_string() };
    let policy = server.process.clone();
    let circumstances = spawn_blocking(move || Circumstances::of(&policy)).await;
    let circumstances = circumstances.map_err(|error| not_run(std::io::Error::other(error)))?;
    let mut command = command::shell(&server.query_cmd, main_env);
    circumstances.map_err(|error| not_run(std::io::Error::other(error)))?.apply(&mut command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(not_run)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async { tokio::join!(read(stdout), read(stderr), child.wait()) };
    let (stdout, stderr, status) = timeout(DEADLINE, work)
        .await
        .map_err(|_| QueryError::Deadline { server: server.name.clone(), command: server.query_cmd.clone() })?;
    let status = status.map_err(not_run)?;
    let mut said = said::lines(&stderr);
    let tail = |said: &[String]| said.get(said.len().saturating_sub(10)..).unwrap_or_default().join(" | ");
    let parsed = Dump::parse(&stdout);
    // without any JSON the error quotes what was printed
    if !matches!(parsed, Err(dump::Error::NoJson { .. } | dump::Error::Empty)) {
        said.extend(said::lines(dump::preamble(&stdout)));
    }
    let dump = parsed.map_err(|error| QueryError::Unreadable {
        server: server.name.clone(),
        reason: Box::new(error),
        status: status.to_string(),
        command: server.query_cmd.clone(),
        stderr: tail(&said),
    })?;
    if dump.failed > 0 {
        return Err(QueryError::NotLoaded { server: server.name.clone(), count: dump.failed, stderr: tail(&said) });
    }
    let mut complaints = Vec::new();
    for line in said {
        let level = output::level(&line).unwrap_or(Level::Notice);
        silverback_log::write(level, format_args!("[{} query] {line}", server.name), None);
        if level >= Level::Warn && complaints.len() < MAX_COMPLAINTS {
            complaints.push(line);
        }
    }
    if dump.socket.as_ref().is_some_and(|socket| *socket != server.socket) {
        // a server without a flag for its socket's name says where it will listen with the default prefix
        silverback_log::write(
            Level::Debug,
            format_args!(
                "plugin server {} says that it listens on {}, the configuration says {}",
                server.name,
                dump.socket.as_deref().unwrap_or(&server.socket).display(),
                server.socket.display()
            ),
            None,
        );
    }
    Ok(Offer {
        server: server.name.clone(),
        protocol: dump.protocol,
        socket: dump.socket,
        plugins: dump.plugins,
        complaints,
    })
}

/// Reads a pipe to its end; what is over the limit is thrown away.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let Some(mut pipe) = pipe else { return bytes };
    // an error ends the output as its end does; what was read is judged by the parser
    let _ = (&mut pipe).take(MAX_OUTPUT).read_to_end(&mut bytes).await;
    let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    bytes
}
